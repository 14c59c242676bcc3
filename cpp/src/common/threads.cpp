#include "common/threads.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

#include "raphson/runtime.h"
#include "raphson/status.h"

namespace raphson {

using Clock = std::chrono::steady_clock;

// What a thread knows of the computation it takes part in. `flag` is its own on the calling thread, the caller's on a
// pool thread that works for it, null where nobody can cancel.
struct PollState {
    PollScope* scope = nullptr;
    std::atomic<bool>* flag = nullptr;
    std::atomic<bool> own_flag{false};
    Clock::time_point next_poll;
    bool in_task = false;

    bool poll() {
        if (scope != nullptr && !flag->load(std::memory_order_relaxed)) {
            const Clock::time_point now = Clock::now();
            if (now >= next_poll) {
                if (scope->poll_(scope->context_)) flag->store(true, std::memory_order_relaxed);
                next_poll = Clock::now() + std::chrono::milliseconds(20);
            }
        }
        return flag != nullptr && flag->load(std::memory_order_relaxed);
    }
};

namespace {

constexpr int max_threads = 1024;
constexpr std::chrono::microseconds spin_time{50};

thread_local PollState tls;

void pause_cpu() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__) && !defined(_MSC_VER)
    __asm__ __volatile__("yield");
#endif
}

// Spins until `ready()` or until the spin time is over; true when ready.
template <class Ready>
bool spin_until(Ready ready) {
    const Clock::time_point deadline = Clock::now() + spin_time;
    do {
        for (int i = 0; i < 64; ++i) {
            if (ready()) return true;
            pause_cpu();
        }
    } while (Clock::now() < deadline);
    return ready();
}

void run_tasks(TaskFn fn, void* context, std::int64_t tasks) {
    for (std::int64_t t = 0; t < tasks && !tls.poll(); ++t) fn(context, t);
}

class Pool {
public:
    explicit Pool(int threads) : threads_(threads) {
        workers_.reserve(static_cast<std::size_t>(threads - 1));
        try {
            for (int i = 0; i + 1 < threads; ++i) workers_.emplace_back([this, i] { work(i); });
        } catch (const std::system_error&) {
            // The system gives no more threads: the same tasks run on those there are.
        }
    }
    ~Pool() {
        {
            const std::lock_guard<std::mutex> lock(sleep_mutex_);
            quit_.store(true);
        }
        sleep_.notify_all();
        for (std::thread& worker : workers_) worker.join();
    }
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return threads_; }

    // One run at a time; the caller holds the pool's busy lock.
    void run(TaskFn fn, void* context, std::int64_t tasks) {
        fn_ = fn;
        context_ = context;
        tasks_ = tasks;
        flag_ = tls.flag;
        error_ = nullptr;
        next_.store(0, std::memory_order_relaxed);
        generation_.fetch_add(1);  // odd: open. Sequentially consistent, as is every step of joining and closing.
        if (sleepers_.load() > 0) {
            { const std::lock_guard<std::mutex> lock(sleep_mutex_); }
            sleep_.notify_all();
        }
        take_tasks();
        generation_.fetch_add(1);  // even: closed, nobody can join any more
        if (!spin_until([this] { return inside_.load() == 0; })) {
            std::unique_lock<std::mutex> lock(done_mutex_);
            caller_waits_.store(true);
            done_.wait(lock, [this] { return inside_.load() == 0; });
            caller_waits_.store(false);
        }
        if (error_ != nullptr) std::rethrow_exception(std::exchange(error_, nullptr));
    }

private:
    void take_tasks() {
        const bool outer = tls.in_task;
        tls.in_task = true;
        try {
            for (;;) {
                const std::int64_t t = next_.fetch_add(1, std::memory_order_relaxed);
                if (t >= tasks_ || tls.poll()) break;
                fn_(context_, t);
            }
        } catch (...) {  // carried to the caller of parallel_for, whichever thread it happened on
            next_.store(tasks_, std::memory_order_relaxed);
            const std::lock_guard<std::mutex> lock(done_mutex_);
            if (error_ == nullptr) error_ = std::current_exception();
        }
        tls.in_task = outer;
    }

    void work(int index) {
        std::uint64_t seen = 0;
        for (;;) {
            const auto news = [&] { return quit_.load() || ((generation_.load() & 1u) != 0 && generation_.load() != seen); };
            if (!spin_until(news)) {
                std::unique_lock<std::mutex> lock(sleep_mutex_);
                sleepers_.fetch_add(1);
                sleep_.wait(lock, news);
                sleepers_.fetch_sub(1);
            }
            if (quit_.load()) return;
            const std::uint64_t generation = generation_.load();
            if ((generation & 1u) == 0 || generation == seen) continue;
            inside_.fetch_add(1);
            if (generation_.load() == generation) {  // still open, so the caller now waits for us to leave
                seen = generation;
                if (index + 1 < tasks_) {
                    tls.flag = flag_;
                    take_tasks();
                    tls.flag = nullptr;
                }
            }
            if (inside_.fetch_sub(1) == 1 && caller_waits_.load()) {
                { const std::lock_guard<std::mutex> lock(done_mutex_); }
                done_.notify_one();
            }
        }
    }

    const int threads_;
    TaskFn fn_ = nullptr;
    void* context_ = nullptr;
    std::int64_t tasks_ = 0;
    std::atomic<bool>* flag_ = nullptr;
    std::exception_ptr error_;  // guarded by done_mutex_ while tasks run
    alignas(64) std::atomic<std::int64_t> next_{0};
    alignas(64) std::atomic<std::uint64_t> generation_{0};
    alignas(64) std::atomic<int> inside_{0};
    std::atomic<int> sleepers_{0};
    std::atomic<bool> caller_waits_{false};
    std::atomic<bool> quit_{false};
    std::mutex sleep_mutex_, done_mutex_;
    std::condition_variable sleep_, done_;
    std::vector<std::thread> workers_;
};

// Everything that a fork leaves behind in an unusable state sits in one object, so that the child can start a new one.
struct PoolHome {
    std::mutex busy;
    Pool* pool = nullptr;  // guarded by busy
};

std::atomic<PoolHome*> home{nullptr};
std::atomic<int> wanted_threads{0};

#if defined(__unix__) || defined(__APPLE__)
void forget_pool_in_child() {
    home.store(nullptr);  // its threads exist in the parent only; the memory is left to the parent's copy
    tls.in_task = false;
}
#endif

PoolHome& pool_home() {
    PoolHome* current = home.load(std::memory_order_acquire);
    if (current != nullptr) return *current;
#if defined(__unix__) || defined(__APPLE__)
    static const int registered = pthread_atfork(nullptr, nullptr, forget_pool_in_child);
    (void)registered;
#endif
    auto* fresh = new PoolHome;
    if (home.compare_exchange_strong(current, fresh)) return *fresh;
    delete fresh;
    return *current;
}

int usable_cpus() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    const unsigned n = std::thread::hardware_concurrency();
    return n == 0 ? 1 : static_cast<int>(n);
}

int default_threads() {
    const char* text = std::getenv("RAPHSON_NUM_THREADS");
    if (text == nullptr || *text == '\0') return usable_cpus() < max_threads ? usable_cpus() : max_threads;
    char* end = nullptr;
    const long n = std::strtol(text, &end, 10);
    if (*end != '\0' || n < 1 || n > max_threads) {
        throw std::invalid_argument("RAPHSON_NUM_THREADS must be an integer from 1 to 1024, got '" + std::string(text) +
                                    "'");
    }
    return static_cast<int>(n);
}

}  // namespace

PollScope::PollScope(Poll poll, void* context) noexcept : poll_(poll), context_(context), outer_(tls.scope) {
    if (outer_ == nullptr) {
        tls.own_flag.store(false, std::memory_order_relaxed);
        tls.flag = &tls.own_flag;
        tls.next_poll = Clock::now() + std::chrono::milliseconds(20);
    }
    tls.scope = this;
}

PollScope::~PollScope() {
    tls.scope = outer_;
    if (outer_ == nullptr) tls.flag = nullptr;
}

PollPause::PollPause() noexcept : scope_(tls.scope), flag_(tls.flag) {
    tls.scope = nullptr;
    tls.flag = nullptr;
}
PollPause::~PollPause() {
    tls.scope = scope_;
    tls.flag = flag_;
}

bool cancelled() { return tls.flag != nullptr && tls.flag->load(std::memory_order_relaxed); }
bool poll_cancelled() { return tls.poll(); }
void throw_if_cancelled() {
    if (cancelled()) throw Cancelled();
}
void poll_or_throw() {
    if (poll_cancelled()) throw Cancelled();
}

int get_num_threads() {
    int n = wanted_threads.load(std::memory_order_relaxed);
    if (n == 0) {
        int expected = 0;
        n = default_threads();
        if (!wanted_threads.compare_exchange_strong(expected, n)) n = expected;
    }
    return n;
}

void set_num_threads(int count) {
    if (count < 1 || count > max_threads) {
        throw std::invalid_argument("set_num_threads: count must be from 1 to 1024, got " + std::to_string(count));
    }
    wanted_threads.store(count);
}

void parallel_for(std::int64_t tasks, TaskFn fn, void* context) {
    const int threads = tasks < 2 || tls.in_task ? 1 : get_num_threads();
    if (threads == 1) return run_tasks(fn, context, tasks);
    PoolHome& pools = pool_home();
    const std::unique_lock<std::mutex> busy(pools.busy, std::try_to_lock);
    if (!busy.owns_lock()) return run_tasks(fn, context, tasks);
    if (pools.pool == nullptr || pools.pool->threads() != threads) {
        delete pools.pool;
        pools.pool = nullptr;
        pools.pool = new Pool(threads);
    }
    pools.pool->run(fn, context, tasks);
}

}  // namespace raphson
