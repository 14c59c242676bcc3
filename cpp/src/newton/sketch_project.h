// Sketch-and-project (Gower and Richtárik 2015) for K d = rhs: each step projects d onto the solutions of a sketched system,
// d ← d − Kᵀ S (Sᵀ K Kᵀ S)⁺ Sᵀ (K d − rhs).
#pragma once

#include <cstdint>
#include <vector>

#include "newton/kkt_system.h"
#include "raphson/kkt.h"

namespace raphson {

class SketchProject {
public:
    // Copies K out of the system.
    SketchProject(const KktSystem& system, KktMethod method, RowSampling sampling, std::int64_t block_size, std::uint64_t seed);
    void start(const double* rhs, const double* init);  // d = init, or 0
    // Steps until ‖K d − rhs‖ ≤ goal or `most` more are made; the residual is measured once in a pass over the rows.
    // Gives the number of steps.
    std::int64_t run(double goal, std::int64_t most);
    void solution(double* d) const;
    double residual();  // ‖K d − rhs‖, measured

private:
    double dot_row(std::int64_t i, const double* x) const;
    void add_row(std::int64_t i, double c, double* x) const;  // x += c·row
    void row_step(std::int64_t i);
    void gaussian_step();
    void block_step();
    std::uint32_t next();
    std::int64_t draw_row();

    std::int64_t size_ = 0;
    KktMethod method_;
    RowSampling sampling_;
    std::uint64_t seed_, counter_ = 0;
    std::uint32_t numbers_[4] = {};
    int left_ = 0;
    bool sparse_ = false;
    std::vector<double> scale_, dense_, values_;  // of K: dense rows, or compressed ones
    std::vector<std::int64_t> starts_;
    std::vector<std::int32_t> index_;
    std::vector<double> norms_, cumulative_;  // rows' squared norms
    std::vector<double> rhs_, d_, s_, u_;
    std::int64_t block_ = 0;
    std::vector<std::int32_t> blocks_;  // rows, block after block
    std::vector<double> factors_;       // of each block's K Kᵀ
};

}  // namespace raphson
