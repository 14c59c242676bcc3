// Which of the ISAs we build this CPU runs, feature by feature.
#pragma once

namespace raphson {

// `isa` is the namespace of a build: "v2", "v3", "v4", "v4_bf16" or "baseline".
bool cpu_runs(const char* isa);

}  // namespace raphson
