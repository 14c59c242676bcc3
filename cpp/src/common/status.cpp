#include "raphson/status.h"

namespace raphson {

const char* to_string(Status status) {
    switch (status) {
        case Status::converged: return "converged";
        case Status::max_iter: return "max_iter";
        case Status::precision_floor: return "precision_floor";
        case Status::stalled: return "stalled";
        case Status::stopped: return "stopped";
        case Status::infeasible: return "infeasible";
        case Status::breakdown: return "breakdown";
    }
    return "unknown";
}

}  // namespace raphson
