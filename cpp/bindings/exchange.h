// The DLPack C exchange API of a Python type, looked up once per type: 50 ns a tensor where __dlpack__ takes 1,800.
#pragma once

#include <Python.h>

#include <string>

#include "dlpack/dlpack.h"

namespace raphson::bindings {

struct ExchangeType {
    PyTypeObject* type;           // kept alive: the entry lives as long as the process
    const DLPackExchangeAPI* api; // null: the type has none
    const char* refusal;          // not null: why tensors of this type are never taken
    // torch's exchange functions export tensors that require grad and lazily negated views as if they were plain memory.
    // These are the C functions behind `requires_grad`, `_is_view` and `is_neg`, null for other libraries. (Lazy conjugation
    // is for complex tensors, whose dtype nobody here takes.)
    PyGetSetDef* requires_grad;
    PyCFunction is_view, is_neg;
    const char* framework;        // first part of the type's module name
};

// The text as Python's interned string, which stays: for the few names of frameworks. Needs the GIL.
const char* kept_text(const std::string& text);

// Needs the GIL. Never null; the entry's api is.
const ExchangeType& exchange_type(PyTypeObject* type);

}  // namespace raphson::bindings
