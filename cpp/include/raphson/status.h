// The vocabulary in which every iterative kernel says how it ended.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace raphson {

enum class Status : std::int8_t {
    converged,        // the residual, measured on what is returned, is within the tolerance
    max_iter,         // the iteration limit came first
    precision_floor,  // the tolerance asked for lies below what the precision can reach; this is the reachable level
    stalled,          // no further progress although neither the tolerance nor the precision's floor was reached
    stopped,          // a callback or an interrupt ended the run
    infeasible,       // the problem has no solution
    breakdown,        // the iteration left the finite numbers or its domain; the last finite iterate is returned
};
constexpr int status_count = 7;

const char* to_string(Status status);

// Wrong use throws std::invalid_argument (Python: ValueError), or this for a type that no overload takes (TypeError).
struct TypeMismatch : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};
// An input has NaN or Inf, or numbers whose squares overflow.
struct NotFinite : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};
// Numerical failure of a single problem whose caller asked for an exception (Python: numpy.linalg.LinAlgError).
struct Breakdown : std::runtime_error {
    using std::runtime_error::runtime_error;
};
// A poll (see runtime.h) asked for the end of the computation; results in progress are dropped.
struct Cancelled : std::runtime_error {
    Cancelled() : std::runtime_error("raphson: cancelled") {}
};

}  // namespace raphson
