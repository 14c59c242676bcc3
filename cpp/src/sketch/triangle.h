// Coordinates y in which the columns of a tall matrix are nearly orthonormal: x = M y, M = R⁻¹ or V Σ⁻¹ from a triangle, or
// a scaling of the columns; and the backward error of a least-squares solution, which they make cheap.
#pragma once

#include <cstdint>
#include <vector>

namespace raphson {

double norm(const double* x, std::int64_t n);

class Triangle {
public:
    Triangle(std::int64_t n, std::int64_t k) : rank(n), n_(n), k_(k) {}

    std::vector<double> upper;  // (n + k)²: R, beside it Qᵀb for k right-hand sides; or …
    std::vector<double> scale;  // … factors of the columns
    std::int64_t rank;
    double cond = 1, largest = 0, frobenius = 0;  // of the matrix, estimated from R

    // Decides the rank: by the triangle with columns scaled to norm 1, or as it is where the caller gave a cut (≥ 0).
    void decide(double rcond);
    void to_x(const std::vector<double>& y, double* x) const;    // x = M y
    void to_y(const double* z, std::vector<double>& y) const;    // y = Mᵀ z
    void from_y(const std::vector<double>& y, double* z) const;  // z = M⁻ᵀ y, inside the range of M
    // The solution for Qᵀb: of the sketched problem, or of the problem where R is A's own.
    void solution(std::int64_t column, double* x) const;
    // For the residuals of solutions near one with these norms: Karlson and Waldén 1997,
    // ‖(AᵀA + (‖r‖/‖x‖)² I)^(−1/2) z‖ / ‖x‖ of z = Aᵀr, here over ‖A‖_F and with R in place of A (Epperly, Meier and
    // Nakatsukasa 2024). Without a triangle ‖z‖/‖r‖ (Stewart), which is no smaller.
    void prepare_error(double x_norm, double r_norm);
    double backward_error(const std::vector<double>& z, double x_norm, double r_norm) const;

private:
    std::int64_t n_, k_;
    std::vector<double> u_, s_, v_;  // of R where its rank is cut
    std::vector<double> shifted_;    // triangle of RᵀR + (‖r‖/‖x‖)² I
};

}  // namespace raphson
