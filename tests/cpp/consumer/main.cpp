#include <raphson/newton_schulz.h>
#include <raphson/runtime.h>

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <vector>

// An update matrix of a 768→3072 layer, orthogonalized: q's rows end up nearly orthonormal.
int main() {
    const std::size_t m = 768, n = 3072;
    std::vector<float> x(m * n), q(m * n);
    unsigned state = 1;
    for (float& v : x) {
        state = state * 1664525u + 1013904223u;
        v = static_cast<float>(state >> 8) / 8388608.0f - 1.0f;
    }
    raphson::orthogonalize<float>({x.data(), {768, 3072}}, {q.data(), {768, 3072}}, raphson::Schedule::polar_express());

    double smallest = 2, largest = 0, overlap = 0;  // squared lengths of rows; cosines between neighbours
    for (std::size_t i = 0; i + 1 < m; ++i) {
        double length = 0, product = 0;
        for (std::size_t j = 0; j < n; ++j) {
            const double v = q[i * n + j];
            length += v * v;
            product += v * q[(i + 1) * n + j];
        }
        smallest = std::fmin(smallest, length);
        largest = std::fmax(largest, length);
        overlap = std::fmax(overlap, std::fabs(product));
    }
    std::printf("raphson %s, %s: squared row lengths %.3f to %.3f, largest product of neighbours %.3f\n",
                raphson::build_info().version.c_str(), raphson::build_info().isa.c_str(), smallest, largest, overlap);
    // Singular values end in [0.85, 1.15], so squared lengths in [0.72, 1.33].
    return smallest > 0.72 && largest < 1.33 && overlap < 0.2 ? 0 : 1;
}
