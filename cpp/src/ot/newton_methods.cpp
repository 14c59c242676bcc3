#include "ot/run.h"

namespace raphson {
void Run::sns() { automatic(); }
void Run::ssns() { automatic(); }
}  // namespace raphson
