// The part of XLA's foreign-function interface (its C ABI, major version 0) that a handler on the CPU meets. Declared here
// because XLA's own header is not valid C++ for GCC. Only what stands in every 0.x version: later ones append.
// Facts: xla/ffi/api/c_api.h of jaxlib 0.5.0 (0.1) to 0.10.2 (0.3).
#pragma once

#include <cstddef>
#include <cstdint>

namespace raphson::bindings::xla {

constexpr int major_version = 0, oldest_minor_version = 1;

struct Extension {
    std::size_t struct_size;
    int type;
    Extension* next;
};
constexpr int metadata_extension = 1;

struct Version {
    std::size_t struct_size;
    Extension* extensions;
    int major, minor;
};

struct Metadata {
    std::size_t struct_size;
    Version version;
    std::uint32_t traits;
};

struct MetadataExtension {
    Extension base;
    Metadata* metadata;
};

struct Error;  // XLA's
enum class Code : int { cancelled = 1, invalid_argument = 3, resource_exhausted = 8, internal = 13 };

struct ErrorArguments {
    std::size_t struct_size;
    Extension* extensions;
    const char* message;
    Code code;
};

// The head of XLA's table of functions.
struct Api {
    std::size_t struct_size;
    Extension* extensions;
    Version version;
    const void* internal;
    Error* (*create_error)(ErrorArguments*);
};

struct Span {
    const char* data;
    std::size_t size;
};

// xla::PrimitiveType
enum class Type : int { pred = 1, s32 = 4, s64 = 5, f16 = 10, f32 = 11, f64 = 12, bf16 = 16 };

struct Buffer {  // dense, row-major
    std::size_t struct_size;
    Extension* extensions;
    Type dtype;
    void* data;
    std::int64_t rank;
    const std::int64_t* dims;
};

struct Buffers {  // arguments, or results
    std::size_t struct_size;
    Extension* extensions;
    std::int64_t size;
    const int* kinds;
    Buffer* const* buffers;
};

constexpr int string_attribute = 4;

struct Attributes {
    std::size_t struct_size;
    Extension* extensions;
    std::int64_t size;
    const int* kinds;
    const Span* const* names;
    void* const* values;  // a Span for a string
};

struct CallFrame {
    std::size_t struct_size;
    Extension* extensions;
    const Api* api;
    void* context;
    int stage;
    Buffers arguments, results;
    Attributes attributes;
};

}  // namespace raphson::bindings::xla
