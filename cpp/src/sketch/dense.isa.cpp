#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/simd_double.h"
#include "isa.h"
#include "sketch/dense_passes.h"
#include "sketch/philox_lanes.h"

RAPHSON_ISA_BEGIN
namespace {

using std::int64_t;

constexpr int wide = Vec<double>::width;
// Numbers of 32 bits to (0, 1): 2^52 + x as a bit pattern, less 2^52.
void to_unit(const std::uint64_t* x, double* u) {
    for (int i = 0; i < lanes; ++i) {
        const std::uint64_t bits = x[i] | 0x4330000000000000u;
        double value;
        std::memcpy(&value, &bits, sizeof value);
        u[i] = (value - 4503599627370496.0 + 0.5) * 0x1p-32;
    }
}

// √(−2 log u): log u = e·log 2 + 2 artanh((m − 1)/(m + 1)), m in [√½, √2). Relative error below 1e-12.
void radius(const double* u, double* r) {
    double squared[lanes];
    for (int i = 0; i < lanes; ++i) {
        std::uint64_t bits;
        std::memcpy(&bits, u + i, sizeof bits);
        const std::uint64_t shifted = bits - 0x3FE6A09E667F3BCDu;  // √½: m becomes at least that
        const std::uint64_t whole = shifted & 0xFFF0000000000000u;
        const std::uint64_t part = bits - whole;
        double m;
        std::memcpy(&m, &part, sizeof m);
        const std::uint64_t exponent = (((whole >> 52) + 1024) & 0xFFF) | 0x4330000000000000u;
        double e;
        std::memcpy(&e, &exponent, sizeof e);
        e -= 4503599627370496.0 + 1024.0;
        const double t = (m - 1) / (m + 1), s = t * t;
        double q = 1.0 / 15;
        q = q * s + 1.0 / 13;
        q = q * s + 1.0 / 11;
        q = q * s + 1.0 / 9;
        q = q * s + 1.0 / 7;
        q = q * s + 1.0 / 5;
        q = q * s + 1.0 / 3;
        squared[i] = -2 * (e * 0.69314718055994530942 + 2 * t * (1 + s * q));
    }
    for (int i = 0; i < lanes; i += wide) store(r + i, square_root(load(squared + i)));
}

// cos and sin of 2πv by quarter turns.
void turn(const double* v, double* cosine, double* sine) {
    for (int i = 0; i < lanes; ++i) {
        const double quarters = 4 * v[i], nearest = (quarters + 6755399441055744.0) - 6755399441055744.0;
        const double a = (quarters - nearest) * 1.57079632679489661923, s = a * a;
        double c = -1.0 / 3628800, d = 1.0 / 6227020800.0;
        c = c * s + 1.0 / 40320;
        c = c * s - 1.0 / 720;
        c = c * s + 1.0 / 24;
        c = c * s - 0.5;
        c = c * s + 1;
        d = d * s - 1.0 / 39916800;
        d = d * s + 1.0 / 362880;
        d = d * s - 1.0 / 5040;
        d = d * s + 1.0 / 120;
        d = d * s - 1.0 / 6;
        d = (d * s + 1) * a;
        const double half = nearest * 0.5, whole = (half + 6755399441055744.0) - 6755399441055744.0;
        const double odd = nearest - 2 * whole;  // −1, 0 or 1: sine and cosine change places
        const double pairs = (whole * 0.5 + 6755399441055744.0) - 6755399441055744.0, parity = whole - 2 * pairs;
        const double turned = odd * odd, flip = 1 - 2 * parity * parity;  // half turns change both signs
        cosine[i] = flip * ((1 - turned) * c - odd * d);
        sine[i] = flip * ((1 - turned) * d + odd * c);
    }
}

void normals(std::uint64_t seed, std::uint32_t stream, int64_t first, int64_t n, int64_t rows, double scale, double* out, int64_t ld) {
    Numbers c;
    double u[lanes], v[lanes], r[lanes], cosine[lanes], sine[lanes];
    for (int64_t row = 0; row < rows; row += 4) {
        for (int64_t i = 0; i < n; i += lanes) {
            philox_at_positions(c, static_cast<std::uint64_t>(first + i), static_cast<std::uint64_t>(row / 4), stream, seed);
            const int count = static_cast<int>(std::min<int64_t>(lanes, n - i));
            for (int pair = 0; pair < 2 && row + 2 * pair < rows; ++pair) {
                to_unit(c.x[2 * pair], u);
                to_unit(c.x[2 * pair + 1], v);
                radius(u, r);
                turn(v, cosine, sine);
                double* const to = out + (row + 2 * pair) * ld + i;
                for (int l = 0; l < count; ++l) to[l] = scale * r[l] * cosine[l];
                if (row + 2 * pair + 1 >= rows) continue;
                for (int l = 0; l < count; ++l) to[ld + l] = scale * r[l] * sine[l];
            }
        }
    }
}

// Halves first: what they work on fits the first-level cache however long the whole is.
void hadamard(double* x, int64_t rows) {
    if (rows == 1) return;
    const int64_t half = rows / 2;
    hadamard(x, half);
    hadamard(x + half * hadamard_columns, half);
    double* const y = x + half * hadamard_columns;
    for (int64_t i = 0; i < half * hadamard_columns; i += wide) {
        const Vec<double> a = load(x + i), b = load(y + i);
        store(x + i, add(a, b));
        store(y + i, subtract(a, b));
    }
}

}  // namespace

extern const DenseSketchTable dense_sketch_table;
const DenseSketchTable dense_sketch_table{normals, hadamard};

RAPHSON_ISA_END
