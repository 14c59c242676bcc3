#include "tensor.h"

#include <pybind11/numpy.h>

#include <cstring>

#include "cuda_module.h"

namespace raphson::bindings {
namespace {

constexpr int npy_half = 23, npy_float = 11, npy_double = 12, npy_first_user_type = 256;
constexpr int npy_aligned = 0x0100, npy_writeable = 0x0400;

PyTypeObject* ndarray_type = nullptr;  // set once, when the module is loaded

const py::detail::PyArray_Proxy* array_fields(py::handle array) { return py::detail::array_proxy(array.ptr()); }

// ml_dtypes registers bfloat16 as a user type whose number is only known at run time.
bool is_ml_bfloat16(py::handle descr, int type_num) {
    static int known = -1;
    if (type_num < npy_first_user_type) return false;
    if (type_num == known) return true;
    const py::object modules = py::module_::import("sys").attr("modules");
    if (!modules.contains("ml_dtypes")) return false;
    if (!descr.attr("type").is(modules["ml_dtypes"].attr("bfloat16"))) return false;
    known = type_num;
    return true;
}

std::string dtypes_text(unsigned dtypes) {
    std::string text;
    dtypes &= ~and_cuda;
    for (const DType d : {DType::float64, DType::float32, DType::bfloat16, DType::float16}) {
        if ((dtypes & bit(d)) == 0) continue;
        dtypes &= ~bit(d);
        text += std::string(text.empty() ? "" : dtypes != 0 ? ", " : " or ") + to_string(d);
    }
    return text;
}

std::string dtype_text(DLDataType t) {
    static const char* const codes[] = {"int", "uint", "float", "handle", "bfloat", "complex", "bool"};
    if (t.code == kDLBool) return "bool";
    const std::string name = t.code < sizeof codes / sizeof *codes ? codes[t.code] : "DLPack type " + std::to_string(t.code) + ":";
    return name + std::to_string(t.bits) + (t.lanes == 1 ? "" : "x" + std::to_string(t.lanes));
}

// The first line of the pending Python error, which is cleared: torch puts a C++ stack behind it.
std::string take_error_line() {
    const py::error_already_set error;
    const std::string text = py::str(error.value());
    return text.substr(0, text.find('\n'));
}

std::string type_name(py::handle object) { return Py_TYPE(object.ptr())->tp_name; }

}  // namespace

void load_numpy() { ndarray_type = py::detail::npy_api::get().PyArray_Type_; }

void Tensor::type_error(const std::string& what) const {
    throw py::type_error(std::string(where_.function) + ": " + where_.argument + " " + what);
}
void Tensor::value_error(const std::string& what) const {
    throw py::value_error(std::string(where_.function) + ": " + where_.argument + " " + what);
}

Tensor::Tensor(py::handle object, Where where, unsigned dtypes, Access access)
    : where_(where), dtypes_(dtypes), access_(access) {
    if (Py_IS_TYPE(object.ptr(), ndarray_type)) {
        object_ = py::reinterpret_borrow<py::object>(object);
        read_numpy(object);
    } else {
        convert(object);
    }
}

void Tensor::require_writable(Where as) const {
    if (writable_) return;
    throw py::value_error(std::string(as.function) + ": " + as.argument +
                          " cannot be written in place: it is read-only, or had to be converted first");
}

void Tensor::convert(py::handle object) {
    object_ = py::reinterpret_borrow<py::object>(object);
    const ExchangeType& type = exchange_type(Py_TYPE(object.ptr()));
    if (type.api != nullptr) return read_exchange(type);
    if (PyObject_TypeCheck(object.ptr(), ndarray_type)) {
        if (py::hasattr(object, "mask")) type_error("is a masked array; fill or compress it first");
        return read_numpy(object);
    }
    if (PyCapsule_CheckExact(object.ptr())) return take_capsule(object);
    if (py::hasattr(py::type::handle_of(object), "__dlpack__")) return read_dlpack(object);
    if (access_ == Access::write && !PyObject_CheckBuffer(object.ptr())) {
        type_error("must be an array that can be written in place, got " + type_name(object));
    }
    if (PyUnicode_Check(object.ptr()) || object.is_none()) type_error("must be an array, got " + type_name(object));
    object_ = py::module_::import("numpy").attr("asarray")(object);
    read_numpy(object_);
    if (!PyObject_CheckBuffer(object.ptr())) writable_ = false;  // a conversion of our own: nobody would see the result
}

void Tensor::read_numpy(py::handle array) {
    const auto* fields = array_fields(array);
    const auto* descr = py::detail::array_descriptor_proxy(fields->descr);
    const int type_num = descr->type_num;
    if (type_num == npy_double) {
        dtype_ = DType::float64;
    } else if (type_num == npy_float) {
        dtype_ = DType::float32;
    } else if (type_num == npy_half) {
        dtype_ = DType::float16;
    } else if (is_ml_bfloat16(fields->descr, type_num)) {
        dtype_ = DType::bfloat16;
    } else {
        dtypes_ |= 1u << 31;  // none of ours
    }
    const bool swapped = descr->byteorder == (PY_BIG_ENDIAN != 0 ? '<' : '>');
    if (dtypes_ >> 31 != 0 || swapped || (dtypes_ & bit(dtype_)) == 0) {
        const std::string name = py::str(py::handle(fields->descr));
        type_error("must be " + dtypes_text(dtypes_ & ~(1u << 31)) + ", got " + name +
                   (swapped ? " (not in this machine's byte order)" : ""));
    }
    // Shifts, not divisions: those would cost more than all the rest.
    const int shift = dtype_ == DType::float64 ? 3 : dtype_ == DType::float32 ? 2 : 1;
    py::ssize_t odd_bytes = 0;
    for (int i = 0; i < fields->nd; ++i) odd_bytes |= fields->strides[i] & ((1 << shift) - 1);
    if ((fields->flags & npy_aligned) == 0 || odd_bytes != 0) {
        if (access_ == Access::write) value_error("must be aligned, with strides that are multiples of its item size");
        object_ = py::module_::import("numpy").attr("array")(array, py::arg("order") = "C");
        read_numpy(object_);
        writable_ = false;
        return;
    }
    data_ = fields->data;
    writable_ = (fields->flags & npy_writeable) != 0;
    static_assert(sizeof(*fields->dimensions) == sizeof(std::int64_t), "npy_intp is 64 bits wide");
    set_dims(fields->nd, reinterpret_cast<const std::int64_t*>(fields->dimensions), nullptr);
    for (int i = 0; i < ndim_; ++i) strides_[i] = fields->strides[i] >> shift;
}

// Without strides the caller fills them in.
void Tensor::set_dims(int ndim, const std::int64_t* shape, const std::int64_t* strides) {
    std::int64_t* room = dims_;
    if (ndim > usual_dims) {
        more_dims_ = std::make_unique<std::int64_t[]>(2 * static_cast<std::size_t>(ndim));
        room = more_dims_.get();
    }
    ndim_ = ndim;
    shape_ = room;
    strides_ = room + ndim;
    for (int i = 0; i < ndim; ++i) room[i] = shape[i];
    for (int i = 0; strides != nullptr && i < ndim; ++i) strides_[i] = strides[i];
}

void Tensor::read_exchange(const ExchangeType& type) {
    exchange_ = &type;
    framework_ = type.framework;
    PyObject* const object = object_.ptr();
    if (type.refusal != nullptr) type_error(std::string("is ") + type.refusal);
    if (type.requires_grad != nullptr) {
        const auto grad = py::reinterpret_steal<py::object>(type.requires_grad->get(object, type.requires_grad->closure));
        if (!grad) throw py::error_already_set();
        if (grad.ptr() != Py_False) {
            type_error("requires grad, which this function would not track: use raphson.torch, or tensor.detach()");
        }
    }
    DLTensor tensor;
    int failed;
    if (type.api->dltensor_from_py_object_no_sync != nullptr) {
        failed = type.api->dltensor_from_py_object_no_sync(object, &tensor);
    } else {
        DLManagedTensorVersioned* managed = nullptr;
        failed = type.api->managed_tensor_from_py_object_no_sync(object, &managed);
        held_.reset(managed);
        if (failed == 0) tensor = managed->dl_tensor;
    }
    if (failed != 0) type_error("cannot be read as plain memory: " + take_error_line());
    writable_ = held_ == nullptr || (held_->flags & DLPACK_FLAG_BITMASK_READ_ONLY) == 0;
    read_tensor(tensor);
    if (type.is_neg != nullptr && may_be_lazy(type)) {
        const auto lazy = py::reinterpret_steal<py::object>(type.is_neg(object, nullptr));
        if (!lazy) throw py::error_already_set();
        if (lazy.ptr() != Py_False) type_error("is a lazily negated view; pass tensor.resolve_neg()");
    }
}

// Asking is_neg() costs more than all the rest. Only views can be negated lazily, so a small contiguous tensor that is
// none need not be asked. (torch does not record views in inference mode, but the negated views made by its public
// functions, imaginary parts, are never contiguous.)
bool Tensor::may_be_lazy(const ExchangeType& type) const {
    constexpr std::int64_t asking_is_cheap = 4096;  // elements
    std::int64_t step = 1;
    for (int i = ndim_ - 1; i >= 0; --i) {
        if (shape_[i] > 1 && strides_[i] != step) return true;
        step *= shape_[i];
    }
    if (step <= 1 || step >= asking_is_cheap) return true;
    const auto view = py::reinterpret_steal<py::object>(type.is_view(object_.ptr(), nullptr));
    if (!view) throw py::error_already_set();
    return view.ptr() != Py_False;
}

void Tensor::hold() {
    if (exchange_ == nullptr || held_ != nullptr) return;
    DLManagedTensorVersioned* managed = nullptr;
    if (exchange_->api->managed_tensor_from_py_object_no_sync(object_.ptr(), &managed) != 0) {
        type_error("cannot be read as plain memory: " + take_error_line());
    }
    held_.reset(managed);
    read_tensor(held_->dl_tensor);  // another thread may have changed it since the first look
}

void Tensor::read_tensor(const DLTensor& tensor) {
    read_device(tensor.device);
    set_dtype(tensor.dtype);
    set_dims(tensor.ndim, tensor.shape, tensor.strides);
    if (tensor.strides == nullptr) {
        std::int64_t step = 1;
        for (int i = ndim_ - 1; i >= 0; --i) {
            strides_[i] = step;
            step *= shape_[i];
        }
    }
    if (tensor.data == nullptr && size() > 0) type_error("has no memory behind it (a fake, meta or functional tensor)");
    data_ = static_cast<char*>(tensor.data) + tensor.byte_offset;
}

void Tensor::set_dtype(DLDataType t) {
    const bool known = t.lanes == 1 && ((t.code == kDLFloat && (t.bits == 64 || t.bits == 32 || t.bits == 16)) ||
                                        (t.code == kDLBfloat && t.bits == 16));
    dtype_ = t.code == kDLBfloat ? DType::bfloat16
             : t.bits == 64      ? DType::float64
             : t.bits == 32      ? DType::float32
                                 : DType::float16;
    if (!known || (dtypes_ & bit(dtype_)) == 0) type_error("must be " + dtypes_text(dtypes_) + ", got " + dtype_text(t));
}

void Tensor::read_device(DLDevice device) {
    if (device.device_type == kDLCPU || device.device_type == kDLCUDAHost || device.device_type == kDLROCMHost) return;
    if (device.device_type != kDLCUDA && device.device_type != kDLCUDAManaged) {
        type_error("lives on a device raphson does not know (DLPack device type " + std::to_string(device.device_type) + ")");
    }
    if ((dtypes_ & and_cuda) == 0) throw_no_cuda_kernels(where_.function, where_.argument);
    (void)bindings::cuda(where_.function, where_.argument);
    if (PyCapsule_CheckExact(object_.ptr())) type_error("is a bare capsule of CUDA memory, which names no stream: pass the array itself");
    device_ = device;
    dtypes_ |= bit(DType::float16);
    place_ = {device.device_id, nullptr};  // the legacy default stream, which __dlpack__ was asked to order its own with
    if (exchange_ != nullptr && exchange_->api->current_work_stream(kDLCUDA, device.device_id, &place_.stream) != 0) {
        throw py::error_already_set();
    }
}

void Tensor::read_dlpack(py::handle object) {
    const std::string module = py::str(py::type::handle_of(object).attr("__module__"));
    const std::string top = module.substr(0, module.find('.'));
    framework_ = kept_text(top == "jaxlib" ? "jax" : top);
    if (py::hasattr(object, "__dlpack_device__")) {
        const auto device = py::cast<py::tuple>(object.attr("__dlpack_device__")());
        read_device({static_cast<DLDeviceType>(py::cast<int>(device[0])), py::cast<int>(device[1])});
    }
    py::dict keywords;
    if (cuda() != nullptr) keywords["stream"] = 1;  // the legacy default stream; on the CPU there must be none
    const py::object export_method = object.attr("__dlpack__");
    const auto version = py::make_tuple(DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION);
    py::object capsule;
    try {
        capsule = export_method(py::arg("max_version") = version, **keywords);
    } catch (py::error_already_set& error) {
        if (!error.matches(PyExc_TypeError)) throw;
        capsule = export_method(**keywords);  // a producer from before max_version
    }
    take_capsule(capsule);
}

void Tensor::take_capsule(py::handle capsule) {
    if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
        auto* managed = static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
        (void)PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
        held_.reset(managed);
        if (managed->version.major != DLPACK_MAJOR_VERSION) {
            type_error("speaks DLPack " + std::to_string(managed->version.major) + ", raphson speaks " +
                       std::to_string(DLPACK_MAJOR_VERSION));
        }
        writable_ = (managed->flags & DLPACK_FLAG_BITMASK_READ_ONLY) == 0;
        read_tensor(managed->dl_tensor);
    } else if (PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
        held_legacy_.reset(static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor")));
        (void)PyCapsule_SetName(capsule.ptr(), "used_dltensor");
        writable_ = false;  // legacy capsules cannot say, and some share memory that must not change
        read_tensor(held_legacy_->dl_tensor);
    } else {
        const char* name = PyCapsule_CheckExact(capsule.ptr()) ? PyCapsule_GetName(capsule.ptr()) : nullptr;
        if (name != nullptr && std::strncmp(name, "used_dltensor", 13) == 0) {
            value_error("is a DLPack capsule that was consumed already");
        }
        type_error("gave no DLPack capsule, got " + type_name(capsule));
    }
}

std::int64_t Tensor::size() const {
    std::int64_t n = 1;
    for (int i = 0; i < ndim_; ++i) n *= shape_[i];
    return n;
}

std::string Tensor::shape_text() const {
    std::string text = "(";
    for (int i = 0; i < ndim_; ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape_[i]);
    return text + (ndim_ == 1 ? ",)" : ")");
}

}  // namespace raphson::bindings
