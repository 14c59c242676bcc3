// The CUDA twin of Fisher, as raphson._cuda hands it out. Gradients stay where the caller keeps them; nothing waits for the
// device but what says so. Arguments are checked by the caller; NaN and Inf go on into the answers, those of the gradients (and
// rows whose squares leave float64) into all that their block of columns has a part in. Arrays are the device's.
#pragma once

#include <cstdint>

#include "cuda/table.h"

namespace raphson {

class CudaFisher {
public:
    virtual ~CudaFisher() = default;

    // out (of x's shape, contiguous) ← X F⁻¹.
    virtual void solve(const CudaView& x, const CudaView& out, CudaPlace place) = 0;
    virtual void diagonal(double* out, CudaPlace place) = 0;
    // out (queries × m, contiguous) ← Q F⁻¹ Gᵀ.
    virtual void influence(const CudaView& queries, double* out, CudaPlace place) = 0;
    virtual void scores(const CudaView& w, std::int64_t group, double* scores, CudaPlace place) = 0;
    // Indices are the host's.
    virtual void submatrix(const std::int64_t* rows, std::int64_t row_count, const std::int64_t* cols, std::int64_t col_count, double* out,
                           CudaPlace place) = 0;
    // Wait.
    virtual double element(std::int64_t i, std::int64_t j, CudaPlace place) = 0;
    virtual double logdet(CudaPlace place) = 0;
    // pruned ← w without the `removed` groups of the lowest scores, the others moved; mask (the host's) ← 1 where a weight stays.
    // Gives the predicted increase of the loss.
    virtual double prune(const CudaView& w, std::int64_t group, std::int64_t removed, bool joint, const CudaView& pruned, std::uint8_t* mask,
                         CudaPlace place) = 0;
};

// `count` matrices of one shape, `step` numbers from one to the next.
struct CudaStack {
    CudaView first;
    std::int64_t count, step;
};

// The relatives of FisherInverse.
struct CudaRelativesTable {
    // As on the CPU (fisher.h), of any type: out (contiguous) is of the inverse's type and may be it. Waits for 1 + weight·vᵀp:
    // where that is 0 or less nothing is written, where it is NaN or Inf all is NaN.
    double (*rank_one_inverse)(const CudaView& inverse, const CudaView& v, double alpha, double beta, double weight, void* out,
                               CudaPlace place);
    // out (d, of jac's type) ← −(JᵀQJ/b + λI)⁻¹Jᵀr/b: jac b matrices c × d, residual b × c, hessian b matrices Q (c × c), or
    // with `root` their square roots (c × k); null: the identity. All of any type.
    void (*gauss_newton)(const CudaStack& jac, const CudaView& residual, const CudaStack* hessian, bool root, double damping,
                         const CudaView& out, CudaPlace place);
};

}  // namespace raphson
