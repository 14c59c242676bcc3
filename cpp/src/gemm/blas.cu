// cuBLASLt, found when it is first needed: in this process already (torch brings it), in the nvidia-cublas wheel beside
// this package, or on the system. Declared here as far as it is used (its C interface has been stable since CUDA 11), so
// that building needs nothing of it.
#include <dlfcn.h>

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "gemm/product.h"

namespace raphson::cuda {
namespace {

using Handle = void*;
using Desc = void*;
struct Algorithm {
    std::uint64_t data[8];
};
struct Heuristic {
    Algorithm algorithm;
    std::size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

// Values of cublasLt.h and library_types.h.
constexpr int compute_32f = 68, compute_64f = 70;
constexpr int real_32f = 0, real_64f = 1, real_16f = 2, real_16bf = 14;
constexpr int desc_transa = 3, layout_batch = 5, layout_step = 6, preference_workspace = 1;
constexpr int preference_alignments = 5;  // of A; those of B, C and D follow
constexpr std::int32_t transpose = 1;
constexpr std::size_t workspace_bytes = std::size_t{32} << 20;

struct Library {
    int (*create)(Handle*);
    int (*desc_create)(Desc*, int compute, int scale);
    int (*desc_destroy)(Desc);
    int (*desc_set)(Desc, int attribute, const void*, std::size_t);
    int (*layout_create)(Desc*, int type, std::uint64_t rows, std::uint64_t cols, int64_t ld);
    int (*layout_destroy)(Desc);
    int (*layout_set)(Desc, int attribute, const void*, std::size_t);
    int (*preference_create)(Desc*);
    int (*preference_destroy)(Desc);
    int (*preference_set)(Desc, int attribute, const void*, std::size_t);
    int (*heuristic)(Handle, Desc, Desc, Desc, Desc, Desc, Desc, int, Heuristic*, int*);
    int (*matmul)(Handle, Desc, const void*, const void*, Desc, const void*, Desc, const void*, const void*, Desc, void*,
                  Desc, const Algorithm*, void*, std::size_t, cudaStream_t);
};

template <class F>
bool find(void* library, const char* name, F& function) {
    function = reinterpret_cast<F>(dlsym(library, name));
    return function != nullptr;
}

// The folder that this module's package lies in: where pip puts the wheels.
std::string beside_package() {
    Dl_info here;
    if (dladdr(reinterpret_cast<void*>(&beside_package), &here) == 0 || here.dli_fname == nullptr) return {};
    const std::string file = here.dli_fname;
    const std::size_t module = file.rfind('/');
    const std::size_t package = module == std::string::npos ? module : file.rfind('/', module - 1);
    return package == std::string::npos ? std::string() : file.substr(0, package);
}

const Library* library() {
    static const Library* const loaded = []() -> const Library* {
        const std::string wheels = beside_package();
        void* found = nullptr;
        for (const std::string& name : {std::string("libcublasLt.so.13"), std::string("libcublasLt.so.12")}) {
            if (found == nullptr) found = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
        }
        for (const std::string& name :
             {wheels + "/nvidia/cu13/lib/libcublasLt.so.13", wheels + "/nvidia/cublas/lib/libcublasLt.so.12",
              std::string("libcublasLt.so.13"), std::string("libcublasLt.so.12")}) {
            if (found == nullptr) found = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
        }
        if (found == nullptr) return nullptr;
        static Library functions;
        const bool whole = find(found, "cublasLtCreate", functions.create) &&
                           find(found, "cublasLtMatmulDescCreate", functions.desc_create) &&
                           find(found, "cublasLtMatmulDescDestroy", functions.desc_destroy) &&
                           find(found, "cublasLtMatmulDescSetAttribute", functions.desc_set) &&
                           find(found, "cublasLtMatrixLayoutCreate", functions.layout_create) &&
                           find(found, "cublasLtMatrixLayoutDestroy", functions.layout_destroy) &&
                           find(found, "cublasLtMatrixLayoutSetAttribute", functions.layout_set) &&
                           find(found, "cublasLtMatmulPreferenceCreate", functions.preference_create) &&
                           find(found, "cublasLtMatmulPreferenceDestroy", functions.preference_destroy) &&
                           find(found, "cublasLtMatmulPreferenceSetAttribute", functions.preference_set) &&
                           find(found, "cublasLtMatmulAlgoGetHeuristic", functions.heuristic) &&
                           find(found, "cublasLtMatmul", functions.matmul);
        return whole ? &functions : nullptr;
    }();
    return loaded;
}

Handle handle_of(const Library& lib, int device) {
    static std::mutex mutex;
    static auto* const handles = new std::map<int, Handle>;
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = handles->find(device);
    if (found != handles->end()) return found->second;
    Handle fresh = nullptr;
    if (lib.create(&fresh) != 0) fresh = nullptr;  // remembered too: no second try at every product
    return handles->emplace(device, fresh).first->second;
}

class Owned {
public:
    explicit Owned(int (*destroy)(Desc)) : destroy_(destroy) {}
    ~Owned() {
        if (desc != nullptr) (void)destroy_(desc);
    }
    Owned(const Owned&) = delete;
    Owned& operator=(const Owned&) = delete;
    Desc desc = nullptr;

private:
    int (*destroy_)(Desc);
};

// cuBLAS thinks in columns: what lies row by row is the transpose to it, so Dᵀ = Bᵀ·Aᵀ is asked for.
struct Layout {
    std::uint64_t rows, cols;
    int64_t ld, step;
};

// What every matrix of a batch is aligned to. cuBLASLt takes 256 bytes for granted where it is not told, and an algorithm
// that was chosen for them faults on numbers that begin anywhere.
std::uint32_t alignment_of(const void* data, int64_t step, const ProductJob& job) {
    const int64_t apart = job.batch == 1 ? 0 : step * itemsize(job.type);
    const std::uint64_t bits = reinterpret_cast<std::uintptr_t>(data) | static_cast<std::uint64_t>(apart) | 256;
    return static_cast<std::uint32_t>(bits & (~bits + 1));
}

}  // namespace

bool blas_product(const ProductJob& job, Scratch& scratch) {
    const Library* const lib = library();
    if (lib == nullptr || job.k == 0) return false;
    const Handle handle = handle_of(*lib, scratch.place().device);
    if (handle == nullptr) return false;
    const int type = job.type == DType::float64    ? real_64f
                     : job.type == DType::float32  ? real_32f
                     : job.type == DType::bfloat16 ? real_16bf
                                                   : real_16f;
    const bool wide = job.type == DType::float64;
    Owned operation(lib->desc_destroy), preference(lib->preference_destroy);
    Owned first(lib->layout_destroy), second(lib->layout_destroy), third(lib->layout_destroy), result(lib->layout_destroy);
    bool ok = lib->desc_create(&operation.desc, wide ? compute_64f : compute_32f, wide ? real_64f : real_32f) == 0 &&
              lib->preference_create(&preference.desc) == 0 &&
              lib->preference_set(preference.desc, preference_workspace, &workspace_bytes, sizeof workspace_bytes) == 0;
    if (ok && job.b_transposed) ok = lib->desc_set(operation.desc, desc_transa, &transpose, sizeof transpose) == 0;
    const auto make = [&](Owned& to, const Layout& l) {
        const auto batch = static_cast<std::int32_t>(job.batch);
        ok = ok && lib->layout_create(&to.desc, type, l.rows, l.cols, l.ld) == 0 &&
             lib->layout_set(to.desc, layout_batch, &batch, sizeof batch) == 0 &&
             lib->layout_set(to.desc, layout_step, &l.step, sizeof l.step) == 0;
    };
    const auto m = static_cast<std::uint64_t>(job.m), n = static_cast<std::uint64_t>(job.n), k = static_cast<std::uint64_t>(job.k);
    const bool adds = job.c.data != nullptr && job.beta != 0;
    make(first, job.b_transposed ? Layout{k, n, job.b.ld, job.b.step} : Layout{n, k, job.b.ld, job.b.step});
    make(second, {k, m, job.a.ld, job.a.step});
    make(third, adds ? Layout{n, m, job.c.ld, job.c.step} : Layout{n, m, job.ldd, job.step_d});
    make(result, {n, m, job.ldd, job.step_d});
    const ProductJob::Operand to{job.d, job.ldd, job.step_d}, &added = adds ? job.c : to;
    const std::uint32_t alignments[] = {alignment_of(job.b.data, job.b.step, job), alignment_of(job.a.data, job.a.step, job),
                                        alignment_of(added.data, added.step, job), alignment_of(to.data, to.step, job)};
    for (int i = 0; ok && i < 4; ++i) ok = lib->preference_set(preference.desc, preference_alignments + i, alignments + i, sizeof alignments[i]) == 0;
    if (!ok) return false;

    using Key = std::array<int64_t, 20>;  // all that a choice may rest on
    static std::mutex mutex;
    static auto* const chosen = new std::map<Key, Heuristic>;
    const Key key{scratch.place().device, type, job.m, job.n, job.k, job.batch, job.a.ld, job.b.ld, added.ld, job.ldd,
                  job.a.step, job.b.step, added.step, job.step_d, alignments[0], alignments[1], alignments[2], alignments[3],
                  job.b_transposed ? 1 : 0, adds ? 1 : 0};
    Heuristic heuristic;
    {
        const std::lock_guard<std::mutex> lock(mutex);
        const auto known = chosen->find(key);
        if (known != chosen->end()) {
            heuristic = known->second;
        } else {
            int count = 0;
            if (lib->heuristic(handle, operation.desc, first.desc, second.desc, third.desc, result.desc, preference.desc, 1,
                               &heuristic, &count) != 0 || count == 0) {
                return false;
            }
            if (chosen->size() > 10000) chosen->clear();
            chosen->emplace(key, heuristic);
        }
    }
    Scratch room(scratch.place());  // back in the pool for the next product: callers' scratch outlives many
    void* const workspace = heuristic.workspace == 0 ? nullptr : room.take(heuristic.workspace);
    const auto alpha32 = static_cast<float>(job.alpha), beta32 = static_cast<float>(adds ? job.beta : 0);
    const double beta64 = adds ? job.beta : 0;
    const void* const alpha = wide ? static_cast<const void*>(&job.alpha) : &alpha32;
    const void* const beta = wide ? static_cast<const void*>(&beta64) : &beta32;
    return lib->matmul(handle, operation.desc, alpha, job.b.data, first.desc, job.a.data, second.desc, beta,
                       adds ? job.c.data : job.d, third.desc, job.d, result.desc, &heuristic.algorithm, workspace,
                       heuristic.workspace, stream(scratch.place())) == 0;
}

}  // namespace raphson::cuda
