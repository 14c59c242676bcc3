// One pool for the whole library. Work is cut into tasks by its shape alone; which thread runs a task is chance, what a
// task computes is not. So results are bitwise the same for any number of threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <type_traits>

namespace raphson {

class PollScope;

// Tasks are called as fn(context, task) for task = 0 … tasks-1, each exactly once, in any order. An exception (memory may
// end) keeps the tasks that have not begun from running and reaches the caller of parallel_for.
using TaskFn = void (*)(void* context, std::int64_t task);

// Runs the tasks on the caller's thread and the pool's, and returns when all have ended. Within a task, or while another
// thread keeps the pool busy, the caller's thread runs them all, in order. After a cancellation the tasks that have not
// begun are skipped: the driver must ask cancelled() before it uses what they were to compute.
void parallel_for(std::int64_t tasks, TaskFn fn, void* context);

// The same with anything that can be called with a task's number.
template <class Task>
void parallel_for(std::int64_t tasks, Task&& task) {
    using Callable = std::remove_reference_t<Task>;
    parallel_for(
        tasks, [](void* context, std::int64_t i) { (*static_cast<Callable*>(context))(i); },
        const_cast<void*>(static_cast<const void*>(&task)));
}

// True once a PollScope of the computation running here has asked for its end. Cheap: reads a flag.
bool cancelled();
// Calls the poll if its interval has passed; for long serial stretches between parallel_for calls. Returns cancelled().
bool poll_cancelled();
// Throws raphson::Cancelled if cancelled().
void throw_if_cancelled();
// The same after a poll_cancelled(): for the steps of a serial loop.
void poll_or_throw();

// While it lives, work begun on this thread neither polls nor sees a cancellation: for the last pass of a result, which
// must be written whole or not at all. Keep such stretches short.
class PollPause {
public:
    PollPause() noexcept;
    ~PollPause();
    PollPause(const PollPause&) = delete;
    PollPause& operator=(const PollPause&) = delete;

private:
    PollScope* scope_;
    std::atomic<bool>* flag_;
};

}  // namespace raphson
