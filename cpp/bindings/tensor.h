// The array bridge: any Python array in, pointers and strides out; results back in the caller's framework. The only part
// of the bindings that knows what an array is.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/table.h"
#include "dlpack/dlpack.h"
#include "exchange.h"
#include "newton_schulz/orthogonalize.h"
#include "raphson/view.h"

namespace raphson::bindings {

namespace py = pybind11;

// For messages: "orthogonalize: x must be …".
struct Where {
    const char* function;
    const char* argument;
};

enum class Access { read, write };

// Sets of dtypes a function takes.
constexpr unsigned bit(DType dtype) { return 1u << static_cast<unsigned>(dtype); }
constexpr unsigned float64_float32 = bit(DType::float64) | bit(DType::float32);
constexpr unsigned float64_float32_bfloat16 = float64_float32 | bit(DType::bfloat16);
// Added to a set: the function has CUDA kernels, which take float16 as well.
constexpr unsigned and_cuda = 1u << 30;

// One array argument, read without copying where its memory can be read. Lists, buffers and __array__ objects go through
// numpy.asarray; a layout that is no whole number of aligned elements is copied once. Throws TypeError for what is not a
// plain array of an allowed dtype and device, ValueError for an output that cannot be written, RuntimeError for a CUDA
// array that this installation or the function cannot serve. Needs the GIL, to destroy as well.
class Tensor {
public:
    Tensor(py::handle object, Where where, unsigned dtypes, Access access = Access::read);
    Tensor(const Tensor&) = delete;
    Tensor& operator=(const Tensor&) = delete;

    void* data() const { return data_; }
    DType dtype() const { return dtype_; }
    int ndim() const { return ndim_; }
    const std::int64_t* shape() const { return shape_; }
    const std::int64_t* strides() const { return strides_; }  // in elements
    const char* framework() const { return framework_; }
    Where where() const { return where_; }
    // Where the data lies and what stream to work on, as it was when the array was read; null on the CPU.
    const CudaPlace* cuda() const { return device_.device_type == kDLCPU ? nullptr : &place_; }
    std::int64_t size() const;
    std::string shape_text() const;
    BatchRef batch() const { return {data_, dtype_, ndim_, shape_, strides_}; }

    // ValueError unless the caller would see what is written here: for `out` given as the very object of an input.
    void require_writable(Where as) const;
    // Makes the view safe while the GIL is released, when another thread may resize or free the array.
    void hold();

private:
    friend class NewArray;
    void read_numpy(py::handle object);
    void read_exchange(const ExchangeType& type);
    bool may_be_lazy(const ExchangeType& type) const;
    void read_dlpack(py::handle object);
    void take_capsule(py::handle capsule);
    void read_tensor(const DLTensor& tensor);
    void convert(py::handle object);
    void set_dims(int ndim, const std::int64_t* shape, const std::int64_t* strides);
    void set_dtype(DLDataType type);
    void read_device(DLDevice device);
    [[noreturn]] void type_error(const std::string& what) const;
    [[noreturn]] void value_error(const std::string& what) const;

    Where where_;
    unsigned dtypes_;
    Access access_;
    DType dtype_ = DType::float64;
    bool writable_ = false;
    int ndim_ = 0;
    void* data_ = nullptr;
    const std::int64_t* shape_ = nullptr;
    std::int64_t* strides_ = nullptr;
    const char* framework_ = "numpy";
    const ExchangeType* exchange_ = nullptr;
    DLDevice device_{kDLCPU, 0};  // of CUDA arrays; all that the CPU can read counts as its own
    CudaPlace place_{0, nullptr};
    py::object object_;  // keeps what we point into alive
    struct Delete {  // with the GIL held: not every library's deleter takes it
        template <class Managed>
        void operator()(Managed* managed) const {
            if (managed->deleter != nullptr) managed->deleter(managed);
        }
    };
    std::unique_ptr<DLManagedTensorVersioned, Delete> held_;
    std::unique_ptr<DLManagedTensor, Delete> held_legacy_;
    static constexpr int usual_dims = 8;
    std::int64_t dims_[2 * usual_dims];
    std::unique_ptr<std::int64_t[]> more_dims_;
};

// A fresh C-contiguous array in the framework and on the device of an input.
class NewArray {
public:
    NewArray(const Tensor& like, DType dtype, int ndim, const std::int64_t* shape);

    BatchRef batch() { return {data_, dtype_, static_cast<int>(shape_.size()), shape_.data(), strides_.data()}; }
    // The caller's object, once the memory holds the result. Libraries that only import get it here.
    py::object finish();

private:
    void* data_ = nullptr;
    DType dtype_;
    std::vector<std::int64_t> shape_, strides_;
    py::object object_, importer_;
};

// Before the first Tensor.
void load_numpy();

// ValueError if `t`, to be written, has elements that share memory.
void require_no_sharing(const Tensor& t, Where as);
// TypeError naming both unless a and b share framework, device and, when asked, dtype.
void require_same(const Tensor& a, const Tensor& b, bool same_dtype = true);
// ValueError if `out` shares an element with `in`.
void require_disjoint(const Tensor& out, const Tensor& in);
// The same for all that a call of many reads and writes: what one owner writes, no other may read or write.
struct MemoryUse {
    const Tensor* tensor;
    std::size_t owner;
    bool written;
};
void require_disjoint(std::vector<MemoryUse> uses);
// ValueError if writing `out` could change `in` other than element by element in place, or `out` overlaps itself.
void require_no_overlap(const Tensor& out, const Tensor& in);

// About 2 µs of work; letting go of the GIL and taking it again costs 0.05.
constexpr double worth_releasing = 1e5;

// Releases the GIL for work that is worth it and lets Ctrl-C end it: throws error_already_set after an interrupt.
void run_released(double flops, void (*work)(void* context), void* context);

template <class Work>
void run_released(double flops, Work&& work) {
    run_released(flops, [](void* context) { (*static_cast<std::remove_reference_t<Work>*>(context))(); }, &work);
}

void bind_tensor(py::module_& m);

}  // namespace raphson::bindings
