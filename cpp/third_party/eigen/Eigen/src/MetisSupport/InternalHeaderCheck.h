#ifndef EIGEN_METISSUPPORT_MODULE_H
#error "Please include Eigen/MetisSupport instead of including headers inside the src directory directly."
#endif
