// Coordinates y in which the columns of a tall matrix are nearly orthonormal: x = M y, M = R⁻¹ or V Σ⁻¹ from a triangle, or
// a scaling of the columns; and the backward error of a least-squares solution, which they make cheap.
#pragma once

#include <cstdint>
#include <vector>

#include "common/vector.h"

namespace raphson {

class Triangle {
public:
    Triangle(std::int64_t n, std::int64_t k) : rank(n), n_(n), k_(k) {}

    std::vector<double> upper;  // n × (n + k): R, beside it Qᵀb for k right-hand sides; or …
    std::vector<double> scale;  // … factors of the columns
    std::int64_t rank;
    double cond = 1, largest = 0, frobenius = 0;  // of the matrix, estimated from R
    double ridge = 0;                             // where there is no R, which would hold it

    // Decides the rank: by the triangle with columns scaled to norm 1, or as it is where the caller gave a cut (≥ 0).
    void decide(double rcond);
    // That without the work of a cut: whether none is needed.
    bool has_full_rank(double rcond);
    double scaled_cond() const { return scaled_cond_; }  // of the matrix with its columns at norm 1
    void to_x(const std::vector<double>& y, double* x) const;    // x = M y
    void to_y(const double* z, std::vector<double>& y) const;    // y = Mᵀ z
    void from_y(const std::vector<double>& y, double* z) const;  // z = M⁻ᵀ y, inside the range of M
    // The solution for Qᵀb: of the sketched problem, or of the problem where R is A's own.
    void solution(std::int64_t column, double* x) const;
    // Karlson and Waldén 1997: ‖(AᵀA + (‖r‖/‖x‖)² I)^(−1/2) z‖ / (‖x‖ ‖A‖_F), z = Aᵀr, with R in place of A (Epperly, Meier
    // and Nakatsukasa 2024), of A with its columns at norm 1: small columns count as much as large ones. A cut of the rank
    // is made on A as it is. Without a triangle ‖z‖/(‖r‖ ‖A‖_F) (Stewart), of the extended problem where there is a ridge,
    // or ‖r‖/(‖x‖ ‖A‖_F): no smaller. Prepare for solutions near x.
    void prepare_error(const double* x, double r_norm);
    double backward_error(const std::vector<double>& z, const double* x, double r_norm) const;
    // ‖A dx‖ of a step dx near x that rounding alone would cause: a first refinement ends at ten of them (FOSSILS).
    double step_floor(const double* x, double r_norm) const;

private:
    std::int64_t n_, k_;
    double scaled_largest_ = 0, scaled_cond_ = 1;
    std::vector<double> u_, s_, v_;  // of R where its rank is cut
    double scaled_norm(const double* x) const;
    double cut(double rcond) const;

    std::vector<double> scaled_, length_;  // R with columns at norm 1, and the norms they had
    std::vector<double> shifted_;          // triangle of RᵀR + (‖r‖/‖x‖)² I, scaled; empty: scaled_ itself
    std::vector<double> gram_;             // RᵀR, scaled, once a shift needed it
};

}  // namespace raphson
