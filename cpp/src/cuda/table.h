// What raphson._cuda offers: C function pointers, as an instruction set's table does, so that the checks, plans and
// bindings stay in one place and a machine without CUDA never loads it. Everything runs on the caller's device and
// stream and returns before the work is done, but where a function says that it waits. std::runtime_error names the
// kernel and the CUDA error.
#pragma once

#include <cstddef>
#include <cstdint>

#include "raphson/view.h"

namespace raphson {

struct Damping;
struct OrthogonalizeItem;
struct OrthogonalizeOptions;
struct WindowOptions;
class CudaFisher;
class CudaRows;
class CudaWindow;
struct CudaTransportTable;
struct CudaFunctionTable;
struct CudaRelativesTable;

// A device and one of its streams (a cudaStream_t; null is the legacy default stream).
struct CudaPlace {
    int device;
    void* stream;
};

// A row-major matrix in the device's memory, `ld` numbers from row to row.
struct CudaMatrix {
    void* data;
    DType type;
    std::int64_t rows, cols, ld;
};

// A matrix anywhere in the device's memory, or a vector as its only column; strides in elements. float64 or float32, where a
// function does not say that it takes more.
struct CudaView {
    void* data;
    DType type;
    std::int64_t rows, columns, row_stride, column_stride;
};

// A SparseSign, or when nnz is 0 an SRHT with its rows of H (the host's), or without them a Gaussian.
struct CudaEmbedding {
    std::uint64_t seed;
    std::int64_t rows, cols;
    int nnz;
    const std::int64_t* picked = nullptr;
};

struct CudaTable {
    int version;
    // Number of usable CUDA devices; std::runtime_error with the driver's words when there is no working driver.
    int (*device_count)();
    // Stream-ordered memory for results.
    void* (*allocate)(std::size_t bytes, CudaPlace place);
    void (*release)(void* memory, CudaPlace place) noexcept;
    // Work put on `later` from now on waits for what `earlier` holds now; one device.
    void (*order)(CudaPlace earlier, CudaPlace later);
    // to, the host's, contiguous ← from; waits. And from the host, whose memory is free again when the call returns.
    void (*read)(const CudaView& from, void* to, CudaPlace place);
    void (*write)(const void* from, void* to, std::size_t bytes, CudaPlace place);
    // As orthogonalize of the CPU. Reads the norms (and waits for them) only with options.check_finite.
    void (*orthogonalize)(const OrthogonalizeItem* items, std::size_t count, const OrthogonalizeOptions& options,
                          CudaPlace place);
    // d (m×m) ← x xᵀ of a contiguous bfloat16 matrix x (m×k) by the kernel that orthogonalize would take: for benches.
    void (*gram)(const void* x, std::int64_t m, std::int64_t k, void* d, CudaPlace place);
    // out ← S diag(weights) a, and out ← Sᵀ b; float64 or float32. weights may be null.
    void (*sketch)(const CudaEmbedding& s, const CudaMatrix& a, const double* weights, const CudaMatrix& out, CudaPlace place);
    void (*sketch_adjoint)(const CudaEmbedding& s, const CudaMatrix& b, const CudaMatrix& out, CudaPlace place);
    // A gradient window on the place's device, checked by the caller; who gets it deletes it.
    CudaWindow* (*make_window)(std::int64_t dim, std::int64_t capacity, Damping damping, const WindowOptions& options, CudaPlace place);
    const CudaTransportTable* transport;  // ot/device_transport.h
    const CudaFunctionTable* functions;   // newton_schulz/device_functions.h
    // Rows that are not contiguous are copied; who gets the object deletes it.
    CudaRows* (*make_rows)(const CudaView& a, CudaPlace place);  // sketch/device_rows.h
    // Fisher's inverse of gradients of any type, which must stay where they are (ihvp/device_fisher.h).
    CudaFisher* (*make_fisher)(const CudaView& grads, double damping, std::int64_t block_size, CudaPlace place);
    const CudaRelativesTable* relatives;  // ihvp/device_fisher.h
};

constexpr int cuda_table_version = 9;
constexpr const char* cuda_table_name = "raphson.cuda_table";  // of the capsule

const CudaTable& cuda_table();

}  // namespace raphson
