#include "newton/ordering.h"

#include <Eigen/OrderingMethods>
#include <Eigen/SparseCore>

#include <algorithm>

#include "isa.h"

RAPHSON_ISA_BEGIN
namespace {

using std::int64_t;
using Sparse = Eigen::SparseMatrix<double, Eigen::ColMajor, std::int32_t>;

void minimum_degree(int64_t n, const int64_t* starts, const std::int32_t* index, std::int32_t* order) {
    Sparse pattern(n, n);
    pattern.resizeNonZeros(starts[n]);
    for (int64_t i = 0; i <= n; ++i) pattern.outerIndexPtr()[i] = static_cast<std::int32_t>(starts[i]);
    std::copy(index, index + starts[n], pattern.innerIndexPtr());
    std::fill_n(pattern.valuePtr(), starts[n], 1.0);
    Eigen::PermutationMatrix<Eigen::Dynamic, Eigen::Dynamic, std::int32_t> found;
    Eigen::AMDOrdering<std::int32_t> amd;
    amd(pattern, found);
    std::copy(found.indices().data(), found.indices().data() + n, order);
}

}  // namespace

extern const OrderingTable ordering_table;
const OrderingTable ordering_table{minimum_degree};

RAPHSON_ISA_END
