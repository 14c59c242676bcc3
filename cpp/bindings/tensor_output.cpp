// The way back of the bridge: results in the caller's framework, and what must hold before anything is written.
#include <pybind11/numpy.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include "cuda_module.h"
#include "raphson/runtime.h"
#include "raphson/status.h"
#include "tensor.h"

namespace raphson::bindings {
namespace {

constexpr std::size_t alignment = 256;  // what DLPack asks producers for

DLDataType dl_type(DType dtype) {
    const auto code = static_cast<std::uint8_t>(dtype == DType::bfloat16 ? kDLBfloat : kDLFloat);
    return {code, static_cast<std::uint8_t>(8 * itemsize(dtype)), 1};
}

// Both capsule flavours and our exporter share it. `table` is null on the CPU.
struct Buffer {
    void* data;
    std::vector<std::int64_t> shape, strides;
    DType dtype;
    const CudaTable* table;
    CudaPlace place;

    Buffer(DType type, std::vector<std::int64_t> dims, std::vector<std::int64_t> steps, const CudaTable* cuda, CudaPlace where)
        : shape(std::move(dims)), strides(std::move(steps)), dtype(type), table(cuda), place(where) {
        std::int64_t elements = itemsize(type);
        for (const std::int64_t n : shape) elements *= n;
        const auto bytes = static_cast<std::size_t>(std::max<std::int64_t>(elements, 1));
        data = table != nullptr ? table->allocate(bytes, place) : ::operator new(bytes, std::align_val_t{alignment});
    }
    ~Buffer() {
        if (table != nullptr) {
            table->release(data, place);
        } else {
            ::operator delete(data, std::align_val_t{alignment});
        }
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    DLDevice device() const { return {table != nullptr ? kDLCUDA : kDLCPU, place.device}; }
    DLTensor view() {
        return {data, device(), static_cast<std::int32_t>(shape.size()), dl_type(dtype), shape.data(), strides.data(), 0};
    }
};

// A result for a library that can only import: it hands its memory out through __dlpack__.
class Exporter {
public:
    explicit Exporter(std::shared_ptr<Buffer> buffer) : buffer_(std::move(buffer)) {}

    py::tuple device() const {
        const DLDevice device = buffer_->device();
        return py::make_tuple(static_cast<int>(device.device_type), device.device_id);
    }

    py::object capsule(py::handle stream, py::handle max_version, py::handle dl_device, py::handle copy) const {
        order_with(stream.is_none() ? (buffer_->table != nullptr ? 1 : -1) : py::cast<std::intptr_t>(stream));
        if (!copy.is_none() && py::cast<bool>(copy)) throw py::buffer_error("this exporter does not copy");
        if (!dl_device.is_none() && !dl_device.equal(device())) throw py::buffer_error("lives on another device");
        const bool versioned = !max_version.is_none() && py::cast<int>(py::cast<py::tuple>(max_version)[0]) >= 1;
        return versioned ? versioned_capsule() : legacy_capsule();
    }

private:
    // The consumer's stream as DLPack counts: 1 the legacy default one, 2 the thread's own, -1 nobody waits, else a pointer.
    void order_with(std::intptr_t stream) const {
        if (stream == -1) return;
        if (buffer_->table == nullptr) throw py::value_error("stream must be None on the CPU");
        if (stream == 0) throw py::value_error("stream must not be 0, which could be either default stream");
        buffer_->table->order(buffer_->place, {buffer_->place.device, reinterpret_cast<void*>(stream)});
    }
    template <class Managed>
    Managed* managed() const {
        auto fresh = std::make_unique<Managed>();
        fresh->dl_tensor = buffer_->view();
        fresh->manager_ctx = new std::shared_ptr<Buffer>(buffer_);
        fresh->deleter = [](Managed* self) {  // needs no GIL: nothing of Python's hangs on the buffer
            delete static_cast<std::shared_ptr<Buffer>*>(self->manager_ctx);
            delete self;
        };
        return fresh.release();
    }
    template <class Managed>
    static py::object wrap(Managed* managed, const char* name, PyCapsule_Destructor destructor) {
        PyObject* capsule = PyCapsule_New(managed, name, destructor);
        if (capsule == nullptr) {
            managed->deleter(managed);
            throw py::error_already_set();
        }
        return py::reinterpret_steal<py::object>(capsule);
    }
    py::object versioned_capsule() const {
        auto* fresh = managed<DLManagedTensorVersioned>();
        fresh->version = {DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION};
        fresh->flags = 0;
        return wrap(fresh, "dltensor_versioned", [](PyObject* capsule) {
            if (PyCapsule_IsValid(capsule, "dltensor_versioned") == 0) return;  // consumed: no longer ours
            auto* owned = static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(capsule, "dltensor_versioned"));
            owned->deleter(owned);
        });
    }
    py::object legacy_capsule() const {
        return wrap(managed<DLManagedTensor>(), "dltensor", [](PyObject* capsule) {
            if (PyCapsule_IsValid(capsule, "dltensor") == 0) return;
            auto* owned = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"));
            owned->deleter(owned);
        });
    }

    std::shared_ptr<Buffer> buffer_;
};

py::dtype numpy_dtype(DType dtype) {
    switch (dtype) {
        case DType::float64: return py::dtype(12);
        case DType::float32: return py::dtype(11);
        case DType::float16: return py::dtype(23);
        default: return py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16"));
    }
}

// Where an importing library keeps from_dlpack: its array namespace, else the top-level module of its class or of one it
// derives from.
py::object importer_of(py::handle object) {
    if (py::hasattr(object, "__array_namespace__")) {
        const py::object space = object.attr("__array_namespace__")();
        if (py::hasattr(space, "from_dlpack")) return space.attr("from_dlpack");
    }
    const py::dict loaded = py::module_::import("sys").attr("modules");
    for (const py::handle type : py::type::handle_of(object).attr("__mro__")) {
        const std::string module = py::str(type.attr("__module__"));
        const py::str top(module.substr(0, module.find('.')));
        if (loaded.contains(top) && py::hasattr(loaded[top], "from_dlpack")) return loaded[top].attr("from_dlpack");
    }
    return py::module_::import("numpy").attr("from_dlpack");
}

void set_error(void* context, const char* kind, const char* message) {
    *static_cast<std::string*>(context) = std::string(kind) + ": " + message;
}

struct Extent {
    const char *first, *last;  // one past
    bool empty;
};

Extent extent(const Tensor& t) {
    const char* base = static_cast<const char*>(t.data());
    std::int64_t low = 0, high = 0;
    for (int i = 0; i < t.ndim(); ++i) {
        if (t.shape()[i] == 0) return {base, base, true};
        const std::int64_t reach = (t.shape()[i] - 1) * t.strides()[i];
        (reach < 0 ? low : high) += reach;
    }
    const std::int64_t size = itemsize(t.dtype());
    return {base + low * size, base + (high + 1) * size, false};
}

// NumPy decides exactly whether two strided views share an element; a dummy base keeps it from copying.
py::array numpy_view(const Tensor& t) {
    std::vector<py::ssize_t> shape(t.shape(), t.shape() + t.ndim()), strides(shape.size());
    for (std::size_t i = 0; i < shape.size(); ++i) strides[i] = t.strides()[i] * itemsize(t.dtype());
    const py::dtype raw = py::dtype("V" + std::to_string(itemsize(t.dtype())));
    return py::array(raw, shape, strides, t.data(), py::none());
}

bool same_layout(const Tensor& a, const Tensor& b) {
    if (a.data() != b.data() || a.dtype() != b.dtype() || a.ndim() != b.ndim()) return false;
    for (int i = 0; i < a.ndim(); ++i) {
        if (a.shape()[i] != b.shape()[i] || (a.shape()[i] > 1 && a.strides()[i] != b.strides()[i])) return false;
    }
    return true;
}

// Sorted by stride, each axis must step over everything below it. Exotic as_strided views without overlap fail too.
bool overlaps_itself(const Tensor& t) {
    if (t.size() == 0) return false;
    std::vector<std::pair<std::int64_t, std::int64_t>> axes;
    for (int i = 0; i < t.ndim(); ++i) {
        if (t.shape()[i] > 1) axes.emplace_back(std::abs(t.strides()[i]), t.shape()[i]);
    }
    std::sort(axes.begin(), axes.end());
    std::int64_t reach = 0;
    for (const auto& [stride, count] : axes) {
        if (stride <= reach) return true;
        reach += stride * (count - 1);
    }
    return false;
}

}  // namespace

NewArray::NewArray(const Tensor& like, DType dtype, int ndim, const std::int64_t* shape)
    : dtype_(dtype), shape_(shape, shape + ndim), strides_(shape_.size()) {
    std::int64_t step = 1;
    for (std::size_t i = shape_.size(); i-- > 0;) {
        strides_[i] = step;
        step *= shape_[i];
    }
    if (like.exchange_ != nullptr) {
        const DLPackExchangeAPI& api = *like.exchange_->api;
        DLTensor prototype{nullptr, like.device_, ndim, dl_type(dtype), shape_.data(), nullptr, 0};
        DLManagedTensorVersioned* managed = nullptr;
        std::string error;
        if (api.managed_tensor_allocator(&prototype, &managed, &error, set_error) != 0) {
            PyErr_Clear();
            throw std::runtime_error(std::string(like.framework_) + " could not allocate the result: " + error);
        }
        data_ = static_cast<char*>(managed->dl_tensor.data) + managed->dl_tensor.byte_offset;
        void* object = nullptr;
        if (api.managed_tensor_to_py_object_no_sync(managed, &object) != 0) throw py::error_already_set();
        object_ = py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
        return;
    }
    const bool imported = like.held_ != nullptr || like.held_legacy_ != nullptr;
    if (imported && !PyCapsule_CheckExact(like.object_.ptr())) {
        importer_ = importer_of(like.object_);
        const CudaTable* const table = like.cuda() == nullptr ? nullptr : &bindings::cuda(like.where_.function, like.where_.argument);
        auto buffer = std::make_shared<Buffer>(dtype, shape_, strides_, table, like.place_);
        data_ = buffer->data;
        object_ = py::cast(Exporter(std::move(buffer)));
        return;
    }
    const std::vector<py::ssize_t> dims(shape, shape + ndim);
    py::array array(numpy_dtype(dtype), dims);
    data_ = array.mutable_data();
    object_ = std::move(array);
}

py::object NewArray::finish() {
    if (!importer_) return std::move(object_);
    const py::object result = importer_(object_);
    // jax, unless 64 bits are enabled where the call is made, would hand back a float64 result as float32.
    if (dtype_ != DType::float64 || !py::hasattr(result, "dtype") || std::string(py::str(result.attr("dtype"))) != "float32") {
        return result;
    }
    const py::object jax = py::module_::import("jax");
    const py::object scope = py::hasattr(jax, "enable_x64") ? jax.attr("enable_x64")
                                                            : py::module_::import("jax.experimental").attr("enable_x64");
    const py::object enabled = scope(true);
    (void)enabled.attr("__enter__")();
    const py::object exact = importer_(object_);
    (void)enabled.attr("__exit__")(py::none(), py::none(), py::none());
    return exact;
}

void require_same(const Tensor& a, const Tensor& b, bool same_dtype) {
    const Where wa = a.where(), wb = b.where();
    if (std::string_view(a.framework()) != b.framework()) {
        throw py::type_error(std::string(wa.function) + ": " + wa.argument + " is a " + a.framework() + " array and " +
                             wb.argument + " a " + b.framework() + " array; they must come from one library");
    }
    const auto place = [](const Tensor& t) {
        return t.cuda() == nullptr ? std::string("on the CPU") : "on CUDA device " + std::to_string(t.cuda()->device);
    };
    if (place(a) != place(b)) {
        throw py::type_error(std::string(wa.function) + ": " + wa.argument + " is " + place(a) + " and " + wb.argument + " is " +
                             place(b) + "; they must be on one device");
    }
    if (same_dtype && a.dtype() != b.dtype()) {
        throw py::type_error(std::string(wa.function) + ": " + wa.argument + " is " + to_string(a.dtype()) + " and " +
                             wb.argument + " is " + to_string(b.dtype()) + "; they must be of one dtype");
    }
}

void require_no_sharing(const Tensor& t, Where as) {
    if (!overlaps_itself(t)) return;
    throw py::value_error(std::string(as.function) + ": " + as.argument +
                          " has elements that share memory (a broadcast view?)");
}

void require_no_overlap(const Tensor& out, const Tensor& in) {
    require_no_sharing(out, out.where());
    if (!same_layout(out, in)) require_disjoint(out, in);
}

void require_disjoint(const Tensor& out, const Tensor& in) {
    const std::string subject = std::string(out.where().function) + ": " + out.where().argument;
    const Extent a = extent(out), b = extent(in);
    if (a.empty || b.empty || a.last <= b.first || b.last <= a.first) return;
    bool share = true;
    try {
        const py::object max_work = py::int_(100000);
        share = py::cast<bool>(
            py::module_::import("numpy").attr("shares_memory")(numpy_view(out), numpy_view(in), max_work));
    } catch (const py::error_already_set& error) {
        // Too hard to decide: taken for an overlap, which costs the caller a copy and never a wrong result.
        if (!error.matches(py::module_::import("numpy.exceptions").attr("TooHardError"))) throw;
    }
    if (share) {
        throw py::value_error(subject + " overlaps " + in.where().argument +
                              "; pass the very same array to work in place, or memory of its own");
    }
}

void require_disjoint(std::vector<MemoryUse> uses) {
    // Sorted by address, only neighbours can meet.
    std::sort(uses.begin(), uses.end(),
              [](const MemoryUse& a, const MemoryUse& b) { return extent(*a.tensor).first < extent(*b.tensor).first; });
    std::vector<const MemoryUse*> open;
    for (const MemoryUse& use : uses) {
        const Extent here = extent(*use.tensor);
        if (here.empty) continue;
        open.erase(std::remove_if(open.begin(), open.end(),
                                  [&](const MemoryUse* o) { return extent(*o->tensor).last <= here.first; }),
                   open.end());
        for (const MemoryUse* other : open) {
            if (other->owner == use.owner || !(other->written || use.written)) continue;
            require_disjoint(use.written ? *use.tensor : *other->tensor, use.written ? *other->tensor : *use.tensor);
        }
        open.push_back(&use);
    }
}

namespace {

bool python_interrupted(void* context) {
    const py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() == 0) return false;
    *static_cast<bool*>(context) = true;  // the exception waits in this thread's state
    return true;
}

}  // namespace

void run_released(double flops, void (*work)(void* context), void* context) {
    if (flops < worth_releasing) return work(context);
    bool interrupted = false;
    try {
        const py::gil_scoped_release released;
        const PollScope poll(python_interrupted, &interrupted);
        work(context);
    } catch (const Cancelled&) {
        if (interrupted) throw py::error_already_set();
        throw;
    }
}

void bind_tensor(py::module_& m) {
    load_numpy();
    py::class_<Exporter>(m, "_Exporter")
        .def("__dlpack__", &Exporter::capsule, py::kw_only(), py::arg("stream") = py::none(),
             py::arg("max_version") = py::none(), py::arg("dl_device") = py::none(), py::arg("copy") = py::none())
        .def("__dlpack_device__", &Exporter::device);

    // What three array arguments cost, for bench/overhead.py.
    m.def("_touch3", [](py::handle a, py::handle b, py::handle c) {
        const Tensor ta(a, {"_touch3", "a"}, float64_float32_bfloat16);
        const Tensor tb(b, {"_touch3", "b"}, float64_float32_bfloat16);
        const Tensor tc(c, {"_touch3", "c"}, float64_float32_bfloat16);
    });
    m.def("_nothing3", [](py::handle, py::handle, py::handle) {});
}

}  // namespace raphson::bindings
