// Memory on a device that outlives a call, and calls that take turns with it on whatever streams they come.
#pragma once

#include <cstddef>
#include <stdexcept>

#include "cuda/copy.h"

namespace raphson::cuda {

// Zeros at first; freed in the order of the stream it was made on.
template <class T>
class Kept {
public:
    Kept(int64_t count, CudaPlace place) : scratch_(place), bytes_(static_cast<std::size_t>(count) * sizeof(T)) {
        if (count == 0) return;
        data_ = scratch_.take_array<T>(count);
        check(cudaMemsetAsync(data_, 0, bytes_, stream(place)), "clearing memory that is kept");
    }
    T* get() const { return data_; }
    std::size_t bytes() const { return bytes_; }

private:
    Scratch scratch_;
    std::size_t bytes_;
    T* data_ = nullptr;
};

// Of an object with memory of its own: to be its last member, so that it ends before the memory does.
class Turns {
public:
    explicit Turns(CudaPlace made) : made_(made), last_(made) {}
    ~Turns() {
        try {
            order(last_, made_);  // what still runs elsewhere is over before the memory goes
        } catch (const std::runtime_error&) {
            return;  // the driver is gone or broken: whoever calls it next is told
        }
    }
    Turns(const Turns&) = delete;
    Turns& operator=(const Turns&) = delete;

private:
    friend class Turn;
    CudaPlace made_, last_;
};

// One call: its device, and the order with the calls before on other streams.
class Turn {
public:
    Turn(Turns& turns, CudaPlace place) : guard_(place.device) {
        order(turns.last_, place);
        turns.last_ = place;
    }

private:
    DeviceGuard guard_;
};

}  // namespace raphson::cuda
