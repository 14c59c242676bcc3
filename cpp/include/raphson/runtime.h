// What holds for the whole process: threads, cancellation, and what this build is.
#pragma once

#include <string>
#include <vector>

namespace raphson {

// Number of threads that take part in a computation, the caller's included. The default is RAPHSON_NUM_THREADS, else
// the number of CPUs this process may run on. The count never changes a bit of any result.
int get_num_threads();
void set_num_threads(int count);  // 1 to 1024, else std::invalid_argument

// While a PollScope lives, computations begun on this thread call `poll(context)` between tiles, at most about every
// 20 ms and only on this thread. Once it returns true the computation ends with raphson::Cancelled; memory the caller
// owns is then either untouched or, for batched calls, complete matrix by matrix.
class PollScope {
public:
    using Poll = bool (*)(void* context);
    PollScope(Poll poll, void* context) noexcept;
    ~PollScope();
    PollScope(const PollScope&) = delete;
    PollScope& operator=(const PollScope&) = delete;

private:
    friend struct PollState;
    Poll poll_;
    void* context_;
    PollScope* outer_;
};

struct BuildInfo {
    std::string version;
    std::string isa;                // in use
    std::vector<std::string> isas;  // built into this library, lowest first
    std::string eigen;
};
BuildInfo build_info();  // std::invalid_argument when RAPHSON_ISA holds an unknown name

}  // namespace raphson
