#include "cuda/table.h"

#include <cstddef>

#include "cuda/copy.h"
#include "gemm/product.h"
#include "ihvp/device_fisher.h"
#include "ihvp/device_window.h"
#include "newton_schulz/orthogonalize.h"

namespace raphson {
namespace cuda {

int device_count();
void* allocate_result(std::size_t bytes, CudaPlace place);
void release_result(void* memory, CudaPlace place) noexcept;
void order(CudaPlace earlier, CudaPlace later);
void orthogonalize(const OrthogonalizeItem* items, std::size_t count, const OrthogonalizeOptions& options, CudaPlace place);
CudaWindow* make_window(std::int64_t dim, std::int64_t capacity, Damping damping, const WindowOptions& options, CudaPlace place);

void sketch(const CudaEmbedding& s, const CudaMatrix& a, const double* weights, const CudaMatrix& out, CudaPlace place);
void sketch_adjoint(const CudaEmbedding& s, const CudaMatrix& b, const CudaMatrix& out, CudaPlace place);
CudaRows* make_rows(const CudaView& a, CudaPlace place);

const CudaTransportTable& transport_table();
const CudaFunctionTable& function_table();

CudaFisher* make_fisher(const CudaView& grads, double damping, std::int64_t block_size, CudaPlace place);
const CudaRelativesTable& relatives_table();

namespace {

void gram(const void* x, std::int64_t m, std::int64_t k, void* d, CudaPlace place) {
    const DeviceGuard guard(place.device);
    Scratch scratch(place);
    ProductJob job;
    job.type = DType::bfloat16;
    job.m = job.n = m;
    job.k = k;
    job.a = job.b = {x, k, 0};
    job.b_transposed = job.symmetric = true;
    job.d = d;
    job.ldd = m;
    product(job, scratch);
}

}  // namespace
}  // namespace cuda

const CudaTable& cuda_table() {
    static const CudaTable table{cuda_table_version,   cuda::device_count, cuda::allocate_result, cuda::release_result,
                                 cuda::order,          cuda::read,         cuda::write,           cuda::orthogonalize,
                                 cuda::gram,           cuda::sketch,       cuda::sketch_adjoint,  cuda::make_window,
                                 &cuda::transport_table(), &cuda::function_table(), cuda::make_rows,      cuda::make_fisher,
                                 &cuda::relatives_table()};
    return table;
}

}  // namespace raphson
