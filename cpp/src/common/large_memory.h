// Memory of an object that lives long and may be gigabytes.
#pragma once

#include <cstddef>
#include <memory>

namespace raphson {

struct FreeLarge {
    std::size_t alignment;
    void operator()(void* memory) const;
};
using LargeMemory = std::unique_ptr<void, FreeLarge>;
// Huge pages where the system gives them; not touched, so not there, before it is used. std::bad_alloc.
LargeMemory take_large(std::size_t bytes);

}  // namespace raphson
