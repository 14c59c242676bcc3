#include "cuda/copy.h"

namespace raphson::cuda {
namespace {

constexpr int threads = 256;

// to ← from, any strides; a thread an entry.
template <class T, class U>
__global__ void __launch_bounds__(threads) copy_kernel(const CudaView from, const CudaView to) {
    const int64_t k = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (k >= from.rows * from.columns) return;
    const int64_t i = k / from.columns, j = k % from.columns;
    static_cast<U*>(to.data)[i * to.row_stride + j * to.column_stride] =
        static_cast<U>(static_cast<const T*>(from.data)[i * from.row_stride + j * from.column_stride]);
}

}  // namespace

void copy(const CudaView& from, const CudaView& to, CudaPlace place) {
    const Grid grid{block_count(ceil_div(from.rows * from.columns, threads), "copy"), threads};
    const bool wide_from = from.type == DType::float64, wide_to = to.type == DType::float64;
    const auto kernel = wide_from ? (wide_to ? copy_kernel<double, double> : copy_kernel<double, float>)
                                  : (wide_to ? copy_kernel<float, double> : copy_kernel<float, float>);
    launch("copy", place, grid, kernel, from, to);
}

void read(const CudaView& from, void* to, CudaPlace place) {
    const DeviceGuard guard(place.device);
    Scratch scratch(place);
    const auto bytes = static_cast<std::size_t>(from.rows * from.columns * itemsize(from.type));
    if (bytes == 0) return;
    const void* lies = from.data;
    const bool whole = (from.columns == 1 || from.column_stride == 1) && (from.rows == 1 || from.row_stride == from.columns);
    if (!whole) {
        void* const copied = scratch.take(bytes);
        copy(from, contiguous(copied, from.type, from.rows, from.columns), place);
        lies = copied;
    }
    check(cudaMemcpyAsync(to, lies, bytes, cudaMemcpyDeviceToHost, stream(place)), "copy to the host");
    check(cudaStreamSynchronize(stream(place)), "copy to the host");
}

// Pageable memory has been read when cudaMemcpyAsync returns, unless the device reads it where it is; pinned memory (an array
// that NumPy has from PyTorch may lie there) has not.
void write(const void* from, void* to, std::size_t bytes, CudaPlace place) {
    if (bytes == 0) return;
    const DeviceGuard guard(place.device);
    cudaPointerAttributes attributes{};
    check(cudaPointerGetAttributes(&attributes, from), "copy from the host");
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream(place)), "copy from the host");
    if (attributes.type == cudaMemoryTypeUnregistered && !traits(place.device).reads_host_pages) return;
    check(cudaStreamSynchronize(stream(place)), "copy from the host");
}

}  // namespace raphson::cuda
