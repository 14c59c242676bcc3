// What _cuda knows of the devices.
#pragma once

namespace raphson::cuda {

// Number of usable CUDA devices; std::runtime_error with the driver's words when there is no working driver.
int device_count();

}  // namespace raphson::cuda
