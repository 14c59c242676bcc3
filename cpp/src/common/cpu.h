// Which of the ISAs we build this CPU runs, feature by feature.
#pragma once

namespace raphson {

// `isa` is the namespace of a build: "v2", "v3", "v4", "v4_bf16", "v4_amx" or "baseline". Asks the system for the tile
// registers of AMX, which it grants a process at its first request, unless a thread has a signal stack too small for them.
bool cpu_runs(const char* isa);

}  // namespace raphson
