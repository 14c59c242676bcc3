#ifndef __x86_64__
#include <ucontext.h>
#endif

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda_runtime.h"

namespace emulation {

uint3 thread{}, block{};
dim3 block_size, grid_size;
unsigned char* shared = nullptr;
std::size_t launches = 0;

namespace {

constexpr std::size_t stack_bytes = 128 * 1024;
constexpr std::size_t most_shared = 227 * 1024;

struct Barrier {
    int arrived = 0;
    std::uint64_t generation = 0;
};

// ucontext asks the kernel at every switch; a test changes fibers a hundred million times.
#ifdef __x86_64__
using Context = void*;  // the stack pointer, above what a function must preserve
extern "C" void raphson_switch_fiber(Context* from, Context to);
asm(R"(
.text
.globl raphson_switch_fiber
.type raphson_switch_fiber, @function
raphson_switch_fiber:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
void switch_to(Context* from, Context* to) { raphson_switch_fiber(from, *to); }
void prepare(Context* fiber, char* stack, std::size_t bytes, void (*entry)()) {
    const auto top = (reinterpret_cast<std::uintptr_t>(stack) + bytes) / 16 * 16;
    auto* const words = reinterpret_cast<std::uintptr_t*>(top) - 8;  // six registers, the entry, and where it would return to
    std::fill(words, words + 8, 0);
    words[6] = reinterpret_cast<std::uintptr_t>(entry);
    *fiber = words;
}
#else
using Context = ucontext_t;
void switch_to(Context* from, Context* to) { swapcontext(from, to); }
void prepare(Context* fiber, char* stack, std::size_t bytes, void (*entry)()) {
    getcontext(fiber);
    fiber->uc_stack.ss_sp = stack;
    fiber->uc_stack.ss_size = bytes;
    fiber->uc_link = nullptr;
    makecontext(fiber, entry, 0);
}
#endif

struct Fiber {
    Context context;
    std::unique_ptr<char[]> stack;
    uint3 thread;
    bool done;
};

std::recursive_mutex one_launch;
std::vector<std::unique_ptr<Fiber>> fibers;
Context scheduler;
Fiber* current = nullptr;
const std::function<void()>* body_of_block = nullptr;
int alive = 0;
std::vector<int> alive_in_warp;
Barrier of_block;
std::vector<Barrier> of_warp;
std::map<int, Barrier> named;
std::vector<unsigned char> slots;
std::uint64_t progress = 0;  // barriers passed and threads ended: none for long is a deadlock

void release_if_complete(Barrier& barrier, int expected) {
    if (expected == 0 || barrier.arrived < expected) return;
    barrier.arrived = 0;
    ++barrier.generation;
    ++progress;
}

template <class Expected>
void wait(Barrier& barrier, Expected expected) {
    const std::uint64_t mine = barrier.generation;
    ++barrier.arrived;
    release_if_complete(barrier, expected());
    while (barrier.generation == mine) switch_to(&current->context, &scheduler);
}

std::size_t warp() { return thread.x / 32; }

void fiber_main() {
    (*body_of_block)();
    current->done = true;
    --alive;
    --alive_in_warp[warp()];
    ++progress;
    release_if_complete(of_block, alive);
    release_if_complete(of_warp[warp()], alive_in_warp[warp()]);
    switch_to(&current->context, &scheduler);
}

// Forwards, backwards, and evens before odds, in turn.
std::vector<int> in_order(std::size_t count, std::size_t kind) {
    std::vector<int> order;
    if (kind % 3 == 2) {
        for (std::size_t first = 0; first < 2; ++first) {
            for (std::size_t i = first; i < count; i += 2) order.push_back(static_cast<int>(i));
        }
    } else {
        for (std::size_t i = 0; i < count; ++i) order.push_back(static_cast<int>(i));
        if (kind % 3 == 1) std::reverse(order.begin(), order.end());
    }
    return order;
}

void run_block(int count, std::size_t kind) {
    const std::vector<int> of_warp_order = in_order(32, kind);
    while (fibers.size() < static_cast<std::size_t>(count)) {
        fibers.push_back(std::make_unique<Fiber>());
        fibers.back()->stack = std::make_unique<char[]>(stack_bytes);
    }
    alive = count;
    alive_in_warp.assign(static_cast<std::size_t>(count + 31) / 32, 0);
    for (int i = 0; i < count; ++i) ++alive_in_warp[static_cast<std::size_t>(i / 32)];
    of_block = {};
    of_warp.assign(alive_in_warp.size(), {});
    named.clear();
    slots.assign(static_cast<std::size_t>(count + 31) / 32 * 32 * 64, 0);
    for (int i = 0; i < count; ++i) {
        Fiber& f = *fibers[static_cast<std::size_t>(i)];
        f.done = false;
        f.thread = {static_cast<unsigned>(i), 0, 0};
        prepare(&f.context, f.stack.get(), stack_bytes, fiber_main);
    }
    // A warp runs as far as it can before the next one moves, so that what a missing barrier would let through is seen.
    const std::vector<int> warps = in_order(alive_in_warp.size(), kind);
    std::uint64_t seen = progress;
    for (int idle = 0; alive > 0;) {
        for (const int w : warps) {
            std::uint64_t before;
            do {
                before = progress;
                for (const int in_warp : of_warp_order) {
                    const int i = 32 * w + in_warp;
                    if (i >= count || fibers[static_cast<std::size_t>(i)]->done) continue;
                    current = fibers[static_cast<std::size_t>(i)].get();
                    thread = current->thread;
                    switch_to(&scheduler, &current->context);
                }
            } while (progress != before && alive_in_warp[static_cast<std::size_t>(w)] > 0);
        }
        idle = progress == seen ? idle + 1 : 0;
        seen = progress;
        if (idle > 100000) {
            std::fprintf(stderr, "emulated CUDA: block (%u, %u, %u) waits for ever, %d threads left\n", block.x, block.y, block.z, alive);
            std::abort();
        }
    }
}

}  // namespace

void* warp_slot(int lane) { return slots.data() + (warp() * 32 + static_cast<std::size_t>(lane)) * 64; }
void barrier() {
    wait(of_block, [] { return alive; });
}
void barrier(int id, int threads) {
    wait(named[id], [=] { return threads; });
}
void warp_barrier() {
    const std::size_t w = warp();
    wait(of_warp[w], [=] { return alive_in_warp[w]; });
}
void give_way() { switch_to(&current->context, &scheduler); }

void run(dim3 grid, dim3 threads, std::size_t shared_bytes, const std::function<void()>& body) {
    const std::lock_guard<std::recursive_mutex> lock(one_launch);
    if (threads.x > 1024 || threads.y != 1 || threads.z != 1 || shared_bytes > most_shared) {
        std::fprintf(stderr, "emulated CUDA: a launch of %u threads with %zu bytes\n", threads.x, shared_bytes);
        std::abort();
    }
    block_size = threads;
    grid_size = grid;
    body_of_block = &body;
    const std::size_t blocks = std::size_t{grid.x} * grid.y * grid.z;
    const std::vector<int> of_blocks = in_order(blocks, launches);
    const std::size_t of_threads = launches / 3;
    ++launches;
    std::vector<unsigned char> room(shared_bytes + 1024);
    shared = room.data() + (1024 - reinterpret_cast<std::uintptr_t>(room.data()) % 1024);
    for (const int b : of_blocks) {
        const auto i = static_cast<unsigned>(b);
        block = {i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y};
        std::fill(shared, shared + shared_bytes, static_cast<unsigned char>(0xff));
        run_block(static_cast<int>(threads.x), of_threads);
    }
}

}  // namespace emulation

namespace {
const char* const names[] = {"no error", "invalid value"};
}

cudaError_t cudaMallocFromPoolAsync(void** p, std::size_t bytes, cudaMemPool_t, cudaStream_t) {
    *p = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (*p == nullptr) return cudaErrorMemoryAllocation;
    std::memset(*p, 0xff, bytes);  // NaN in every type
    return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t) {
    std::free(p);
    return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
    *count = 1;
    return cudaSuccess;
}
// A Hopper with few processors, so that persistent kernels have several pieces of work each.
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    *value = attribute == cudaDevAttrMultiProcessorCount      ? 3
             : attribute == cudaDevAttrComputeCapabilityMajor ? 9
             : attribute == cudaDevAttrComputeCapabilityMinor ? 0
             : attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 227 * 1024
                                                                    : 0;
    return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t error) { return error < 2 ? names[error] : "out of memory"; }
