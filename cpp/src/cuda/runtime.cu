#include "cuda/runtime.h"

#include <map>
#include <mutex>
#include <stdexcept>
#include <string>

namespace raphson::cuda {

void check(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return;
    (void)cudaGetLastError();  // or the next launch would be blamed for it
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

DeviceGuard::DeviceGuard(int device) : device_(device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != device_) check(cudaSetDevice(device_), "cudaSetDevice");
}

DeviceGuard::~DeviceGuard() {
    if (before_ != device_) (void)cudaSetDevice(before_);
}

const DeviceTraits& traits(int device) {
    static std::mutex mutex;
    static auto* const known = new std::map<int, DeviceTraits>;
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = known->find(device);
    if (found != known->end()) return found->second;
    const auto attribute = [device](cudaDeviceAttr which) {
        int value = 0;
        check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
        return value;
    };
    const DeviceTraits found_here{attribute(cudaDevAttrMultiProcessorCount), attribute(cudaDevAttrComputeCapabilityMajor),
                                  attribute(cudaDevAttrComputeCapabilityMinor),
                                  static_cast<std::size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)),
                                  attribute(cudaDevAttrPageableMemoryAccessUsesHostPageTables) != 0};
    return known->emplace(device, found_here).first->second;
}

namespace {

// One pool a device, ours alone: what the process's default pool keeps is its owner's business.
cudaMemPool_t pool(int device) {
    static std::mutex mutex;
    static auto* const pools = new std::map<int, cudaMemPool_t>;
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = pools->find(device);
    if (found != pools->end()) return found->second;
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = device;
    cudaMemPool_t fresh = nullptr;
    check(cudaMemPoolCreate(&fresh, &properties), "cudaMemPoolCreate");
    std::uint64_t keep = ~std::uint64_t{0};
    check(cudaMemPoolSetAttribute(fresh, cudaMemPoolAttrReleaseThreshold, &keep), "cudaMemPoolSetAttribute");
    return pools->emplace(device, fresh).first->second;
}

void* allocate(std::size_t bytes, CudaPlace place) {
    void* memory = nullptr;
    const std::string what = "cudaMallocFromPoolAsync of " + std::to_string(bytes) + " bytes";
    check(cudaMallocFromPoolAsync(&memory, bytes == 0 ? 1 : bytes, pool(place.device), stream(place)), what.c_str());
    return memory;
}

}  // namespace

void* Scratch::take(std::size_t bytes) {
    taken_.push_back(nullptr);
    taken_.back() = allocate(bytes, place_);
    return taken_.back();
}

// The null stream is the current device's, and what is kept beyond a call may end while any device is: freed in that one's
// order, memory would serve again before its own device is done with it.
namespace {

// For destructors: where the driver is gone or broken, whoever calls it next is told.
void give_back(void* const* memory, std::size_t count, CudaPlace place) noexcept {
    if (count == 0) return;
    int before = place.device;
    (void)cudaGetDevice(&before);
    if (before != place.device) (void)cudaSetDevice(place.device);
    for (std::size_t i = 0; i < count; ++i) {
        if (memory[i] != nullptr) (void)cudaFreeAsync(memory[i], stream(place));
    }
    if (before != place.device) (void)cudaSetDevice(before);
}

}  // namespace

Scratch::~Scratch() { give_back(taken_.data(), taken_.size(), place_); }

void allow_shared(const void* kernel, std::size_t bytes, CudaPlace place, const char* name) {
    static std::mutex mutex;
    static auto* const allowed = new std::map<std::pair<const void*, int>, std::size_t>;
    const std::lock_guard<std::mutex> lock(mutex);
    std::size_t& now = (*allowed)[{kernel, place.device}];
    if (bytes <= now) return;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), name);
    now = bytes;
}

dim3 block_count(int64_t count, const char* name) {
    constexpr int64_t most = 0x7fffffff;
    if (count > most) throw std::runtime_error(std::string(name) + ": too many blocks for one launch");
    return dim3(static_cast<unsigned>(count));
}

// ---- the table's ----------------------------------------------------------------------------------------------------------

int device_count() {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaErrorNoDevice) return 0;
    if (error != cudaSuccess) throw std::runtime_error(std::string(cudaGetErrorString(error)));
    return count;
}

void* allocate_result(std::size_t bytes, CudaPlace place) {
    const DeviceGuard guard(place.device);
    return allocate(bytes, place);
}

void release_result(void* memory, CudaPlace place) noexcept { give_back(&memory, 1, place); }

void order(CudaPlace earlier, CudaPlace later) {
    if (earlier.stream == later.stream) return;
    const DeviceGuard guard(earlier.device);
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
    cudaError_t error = cudaEventRecord(event, stream(earlier));
    if (error == cudaSuccess) error = cudaStreamWaitEvent(stream(later), event, 0);
    (void)cudaEventDestroy(event);  // the driver keeps it until it has come
    check(error, "cudaStreamWaitEvent");
}

}  // namespace raphson::cuda
