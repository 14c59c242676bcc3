#include <doctest/doctest.h>

#include <string>
#include <type_traits>
#include <vector>

#include "raphson/status.h"
#include "raphson/view.h"
#include "support.h"

using namespace raphson;
using support::refusal;

TEST_CASE("view: C-contiguous strides without strides, as given with them") {
    double x[24];
    const TensorView<double> c(x, {2, 3, 4});
    CHECK(c.data == x);
    CHECK(c.ndim == 3);
    CHECK(c.size() == 24);
    CHECK(c.shape[0] == 2);
    CHECK(c.shape[2] == 4);
    CHECK(c.strides[0] == 12);
    CHECK(c.strides[1] == 4);
    CHECK(c.strides[2] == 1);
    const TensorView<double> t(x + 23, {4, 3}, {-1, -4});
    CHECK(t.strides[0] == -1);
    CHECK(t.strides[1] == -4);
    CHECK(t.size() == 12);
}

TEST_CASE("view: scalars, empty axes, eight axes and no more") {
    double x = 0;
    CHECK(TensorView<double>().size() == 1);
    CHECK(TensorView<double>(&x, {}).ndim == 0);
    const TensorView<double> empty(nullptr, {3, 0, 5});
    CHECK(empty.size() == 0);
    CHECK(empty.strides[0] == 5);  // an empty axis must not make the others' strides zero
    CHECK(TensorView<double>(&x, {1, 1, 1, 1, 1, 1, 1, 1}).ndim == 8);
    CHECK(refusal([&] { TensorView<double>(&x, {1, 1, 1, 1, 1, 1, 1, 1, 1}); }) == "TensorView: more than 8 axes");
}

TEST_CASE("view: what cannot be a shape is refused") {
    double x[4];
    CHECK(refusal([&] { TensorView<double>(x, {2, -1}); }) == "TensorView: negative extent");
    CHECK(refusal([&] { TensorView<double>(x, {2, 2}, {1}); }) == "TensorView: shape and strides differ in length");
}

TEST_CASE("view: a view of mutable data becomes one of const data, never the reverse") {
    float x[6];
    const TensorView<float> view(x, {2, 3}, {1, 2});
    const TensorView<const float> fixed = view;
    CHECK(fixed.data == x);
    CHECK(fixed.strides[1] == 2);
    static_assert(std::is_convertible_v<TensorView<float>, TensorView<const float>>);
    static_assert(!std::is_convertible_v<TensorView<const float>, TensorView<float>>);
    static_assert(!std::is_convertible_v<TensorView<float>, TensorView<const double>>);
}

TEST_CASE("view: dtypes") {
    CHECK(dtype_of<double>() == DType::float64);
    CHECK(dtype_of<const float>() == DType::float32);
    CHECK(dtype_of<bfloat16>() == DType::bfloat16);
    CHECK(itemsize(DType::float64) == 8);
    CHECK(itemsize(DType::float32) == 4);
    CHECK(itemsize(DType::bfloat16) == 2);
    CHECK(itemsize(DType::float16) == 2);
    CHECK(to_string(DType::float64) == std::string("float64"));
    CHECK(to_string(DType::float32) == std::string("float32"));
    CHECK(to_string(DType::bfloat16) == std::string("bfloat16"));
    CHECK(to_string(DType::float16) == std::string("float16"));
}

TEST_CASE("status: the vocabulary") {
    const std::vector<std::string> words{"converged", "max_iter",   "precision_floor", "stalled",
                                         "stopped",   "infeasible", "breakdown"};
    REQUIRE(words.size() == status_count);
    for (int i = 0; i < status_count; ++i) CHECK(to_string(static_cast<Status>(i)) == words[static_cast<std::size_t>(i)]);
    CHECK(Cancelled().what() == std::string("raphson: cancelled"));
}
