#include "exchange.h"

#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <unordered_map>

namespace py = pybind11;

namespace raphson::bindings {
namespace {

// A C method without arguments of the type, when it is one; anything a subclass put in its place is not.
PyCFunction method_behind(PyTypeObject* type, const char* name) {
    const auto found = py::reinterpret_steal<py::object>(PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), name));
    if (!found) throw py::error_already_set();
    if (!Py_IS_TYPE(found.ptr(), &PyMethodDescr_Type)) return nullptr;
    PyMethodDef* method = reinterpret_cast<PyMethodDescrObject*>(found.ptr())->d_method;
    return (method->ml_flags & METH_NOARGS) != 0 ? method->ml_meth : nullptr;
}

PyGetSetDef* property_behind(PyTypeObject* type, const char* name) {
    const auto found = py::reinterpret_steal<py::object>(PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), name));
    if (!found) throw py::error_already_set();
    if (!Py_IS_TYPE(found.ptr(), &PyGetSetDescr_Type)) return nullptr;
    return reinterpret_cast<PyGetSetDescrObject*>(found.ptr())->d_getset;
}

bool is_torch_tensor(PyTypeObject* type) {
    const py::module_ torch = py::module_::import("torch");
    return PyType_IsSubtype(type, reinterpret_cast<PyTypeObject*>(torch.attr("Tensor").ptr())) != 0;
}

void fill(ExchangeType& entry) {
    const auto type = py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(entry.type));
    const py::object capsule = py::getattr(type, "__dlpack_c_exchange_api__", py::none());
    if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return;
    const std::string module = py::str(type.attr("__module__"));
    entry.framework = kept_text(module.substr(0, module.find('.')));
    auto* header = static_cast<DLPackExchangeAPIHeader*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    while (header != nullptr && header->version.major != DLPACK_MAJOR_VERSION) header = header->prev_api;
    if (header == nullptr) return;
    entry.api = reinterpret_cast<const DLPackExchangeAPI*>(header);
    (void)capsule.inc_ref();  // the table lives in the capsule's library; keep both

    const bool torch_loaded = py::module_::import("sys").attr("modules").contains("torch");
    if (!torch_loaded || !is_torch_tensor(entry.type)) return;
    entry.framework = "torch";
    const py::object base = py::module_::import("torch").attr("Tensor");
    if (!type.attr("__torch_dispatch__").is(base.attr("__torch_dispatch__"))) {
        entry.refusal = "a tensor subclass with its own __torch_dispatch__ (tracing, fake or wrapper tensors) has no memory to read";
        return;
    }
    entry.requires_grad = property_behind(entry.type, "requires_grad");
    entry.is_view = method_behind(entry.type, "_is_view");
    entry.is_neg = method_behind(entry.type, "is_neg");
    if (entry.requires_grad == nullptr || entry.is_view == nullptr || entry.is_neg == nullptr) {
        entry.api = nullptr;  // this torch hides what we have to ask for: its __dlpack__ refuses by itself
    }
}

}  // namespace

const char* kept_text(const std::string& text) {
    PyObject* interned = PyUnicode_InternFromString(text.c_str());  // never released, as is the caller
    if (interned == nullptr) throw py::error_already_set();
    return PyUnicode_AsUTF8(interned);
}

namespace {
const ExchangeType* last = nullptr;  // the type asked for most recently, almost always the one asked for next
}

const ExchangeType& exchange_type(PyTypeObject* type) {
    if (last != nullptr && last->type == type) return *last;
    static auto* const known = new std::unordered_map<PyTypeObject*, std::unique_ptr<ExchangeType>>;
    static ExchangeType without;  // types that have none are not kept: programs make and drop classes
    const auto found = known->find(type);
    if (found == known->end()) {
        auto entry = std::make_unique<ExchangeType>();
        entry->type = type;
        fill(*entry);
        if (entry->api == nullptr) {
            without = *entry;
            return without;
        }
        Py_INCREF(type);
        last = known->emplace(type, std::move(entry)).first->second.get();
    } else {
        last = found->second.get();
    }
    return *last;
}

}  // namespace raphson::bindings
