// What least squares reads A and b for, wherever they lie: the passes of its driver, on the CPU and on a CUDA device.
#pragma once

#include <cstdint>
#include <vector>

#include "raphson/rows.h"
#include "raphson/sketch.h"
#include "sketch/device_rows.h"

namespace raphson {

class LstsqRows {
public:
    virtual ~LstsqRows() = default;

    // z = Aᵀ(b − A x) for a column of b, in one read; gives ‖b − A x‖.
    virtual double residual(std::int64_t column, const double* x, double* z) const = 0;
    // The same for `count` columns from `first` on, x and z count × columns of A; gives the reads that took.
    virtual int residuals(std::int64_t first, std::int64_t count, const double* x, double* z, double* norms) const = 0;
    virtual void normal(const double* q, double* w) const = 0;  // w = AᵀA q in one read
    // S A (s.rows × columns of A) and S b (s.rows × k).
    virtual void sketch(const RowSketch& s, double* a, double* b) const = 0;
    virtual void squares(double* diagonal) const = 0;  // of AᵀA
    virtual void gram(double* out) const = 0;          // AᵀA
    // Of the rows 0, apart, 2·apart, …; false where they cannot be had without a read of A.
    virtual bool thinned_gram(std::int64_t apart, double* out) const = 0;
};

class HostLstsqRows final : public LstsqRows {
public:
    HostLstsqRows(const RowSource& a, const double* b, std::int64_t k) : a_(a), b_(b), k_(k) {}
    double residual(std::int64_t column, const double* x, double* z) const override;
    int residuals(std::int64_t first, std::int64_t count, const double* x, double* z, double* norms) const override;
    void normal(const double* q, double* w) const override;
    void sketch(const RowSketch& s, double* a, double* b) const override;
    void squares(double* diagonal) const override;
    void gram(double* out) const override;
    bool thinned_gram(std::int64_t apart, double* out) const override;

private:
    const RowSource& a_;
    const double* b_;
    std::int64_t k_;
};

// b's columns are copied on the device, as float64.
class DeviceLstsqRows final : public LstsqRows {
public:
    DeviceLstsqRows(CudaRows& a, const CudaView& b) : a_(a), b_(b), columns_(a.columns(b)) {}
    double residual(std::int64_t column, const double* x, double* z) const override;
    int residuals(std::int64_t first, std::int64_t count, const double* x, double* z, double* norms) const override;
    void normal(const double* q, double* w) const override;
    void sketch(const RowSketch& s, double* a, double* b) const override;
    void squares(double* diagonal) const override;
    void gram(double* out) const override;
    bool thinned_gram(std::int64_t apart, double* out) const override;
    double largest() const { return a_.largest(columns_, b_.rows * b_.columns); }  // of b; Inf for NaN
    std::vector<double> on_host() const;                                            // b: rows × k

private:
    CudaRows& a_;
    CudaView b_;
    double* columns_;
};

// Dense copy of rows of a block with b's columns (block.rows × k) beside them, to `to` (rows × (columns + k)).
void densify(const RowBlock& block, const double* b, std::int64_t k, double* to);
// The largest absolute value; Inf for NaN.
double largest(const double* values, std::int64_t n);
double largest(const RowSource& a);
// factor·A, dense, a few thousand rows at a time.
RowSource scaled_rows(const RowSource& a, double factor);
// Rows of the device as the host reads them: copied, so many bytes at a time.
RowSource visiting_rows(CudaRows& a, std::int64_t at_once = 64 << 20);

// As lstsq. The methods `direct` and, where A's or b's squares would leave the range of float64, all of them read the rows
// on the host. NaN or Inf in A or b give NaNs and Status::breakdown.
LstsqResult lstsq_on_device(CudaRows& a, const CudaView& b, DType precision, const LstsqOptions& options);

}  // namespace raphson
