// Entropic optimal transport.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "raphson/status.h"
#include "raphson/view.h"

namespace raphson {

enum class TransportMethod : std::uint8_t { automatic, sinkhorn, sns, ssns };
enum class TransportStage : std::uint8_t { sinkhorn, kernel, newton, dense_newton };
const char* to_string(TransportStage stage);

}  // namespace raphson
