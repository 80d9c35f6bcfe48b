// Memory in whole pages of its own, for what is large: it goes back to the system when it is freed. In malloc's
// heap such pieces of many sizes, freed and asked for again in every step, leave holes that stay resident.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ndsnn {

constexpr size_t paged_bytes = size_t{64} << 10;  // from here on pages of its own

// Aligned to 64 bytes, not initialised.
inline void* allocate(size_t bytes) {
#if defined(__linux__)
    if (bytes >= paged_bytes) {
        void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (data == MAP_FAILED) throw std::bad_alloc();
        return data;
    }
#endif
    void* data = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!data) throw std::bad_alloc();
    return data;
}

// `bytes` as they were asked for.
inline void release(void* data, size_t bytes) {
#if defined(__linux__)
    if (data && bytes >= paged_bytes) {
        munmap(data, bytes);
        return;
    }
#endif
    std::free(data);
}

template <class T>
struct PageAllocator {
    using value_type = T;
    PageAllocator() = default;
    template <class U>
    PageAllocator(const PageAllocator<U>&) {}
    T* allocate(size_t count) { return static_cast<T*>(ndsnn::allocate(count * sizeof(T))); }
    void deallocate(T* data, size_t count) { release(data, count * sizeof(T)); }
    template <class U>
    bool operator==(const PageAllocator<U>&) const {
        return true;
    }
    template <class U>
    bool operator!=(const PageAllocator<U>&) const {
        return false;
    }
};

// Long lists, such as those of the alive weights.
template <class T>
using List = std::vector<T, PageAllocator<T>>;

}  // namespace ndsnn
