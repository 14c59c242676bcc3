#include "common/large_memory.h"

#include <algorithm>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace raphson {

void FreeLarge::operator()(void* memory) const { ::operator delete(memory, std::align_val_t{alignment}); }

LargeMemory take_large(std::size_t bytes) {
    constexpr std::size_t huge_page = std::size_t{2} << 20;
    const std::size_t alignment = bytes >= huge_page ? huge_page : 64;
    const std::size_t size = (bytes + alignment - 1) / alignment * alignment;
    LargeMemory memory(::operator new(std::max<std::size_t>(size, alignment), std::align_val_t{alignment}),
                       FreeLarge{alignment});
#if defined(__linux__)
    if (size >= huge_page) (void)madvise(memory.get(), size, MADV_HUGEPAGE);  // a hint: refusal costs speed only
#endif
    return memory;
}

}  // namespace raphson
