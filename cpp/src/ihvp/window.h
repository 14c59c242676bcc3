// A sliding window of gradients and the inverse of its damped Fisher matrix, without locks: bindings and the public class
// put one around it.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "common/large_memory.h"
#include "ihvp/passes.h"
#include "ihvp/vector.h"
#include "raphson/ihvp.h"

namespace raphson {

class Window {
public:
    Window(std::int64_t dim, std::int64_t capacity, Damping damping, const WindowOptions& options);

    // Everything throws std::invalid_argument on misuse, before anything has changed.
    void push(const VectorRef& g);
    void precondition(const VectorRef& g, const VectorRef& out);
    void solve(const VectorRef& x, const VectorRef& out);
    void solve_recent(const double* weights, std::int64_t count, const VectorRef& out);
    double quadratic(const VectorRef& x);
    double quadratic(std::int64_t index);
    double logdet();
    void influence(double* out);  // length × length, row major
    void set_damping(Damping damping);
    void clear();

    std::int64_t dim() const { return dim_; }
    std::int64_t capacity() const { return capacity_; }
    std::int64_t length() const { return length_; }
    const WindowOptions& options() const { return options_; }
    double damping_in_use();  // λ of the factor that the next query uses; refreshes a relative one
    std::int64_t nbytes() const;

    // Everything a window is, as raw arrays: rows, scales and row scales by slots of the ring.
    struct State {
        std::vector<std::byte> rows;   // ring × dim stored elements; slots that hold no row are zero
        std::vector<float> scales;     // ring × scales_per_row
        std::vector<double> row_scale;
        std::vector<float> residual;   // dim with error feedback, else none
        std::vector<double> gram;      // blocks × ring × ring, laid out like the factor (passes.h)
        std::vector<double> factor;
        std::int64_t length, head;
        double lambda, shift;          // of the factor; shift 0: there is none
    };
    static void check_state(const State& state, std::int64_t capacity);  // its numbers; the arrays' sizes are load's
    State state() const;
    void load(State&& state, Damping damping);
    std::int64_t scales_per_row() const { return scales_per_row_; }
    std::int64_t block_count() const { return static_cast<std::int64_t>(blocks_.size()); }
    std::int64_t ring() const { return ring_; }

private:
    struct Block {
        std::int64_t first, width;  // columns
        std::int64_t first_scale;   // of int8 rows
        double* gram;               // by columns in a ring, like the factor (passes.h)
        double* factor;
    };

    std::int64_t slot(std::int64_t t) const { return (head_ + t) % ring_; }
    double* gram_column(const Block& block, std::int64_t t) const { return block.gram + slot(t) * ring_; }
    double* factor_column(const Block& block, std::int64_t t) const { return block.factor + slot(t) * ring_; }
    // Calls fn(rows, t) for the stored rows t … of one column range: the ring has at most two pieces.
    template <class Fn>
    void for_rows(std::int64_t column, std::int64_t scale_column, std::int64_t from, std::int64_t to, Fn&& fn) const;
    void* row_at(std::int64_t slot, std::int64_t column) const;

    double check_gradient(const VectorRef& g, const char* function) const;
    void check_vector(const VectorRef& x, const char* function, const char* name) const;
    void check_agreed(const char* function, const std::function<void()>& check) const;
    void require_rows(const char* function) const;

    void push_and(const VectorRef& g, const char* function, const VectorRef* out);
    void store_and_multiply(const Block& block, const VectorRef& g, double* sums);
    void append(const Block& block, const double* sums, const double* dropped, bool incremental);
    void multiply(const Block& block, const VectorRef& x, double* sums, double* squares) const;
    void multiply(const VectorRef& x, double* sums) const;
    void combine(const Block& block, const double* by_time, double factor, const VectorRef* x, double x_factor,
                 const VectorRef& out) const;
    bool factor_serves() const;  // for the damping in force
    void prepare(const char* function);
    void refactor();
    void refactor(const Block& block);
    double trace() const;
    double scale() const { return static_cast<double>(options_.scale == WindowScale::count ? length_ : capacity_); }
    double target_lambda() const;
    void reduce(double* values, std::int64_t count) const;
    void dense(const double* ring, double diagonal, double* out) const;

    std::int64_t dim_, capacity_;
    std::int64_t ring_;  // one slot more than capacity: a new row lies there until nothing can fail any more
    Damping damping_;
    WindowOptions options_;
    Stored type_;
    std::int64_t scales_per_row_ = 0;
    LargeMemory rows_;
    std::vector<float> scales_;
    std::vector<double> row_scale_;               // float16: a power of two a row
    std::vector<float> residual_, next_residual_;
    std::vector<Block> blocks_;
    std::vector<double> cores_;  // every block's gram and factor
    std::int64_t length_ = 0, head_ = 0;
    double lambda_ = 0, shift_ = 0;  // of the factor: shift = scale·λ; 0 when there is none
    double total_dim_ = 0;           // over all processes
};

}  // namespace raphson
