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

}  // namespace

void sketch(const CudaEmbedding& s, const CudaMatrix& a, const double* weights, const CudaMatrix& out, CudaPlace place) {
    const DeviceGuard guard(place.device);
    Scratch scratch(place);
    if (s.nnz > 0) return sign_sketch(signs_of(s), rows_of(a), weights, result_of(out), scratch);
    const double scale = 1 / std::sqrt(static_cast<double>(s.rows));
    if (s.picked != nullptr) {
        auto* const picked = scratch.take_array<int64_t>(s.rows);
        write(s.picked, picked, static_cast<std::size_t>(s.rows) * sizeof(int64_t), place);
        return hadamard_sketch({s.seed, srht_sign_stream, s.rows, picked, scale}, rows_of(a), weights, result_of(out), scratch);
    }
    const NormalEntries entries{s.seed, gaussian_stream, s.rows, 0, scale};
    normal_sketch(entries, rows_of(a), weights, result_of(out), scratch);
}

void sketch_adjoint(const CudaEmbedding& s, const CudaMatrix& b, const CudaMatrix& out, CudaPlace place) {
    const DeviceGuard guard(place.device);
    sign_adjoint(signs_of(s), rows_of(b), s.cols, result_of(out), place);
}

}  // namespace raphson::cuda
