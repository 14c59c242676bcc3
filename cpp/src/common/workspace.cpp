#include "common/workspace.h"

#include <cstdint>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace raphson {
namespace {

constexpr std::size_t line = 64;
constexpr std::size_t huge_page = std::size_t{2} << 20;
constexpr std::size_t smallest_chunk = std::size_t{256} << 10;
constexpr std::size_t keep_limit = std::size_t{64} << 20;

constexpr std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

struct Chunk {
    char* data;
    std::size_t size;
    std::align_val_t alignment;

    explicit Chunk(std::size_t bytes)
        : size(bytes >= huge_page ? round_up(bytes, huge_page) : bytes),
          alignment(bytes >= huge_page ? std::align_val_t{huge_page} : std::align_val_t{line}) {
        data = static_cast<char*>(::operator new(size, alignment));
#if defined(__linux__)
        if (size >= huge_page) (void)madvise(data, size, MADV_HUGEPAGE);  // a hint: refusal costs speed only
#endif
    }
};

struct Stack {
    std::vector<Chunk> chunks;
    std::size_t chunk = 0;  // the one in use
    std::size_t used = 0;   // bytes of it
    std::size_t peak = 0;   // what one chunk would have had to hold since the last release
    int depth = 0;

    ~Stack() { release(); }

    void release() {
        for (const Chunk& c : chunks) ::operator delete(c.data, c.alignment);
        chunks.clear();
        chunk = used = 0;
    }
    std::size_t total() const {
        std::size_t bytes = 0;
        for (const Chunk& c : chunks) bytes += c.size;
        return bytes;
    }
};

thread_local Stack stack;

}  // namespace

Workspace::Workspace() noexcept : chunk_(stack.chunk), used_(stack.used) { ++stack.depth; }

Workspace::~Workspace() {
    stack.chunk = chunk_;
    stack.used = used_;
    if (--stack.depth > 0) return;
    // Several chunks mean the first was too small: the next call gets one that holds them all.
    if (stack.chunks.size() > 1) stack.peak = stack.total();
    if (stack.chunks.size() > 1 || stack.total() > keep_limit) stack.release();
}

void* Workspace::take(std::size_t bytes) {
    bytes = round_up(bytes == 0 ? 1 : bytes, line);
    while (stack.chunk < stack.chunks.size() && stack.used + bytes > stack.chunks[stack.chunk].size) {
        ++stack.chunk;
        stack.used = 0;
    }
    if (stack.chunk == stack.chunks.size()) {
        std::size_t size = bytes > smallest_chunk ? round_up(bytes, huge_page) : smallest_chunk;
        if (stack.chunks.empty() && stack.peak <= keep_limit && stack.peak > size) size = stack.peak;
        stack.chunks.reserve(stack.chunks.size() + 1);
        stack.chunks.emplace_back(size);
        stack.used = 0;
    }
    char* block = stack.chunks[stack.chunk].data + stack.used;
    stack.used += bytes;
    return block;
}

std::size_t workspace_kept() { return stack.total(); }
void workspace_release() {
    if (stack.depth == 0) stack.release();
}

}  // namespace raphson
