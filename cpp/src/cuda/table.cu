#include "cuda/table.h"

#include <cstddef>

#include "ihvp/device_window.h"
#include "newton_schulz/orthogonalize.h"

namespace raphson {
namespace cuda {

int device_count();
void* allocate_result(std::size_t bytes, CudaPlace place);
void release_result(void* memory, CudaPlace place);
void order(CudaPlace earlier, CudaPlace later);
void orthogonalize(const OrthogonalizeItem* items, std::size_t count, const OrthogonalizeOptions& options, CudaPlace place);
CudaWindow* make_window(std::int64_t dim, std::int64_t capacity, Damping damping, const WindowOptions& options, CudaPlace place);

}  // namespace cuda

const CudaTable& cuda_table() {
    static const CudaTable table{cuda_table_version, cuda::device_count,  cuda::allocate_result, cuda::release_result,
                                 cuda::order,        cuda::orthogonalize, cuda::make_window};
    return table;
}

}  // namespace raphson
