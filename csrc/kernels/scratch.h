// Memory a thread keeps between kernels, and the parallel loop they all use.
#pragma once
#include <array>
#include <exception>

#include "../layout.h"
#include "../simd.h"

namespace ndsnn::NDSNN_ISA_NAME {

// An aligned buffer that only grows.
class Scratch {
public:
    Scratch() = default;
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() { release(data_, size_); }

    template <class T>
    T* get(size_t count) {
        const size_t bytes = (count * sizeof(T) + 255) / 64 * 64;
        if (bytes > size_) {
            release(data_, size_);
            data_ = nullptr;
            size_ = 0;
            data_ = allocate(bytes);
            size_ = bytes;
        }
        return static_cast<T*>(data_);
    }

private:
    void* data_ = nullptr;
    size_t size_ = 0;
};

// Aligned memory for as long as a kernel runs, not initialised. A thread has few of them at a time and gives the
// same memory to one after another.
class Temporary {
public:
    explicit Temporary(size_t floats) : data_(stack().buffers.at(stack().used).get<float>(floats)) {
        stack().used++;
    }
    Temporary(const Temporary&) = delete;
    Temporary& operator=(const Temporary&) = delete;
    ~Temporary() { stack().used--; }
    float* get() { return data_; }

private:
    struct Stack {
        std::array<Scratch, 2> buffers;
        size_t used = 0;
    };
    static Stack& stack() {
        thread_local Stack own;
        return own;
    }

    float* data_;
};

// body(unit) for 0 ≤ unit < units, in any order on any thread: whatever it reduces must be kept per unit. The
// first exception of a unit is thrown again when all are done.
template <class F>
void parallel(int threads, int units, F body) {
    std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int unit = 0; unit < units; unit++) {
        try {
            body(unit);
        } catch (...) {
#pragma omp critical(ndsnn_failure)
            if (!failure) failure = std::current_exception();
        }
    }
    if (failure) std::rethrow_exception(failure);
}

inline bits_t valid_lanes(const Run& run, int block) {
    const int left = run.samples - block * lanes;
    return left >= lanes ? static_cast<bits_t>(~bits_t{0}) : static_cast<bits_t>((1u << left) - 1);
}

inline int ceil_div(int a, int b) { return (a + b - 1) / b; }
inline int floor_div(int a, int b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

// fn(typed pointer) for a map of floats.
template <class F>
inline auto with_floats(const Map& map, F fn) {
    return map.kind == Kind::Float16 ? fn(static_cast<half_t*>(map.data)) : fn(static_cast<float*>(map.data));
}

}  // namespace ndsnn::NDSNN_ISA_NAME
