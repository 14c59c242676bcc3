// The pool: every task once, in every state that the pool and its callers can be in.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#if defined(__unix__)
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "common/threads.h"
#include "raphson/runtime.h"
#include "raphson/status.h"
#include "support.h"

using namespace raphson;
using std::int64_t;
using Clock = std::chrono::steady_clock;

namespace {

struct Threads {  // the count that a test sets ends with the test
    int before = get_num_threads();
    explicit Threads(int count) { set_num_threads(count); }
    ~Threads() { set_num_threads(before); }
};

template <class F>
void run(int64_t tasks, F f) {
    parallel_for(tasks, [](void* context, int64_t task) { (*static_cast<F*>(context))(task); }, &f);
}

// True if every one of `tasks` tasks ran exactly once.
bool each_once(int64_t tasks) {
    std::vector<std::atomic<int>> ran(static_cast<std::size_t>(tasks));
    run(tasks, [&](int64_t task) { ++ran[static_cast<std::size_t>(task)]; });
    return std::all_of(ran.begin(), ran.end(), [](const auto& count) { return count == 1; });
}

// Waits until `ready`, long enough for a loaded machine under an emulator; false if it never came.
template <class Ready>
bool wait_for(Ready ready) {
    const auto end = Clock::now() + std::chrono::seconds(60);
    while (!ready()) {
        if (Clock::now() > end) return false;
        std::this_thread::yield();
    }
    return true;
}

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

struct Poll {  // asks for the end once `after` seconds have passed, and remembers how it was called
    double after;
    std::thread::id home = std::this_thread::get_id();
    Clock::time_point start = Clock::now();
    std::vector<double> calls;
    bool elsewhere = false;

    explicit Poll(double after_) : after(after_) {}
    static bool call(void* context) {
        Poll& self = *static_cast<Poll*>(context);
        self.elsewhere |= std::this_thread::get_id() != self.home;
        self.calls.push_back(seconds_since(self.start));
        return self.calls.back() >= self.after;
    }
};

void sleep_a_little() { std::this_thread::sleep_for(std::chrono::milliseconds(1)); }

}  // namespace

TEST_CASE("environment: the number of threads is what RAPHSON_NUM_THREADS asks for") {
    if (const char* expected = std::getenv("RAPHSON_EXPECT_THREADS")) CHECK(get_num_threads() == std::atoi(expected));
}

TEST_CASE("threads: each task exactly once") {
    for (const int threads : {1, 2, 3, 8}) {
        const Threads scope(threads);
        CAPTURE(threads);
        for (const int64_t tasks : {0, 1, 2, 3, 7, 8, 9, 64, 1000, 30000}) CHECK(each_once(tasks));
    }
}

TEST_CASE("threads: many short runs in a row, awake and asleep") {
    for (const int threads : {2, 3, 8}) {
        const Threads scope(threads);
        bool all = true;
        for (int i = 0; i < 3000; ++i) all &= each_once(i % 20);
        CHECK(all);
        for (int i = 0; i < 20; ++i) {
            sleep_a_little();  // longer than the pool spins
            all &= each_once(i);
        }
        CHECK(all);
    }
}

TEST_CASE("threads: the pool's threads take part, as many as were asked for") {
    for (const int threads : {2, 3, 8}) {
        const Threads scope(threads);
        std::atomic<int> inside{0};
        std::atomic<bool> met{true};
        std::mutex mutex;
        std::set<std::thread::id> ids;
        run(threads, [&](int64_t) {
            {
                const std::lock_guard<std::mutex> lock(mutex);
                ids.insert(std::this_thread::get_id());
            }
            ++inside;
            if (!wait_for([&] { return inside.load() >= threads; })) met = false;
        });
        CHECK(met);
        CHECK(ids.size() == static_cast<std::size_t>(threads));
        CHECK(ids.count(std::this_thread::get_id()) == 1);
    }
}

TEST_CASE("threads: a parallel_for within a task runs on that task's thread, in order") {
    const Threads scope(3);
    std::vector<std::atomic<int>> ran(16 * 50);
    std::atomic<int> wrong{0};
    run(16, [&](int64_t outer) {
        const auto thread = std::this_thread::get_id();
        int64_t next = 0;
        run(50, [&](int64_t inner) {
            if (std::this_thread::get_id() != thread || inner != next++) ++wrong;
            ++ran[static_cast<std::size_t>(outer * 50 + inner)];
            if (!each_once(3)) ++wrong;  // and within that
        });
    });
    CHECK(wrong == 0);
    CHECK(std::all_of(ran.begin(), ran.end(), [](const auto& count) { return count == 1; }));
}

TEST_CASE("threads: while the pool is busy, other callers do their own work, in order") {
    const Threads scope(2);
    std::atomic<bool> pool_taken{false}, other_done{false}, waited{true};
    std::thread holder([&] {
        run(2, [&](int64_t) {
            pool_taken = true;
            if (!wait_for([&] { return other_done.load(); })) waited = false;
        });
    });
    REQUIRE(wait_for([&] { return pool_taken.load(); }));
    const auto thread = std::this_thread::get_id();
    int64_t next = 0;
    bool in_order = true;
    run(100, [&](int64_t task) { in_order &= std::this_thread::get_id() == thread && task == next++; });
    other_done = true;
    holder.join();
    CHECK(in_order);
    CHECK(next == 100);
    CHECK(waited);
}

TEST_CASE("threads: several callers at once, while the count changes") {
    const Threads scope(2);
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    for (int c = 0; c < 4; ++c) {
        callers.emplace_back([&] {
            for (int i = 0; i < 200; ++i) wrong += each_once(i % 30) ? 0 : 1;
        });
    }
    for (int i = 0; i < 50; ++i) {
        set_num_threads(1 + i % 5);
        std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    for (std::thread& caller : callers) caller.join();
    CHECK(wrong == 0);
}

TEST_CASE("threads: an exception of a task reaches the caller, and the pool works on") {
    for (const int threads : {1, 2, 3, 8}) {
        const Threads scope(threads);
        CAPTURE(threads);
        for (const int64_t bad : {0, 1, 57, 99}) {
            std::atomic<int> ran{0};
            std::string what;
            try {
                run(100, [&](int64_t task) {
                    if (task == bad) throw std::runtime_error("task " + std::to_string(task));
                    ++ran;
                });
            } catch (const std::runtime_error& error) {
                what = error.what();
            }
            CHECK(what == "task " + std::to_string(bad));
            CHECK(ran < 100);
            if (threads == 1) CHECK(ran == bad);
            CHECK(each_once(100));
        }
        CHECK_THROWS_AS(run(8, [](int64_t) { throw std::bad_alloc(); }), std::bad_alloc);  // all at once: one arrives
        CHECK(each_once(100));
    }
}

TEST_CASE("threads: an exception on a pool thread, and one in a task within a task") {
    const Threads scope(2);
    const auto caller = std::this_thread::get_id();
    std::atomic<bool> thrown{false}, seen{true};
    CHECK_THROWS_WITH_AS(run(2,
                             [&](int64_t) {
                                 if (std::this_thread::get_id() != caller) {
                                     thrown = true;
                                     throw std::runtime_error("from the pool");
                                 }
                                 if (!wait_for([&] { return thrown.load(); })) seen = false;
                             }),
                         "from the pool", std::runtime_error);
    CHECK(seen);
    CHECK_THROWS_WITH_AS(run(4,
                             [](int64_t outer) {
                                 run(4, [outer](int64_t inner) {
                                     if (outer == 2 && inner == 3) throw std::runtime_error("within");
                                 });
                             }),
                         "within", std::runtime_error);
    CHECK(each_once(100));  // and the caller is no longer taken to be inside a task:
    std::atomic<int> inside{0};
    std::atomic<bool> met{true};
    run(2, [&](int64_t) {
        ++inside;
        if (!wait_for([&] { return inside.load() == 2; })) met = false;
    });
    CHECK(met);
}

TEST_CASE("threads: set_num_threads takes 1 to 1024") {
    const Threads scope(2);
    for (const int count : {0, -1, 1025, 1 << 30}) {
        CAPTURE(count);
        CHECK(support::refusal([&] { set_num_threads(count); }) ==
              "set_num_threads: count must be from 1 to 1024, got " + std::to_string(count));
        CHECK(get_num_threads() == 2);
    }
    set_num_threads(5);
    CHECK(get_num_threads() == 5);
    CHECK(each_once(100));
}

TEST_CASE("cancel: a poll ends the tasks that have not begun, on all threads, soon") {
    for (const int threads : {1, 2, 3}) {
        const Threads scope(threads);
        Poll poll(0.05);
        std::atomic<int> ran{0};
        {
            const PollScope polling(Poll::call, &poll);
            CHECK_FALSE(cancelled());
            run(1000000, [&](int64_t) {
                sleep_a_little();
                ++ran;
            });
            CHECK(cancelled());
            CHECK_THROWS_AS(throw_if_cancelled(), Cancelled);
        }
        CAPTURE(threads);
        CHECK(ran > 0);
        CHECK(seconds_since(poll.start) < 5);  // of the 1000 s; 0.05 s and a loaded machine
        CHECK_FALSE(poll.elsewhere);
        REQUIRE(poll.calls.size() >= 2);
        for (std::size_t i = 1; i < poll.calls.size(); ++i) CHECK(poll.calls[i] - poll.calls[i - 1] >= 0.0199);
        CHECK_FALSE(cancelled());  // the scope is over, and what comes next is whole
        CHECK_NOTHROW(throw_if_cancelled());
        CHECK(each_once(100));
        const PollScope again(Poll::call, &poll);
        CHECK_FALSE(cancelled());
    }
}

TEST_CASE("cancel: pool threads within nested parallel_for see it too") {
    const Threads scope(2);
    Poll poll(0.04);
    const PollScope polling(Poll::call, &poll);
    std::atomic<int> whole{0};
    run(2, [&](int64_t) {
        run(1000000, [](int64_t) { sleep_a_little(); });
        if (!cancelled()) ++whole;
    });
    CHECK(whole == 0);
    CHECK(seconds_since(poll.start) < 5);
}

TEST_CASE("cancel: a poll that never asks changes nothing; without a scope nobody polls") {
    const Threads scope(2);
    Poll poll(1e9);
    {
        const PollScope polling(Poll::call, &poll);
        while (poll.calls.size() < 2 && seconds_since(poll.start) < 5) {
            CHECK(each_once(20));
            sleep_a_little();
        }
        CHECK_FALSE(cancelled());
    }
    CHECK(poll.calls.size() >= 2);
    const std::size_t calls = poll.calls.size();
    for (int i = 0; i < 30; ++i) {
        sleep_a_little();
        CHECK_FALSE(poll_cancelled());
    }
    CHECK(poll.calls.size() == calls);
}

TEST_CASE("cancel: poll_cancelled serves long serial work") {
    Poll poll(0.03);
    const PollScope polling(Poll::call, &poll);
    CHECK(wait_for([] { return poll_cancelled(); }));
    CHECK(cancelled());
}

TEST_CASE("cancel: a pause neither polls nor sees a cancellation, and ends") {
    const Threads scope(2);
    Poll poll(0);
    const PollScope polling(Poll::call, &poll);
    REQUIRE(wait_for([] { return poll_cancelled(); }));
    const std::size_t calls = poll.calls.size();
    {
        const PollPause pause;
        CHECK_FALSE(cancelled());
        CHECK(each_once(100));
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
        CHECK_FALSE(poll_cancelled());
        CHECK(each_once(100));
    }
    CHECK(poll.calls.size() == calls);
    CHECK(cancelled());
    CHECK_FALSE(each_once(100));  // nothing begins any more
}

TEST_CASE("cancel: a scope is its own thread's") {
    Poll poll(0);
    const PollScope polling(Poll::call, &poll);
    REQUIRE(wait_for([] { return poll_cancelled(); }));
    bool whole = false;
    std::thread([&] { whole = !cancelled() && each_once(100); }).join();
    CHECK(whole);
}

TEST_CASE("cancel: a task's exception outlives a cancellation") {
    const Threads scope(2);
    Poll poll(0.02);
    const PollScope polling(Poll::call, &poll);
    CHECK_THROWS_AS(run(1000000,
                        [](int64_t) {
                            sleep_a_little();
                            if (cancelled()) throw std::runtime_error("on the way out");
                        }),
                    std::runtime_error);
}

// ThreadSanitizer does not follow a fork of a process with threads.
#if defined(__unix__) && !defined(__SANITIZE_THREAD__)

namespace {

// What the child's work returns, by way of its exit status; -1 if it did not end properly.
template <class F>
int in_child(F work) {
    const pid_t pid = fork();
    if (pid == 0) {
        alarm(60);
        _exit(work() ? 0 : 1);
    }
    int status = 0;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status)) return -1;
    return WEXITSTATUS(status);
}

bool two_threads_meet() {
    std::atomic<int> inside{0};
    std::atomic<bool> met{true};
    run(2, [&](int64_t) {
        ++inside;
        if (!wait_for([&] { return inside.load() == 2; })) met = false;
    });
    return met;
}

}  // namespace

TEST_CASE("fork: the child has a pool of its own, the parent keeps its") {
    const Threads scope(2);
    CHECK(two_threads_meet());
    CHECK(in_child([] { return get_num_threads() == 2 && two_threads_meet() && each_once(1000); }) == 0);
    CHECK(in_child([] { return in_child([] { return two_threads_meet(); }) == 0 && two_threads_meet(); }) == 0);
    CHECK(two_threads_meet());
}

TEST_CASE("fork: from within a task, and while another thread has the pool") {
    const Threads scope(2);
    std::atomic<int> child{-2};
    run(2, [&](int64_t task) {
        if (task == 0) child = in_child([] { return two_threads_meet(); });
    });
    CHECK(child == 0);
    std::atomic<bool> taken{false}, done{false};
    std::thread holder([&] {
        run(2, [&](int64_t) {
            taken = true;
            wait_for([&] { return done.load(); });
        });
    });
    REQUIRE(wait_for([&] { return taken.load(); }));
    CHECK(in_child([] { return two_threads_meet(); }) == 0);
    done = true;
    holder.join();
    CHECK(two_threads_meet());
}

#endif
