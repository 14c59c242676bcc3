#ifndef EIGEN_PARDISOSUPPORT_MODULE_H
#error "Please include Eigen/PardisoSupport instead of including headers inside the src directory directly."
#endif
