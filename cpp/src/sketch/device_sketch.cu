// Embeddings of the API on a CUDA device: which generator, which scale.
#include <cmath>

#include "cuda/copy.h"
#include "sketch/device_passes.h"
#include "sketch/streams.h"

namespace raphson::cuda {
namespace {

DenseRows rows_of(const CudaMatrix& x) { return {x.data, x.type, x.rows, x.cols, x.ld}; }
DenseResult result_of(const CudaMatrix& x) { return {x.data, x.type, x.ld}; }
SignEntries signs_of(const CudaEmbedding& s) { return {s.seed, sparse_sign_stream, s.rows, s.nnz, 0}; }

double scale_of(const CudaEmbedding& s) { return 1 / std::sqrt(static_cast<double>(s.rows)); }
NormalEntries normals_of(const CudaEmbedding& s) { return {s.seed, gaussian_stream, s.rows, 0, scale_of(s)}; }
HadamardEntries hadamard_of(const CudaEmbedding& s, Scratch& scratch) {
    return {s.seed, srht_sign_stream, s.rows, upload(s.picked, s.rows, scratch), scale_of(s)};
}

}  // namespace

void sketch(const CudaEmbedding& s, const CudaMatrix& a, const double* weights, const CudaMatrix& out, CudaPlace place) {
    const DeviceGuard guard(place.device);
    Scratch scratch(place);
    if (s.nnz > 0) return sign_sketch(signs_of(s), rows_of(a), weights, result_of(out), scratch);
    if (s.picked != nullptr) return hadamard_sketch(hadamard_of(s, scratch), rows_of(a), weights, result_of(out), scratch);
    normal_sketch(normals_of(s), rows_of(a), weights, result_of(out), scratch);
}

void sketch_adjoint(const CudaEmbedding& s, const CudaMatrix& b, const CudaMatrix& out, CudaPlace place) {
    const DeviceGuard guard(place.device);
    Scratch scratch(place);
    if (s.nnz > 0) return sign_adjoint(signs_of(s), rows_of(b), s.cols, result_of(out), place);
    if (s.picked != nullptr) return hadamard_adjoint(hadamard_of(s, scratch), s.picked, rows_of(b), s.cols, result_of(out), scratch);
    normal_adjoint(normals_of(s), rows_of(b), s.cols, result_of(out), scratch);
}

}  // namespace raphson::cuda
