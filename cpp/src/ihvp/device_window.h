// The CUDA twin of Window, as raphson._cuda hands it out: rows, Gram matrix and factor on one device. Nothing waits for
// the device but what answers with numbers of the host. Arguments are checked by the caller (check.h). A gradient that is
// not finite, or too large for the window's type, is found on the device: it enters as a row of zeros, and
// `precondition` answers with NaNs.
#pragma once

#include <cstdint>

#include "cuda/table.h"
#include "ihvp/vector.h"
#include "ihvp/window.h"

namespace raphson {

class CudaWindow {
public:
    virtual ~CudaWindow() = default;

    // out may be null: a push.
    virtual void precondition(const VectorRef& g, const VectorRef* out, CudaPlace place) = 0;
    virtual void solve(const VectorRef& x, const VectorRef& out, CudaPlace place) = 0;
    // weights are the host's.
    virtual void solve_recent(const double* weights, std::int64_t count, const VectorRef& out, CudaPlace place) = 0;
    virtual void influence(double* out, CudaPlace place) = 0;  // length × length, contiguous
    // The rest but clear and set_damping waits.
    virtual double quadratic(const VectorRef& x, CudaPlace place) = 0;
    virtual double quadratic(std::int64_t index, CudaPlace place) = 0;
    virtual double logdet(CudaPlace place) = 0;
    virtual double damping_in_use(CudaPlace place) = 0;        // 0: relative damping of nothing but zeros
    virtual void set_damping(Damping damping, CudaPlace place) = 0;
    virtual void clear(CudaPlace place) = 0;
    virtual Window::State state(CudaPlace place) = 0;
    virtual void load(const Window::State& state, Damping damping, CudaPlace place) = 0;

    virtual int device() const = 0;
    virtual std::int64_t length() const = 0;
    virtual std::int64_t nbytes() const = 0;
};

}  // namespace raphson
