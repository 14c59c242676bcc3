#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

#include "device.h"

namespace raphson::cuda {

int device_count() {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaErrorNoDevice) return 0;
    if (error != cudaSuccess) throw std::runtime_error(std::string(cudaGetErrorString(error)));
    return count;
}

}  // namespace raphson::cuda
