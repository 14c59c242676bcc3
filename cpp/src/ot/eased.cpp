#include "ot/eased.h"

#include <algorithm>
#include <limits>

namespace raphson {
namespace {

constexpr int most_trials = 200;

// β for a given t, by Newton's iteration on Σζ(β) = k inside a bracket that shrinks.
void find_beta(const double* v, std::int64_t count, std::int64_t k, double sigma, EasedRow& row) {
    const double t = row.t, rest = 1 - sigma, steep = rest / sigma;
    double high = v[k - 1] - t, low = rest * (v[k] - t);
    row.parts = 0;
    if (!(low > 0)) {
        row.beta = 0;
        row.whole = 0;
        while (row.whole < count && v[row.whole] - t > 0) ++row.whole;
        return;
    }
    if (v[k] - t <= rest * high) {  // nothing ties
        row.beta = rest * high;
        row.whole = k;
        return;
    }
    double beta = high;
    std::int64_t first = -1, last = -1;
    for (int trial = 0; trial < most_trials; ++trial) {
        std::int64_t p = std::min(row.whole, k), q = k;
        while (p > 0 && rest * (v[p - 1] - t) < beta) --p;
        while (p < k && rest * (v[p] - t) >= beta) ++p;
        while (q < count && v[q] - t > beta) ++q;
        while (q > p && v[q - 1] - t <= beta) --q;
        row.whole = p;
        row.parts = q - p;
        row.beta = beta;
        if (p == first && q == last) return;
        first = p;
        last = q;
        double sum = 0;
        for (std::int64_t j = p; j < q; ++j) sum += v[j] - t;
        const double among = static_cast<double>(k - p);
        // Σζ − k falls in β
        (steep * (sum / beta - static_cast<double>(q - p)) > among ? low : high) = beta;
        const double next = steep * sum / (among + steep * static_cast<double>(q - p));
        beta = next > low && next < high ? next : 0.5 * (low + high);
        if (!(next > low && next < high)) first = -1;
        if (!(high - low > 1e-16 * high)) return;
    }
}

}  // namespace

EasedRow ease_row(const double* v, std::int64_t count, std::int64_t k, double z, double sigma, double t,
                  double highest) {
    EasedRow row;
    row.t = t;
    row.whole = k;
    double low = -std::numeric_limits<double>::infinity(), high = highest;
    std::int64_t whole = -1, parts = -1;
    for (int trial = 0; trial < most_trials; ++trial) {
        find_beta(v, count, k, sigma, row);
        if (row.whole == whole && row.parts == parts) return row;  // the piece t was found on
        double sum = 0, part = 0;
        for (std::int64_t j = 0; j < row.whole; ++j) sum += v[j] - row.t;
        for (std::int64_t j = row.whole; j < row.whole + row.parts; ++j) part += v[j] - row.t;
        const double total = sum + (part - static_cast<double>(row.parts) * row.beta) / sigma;
        (total > z ? low : high) = row.t;
        whole = row.whole;
        parts = row.parts;
        // on this piece β = part/weight·(1 − σ)/σ, and Σp = a is linear in t
        const double among = static_cast<double>(k - whole);
        const double of = sigma * among + (1 - sigma) * static_cast<double>(parts);
        const double share = parts > 0 && of > 0 ? among / of : 0;
        const double slope = static_cast<double>(whole) + share * static_cast<double>(parts);
        if (!(slope > 0)) return row;
        const double next = row.t + (sum + share * part - z) / slope;
        if (next > low && next < high) {
            row.t = next;
        } else if (next >= high && low == -std::numeric_limits<double>::infinity()) {
            row.t = high - z;
            whole = -1;
        } else {
            row.t = 0.5 * (low + high);
            whole = -1;
        }
        if (!(high - low > 1e-16 * z)) return row;
    }
    return row;
}

}  // namespace raphson
