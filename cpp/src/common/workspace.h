// Scratch memory: a stack of blocks per thread, kept between calls, so that steady-state calls allocate nothing.
#pragma once

#include <cstddef>
#include <cstdint>

namespace raphson {

// Takes 64-byte aligned blocks from the calling thread's scratch stack and gives them back, last in first out, when it
// goes out of scope. Large blocks ask the system for huge pages. Contents are undefined. std::bad_alloc when memory ends.
class Workspace {
public:
    Workspace() noexcept;
    ~Workspace();
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    void* take(std::size_t bytes);
    template <class T>
    T* take_array(std::int64_t count) {
        return static_cast<T*>(take(static_cast<std::size_t>(count > 0 ? count : 1) * sizeof(T)));
    }

private:
    std::size_t chunk_;
    std::size_t used_;
};

// Bytes of scratch that the calling thread keeps between calls.
std::size_t workspace_kept();
// Gives the calling thread's kept scratch back to the system (only while no Workspace lives on this thread).
void workspace_release();

}  // namespace raphson
