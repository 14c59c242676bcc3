#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "common/workspace.h"

using raphson::Workspace;
using raphson::workspace_kept;
using raphson::workspace_release;

namespace {

constexpr std::size_t megabyte = std::size_t{1} << 20;

struct Block {
    unsigned char* data;
    std::size_t size;
    unsigned char mark;
};

// Every byte is the caller's: a block that overlapped another would break the other's mark.
Block take(Workspace& scratch, std::size_t size, int mark) {
    auto* data = static_cast<unsigned char*>(scratch.take(size));
    std::memset(data, mark, size);
    return {data, size, static_cast<unsigned char>(mark)};
}
bool intact(const Block& block) {
    for (std::size_t i = 0; i < block.size; ++i) {
        if (block.data[i] != block.mark) return false;
    }
    return true;
}

}  // namespace

TEST_CASE("workspace: blocks are aligned, apart, and the caller's to write") {
    workspace_release();
    Workspace scratch;
    std::vector<Block> blocks;
    int mark = 0;
    for (const std::size_t size : {1ul, 63ul, 64ul, 65ul, 4096ul, 100000ul, 300000ul, 7ul, 3 * megabyte + 1, 1ul}) {
        blocks.push_back(take(scratch, size, ++mark));
        CHECK(reinterpret_cast<std::uintptr_t>(blocks.back().data) % 64 == 0);
    }
    for (const Block& block : blocks) CHECK(intact(block));
    CHECK(scratch.take(0) != nullptr);
    CHECK(scratch.take(0) != scratch.take(0));
}

TEST_CASE("workspace: last in, first out") {
    workspace_release();
    Workspace outer;
    const Block kept = take(outer, 1000, 1);
    void* first = nullptr;
    {
        Workspace inner;
        first = inner.take(500);
        const Block big = take(inner, megabyte, 2);
        CHECK(intact(big));
    }
    {
        Workspace inner;
        CHECK(inner.take(500) == first);
    }
    CHECK(outer.take(500) == first);
    CHECK(intact(kept));
}

TEST_CASE("workspace: an exception on the way gives the blocks back") {
    workspace_release();
    Workspace outer;
    void* first = nullptr;
    try {
        Workspace inner;
        first = inner.take(100);
        throw std::bad_alloc();
    } catch (const std::bad_alloc&) {
    }
    CHECK(outer.take(100) == first);
}

TEST_CASE("workspace: a steady state takes no memory from the system") {
    workspace_release();
    CHECK(workspace_kept() == 0);
    const auto call = [] {
        Workspace scratch;
        scratch.take(3 * megabyte);
        scratch.take(5 * megabyte);
        return scratch.take(megabyte);
    };
    call();  // several chunks
    call();  // one chunk that holds them all
    const std::size_t kept = workspace_kept();
    CHECK(kept >= 9 * megabyte);
    void* block = call();
    for (int i = 0; i < 3; ++i) CHECK(call() == block);
    CHECK(workspace_kept() == kept);
    workspace_release();
    CHECK(workspace_kept() == 0);
}

TEST_CASE("workspace: more than the limit is given back, less is kept") {
    workspace_release();
    { Workspace scratch; scratch.take(65 * megabyte); }
    CHECK(workspace_kept() == 0);
    { Workspace scratch; scratch.take(8 * megabyte); }
    CHECK(workspace_kept() >= 8 * megabyte);
    CHECK(workspace_kept() <= 64 * megabyte);
    for (int i = 0; i < 3; ++i) {
        Workspace scratch;
        scratch.take(40 * megabyte);
        scratch.take(40 * megabyte);
    }
    CHECK(workspace_kept() <= 64 * megabyte);
    workspace_release();
}

TEST_CASE("workspace: releasing under a living workspace does nothing") {
    Workspace scratch;
    const Block block = take(scratch, 5000, 9);
    workspace_release();
    CHECK(workspace_kept() > 0);
    CHECK(intact(block));
}

TEST_CASE("workspace: memory that does not exist is std::bad_alloc, and the stack stays usable") {
    Workspace scratch;
    const Block block = take(scratch, 100, 3);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // there the allocator ends the process instead
    CHECK_THROWS_AS(scratch.take(std::size_t{1} << 60), std::bad_alloc);
#endif
    CHECK(intact(take(scratch, 100, 4)));
    CHECK(intact(block));
}

TEST_CASE("workspace: every thread has its own") {
    workspace_release();
    Workspace scratch;
    const Block mine = take(scratch, 1000, 5);
    std::thread([&] {
        CHECK(workspace_kept() == 0);
        Workspace other;
        const Block theirs = take(other, 1000, 6);
        CHECK(theirs.data != mine.data);
        CHECK(intact(theirs));
    }).join();
    CHECK(intact(mine));
}
