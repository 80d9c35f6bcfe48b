// How maps and connections lie in memory. Shared by all instruction sets; nothing here depends on the lane count
// but through `lanes`.
//
// Samples are grouped into blocks of `lanes` samples, the fastest axis of every map:
//   floats  [step][block][channel][y][x][lane]   fp32 or fp16
//   spikes  [step][block][channel][y][x]         one word per place, bit l = sample l of the block
// Lanes past the last sample are 0 in spikes and in gradients.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "pages.h"

namespace ndsnn {

enum class Kind : int { Spikes, Float32, Float16 };

struct Map {
    Kind kind = Kind::Float32;
    void* data = nullptr;
    int steps = 0, blocks = 0, channels = 0, height = 0, width = 0;

    size_t plane() const { return static_cast<size_t>(channels) * height * width; }
    size_t places() const { return static_cast<size_t>(steps) * blocks * plane(); }
    // The first place of a row.
    size_t place(int step, int block, int channel, int y) const {
        return (((static_cast<size_t>(step) * blocks + block) * channels + channel) * height + y) * width;
    }
    bool same_shape(const Map& m) const {
        return steps == m.steps && blocks == m.blocks && channels == m.channels && height == m.height &&
               width == m.width;
    }
};

// One alive weight in a list: where its operand stands, relative to the place being computed, and its value.
struct Entry {
    int32_t offset;
    float weight;
};

// How many entries of a list ahead kernels look; a backward list has that many and three past its end.
constexpr int entries_ahead = 4;

struct Geometry {
    int c_in, c_out, height, width, k_h, k_w, stride, pad_h, pad_w, out_h, out_w;
};

// The alive weights of a layer: where their values lie, and two lists in the orders the kernels
// walk them in, which are made when a kernel first needs them (connections.h).
struct Connections {
    Geometry g{};
    size_t nnz = 0;
    List<int32_t> positions;  // ascending flat positions in [c_out, c_in, k_h, k_w]; empty where all are alive
    const float* values = nullptr;       // in the order of their positions
    std::shared_ptr<const void> keeper;  // of whatever the values lie in
    std::vector<int64_t> channel_begin;  // first alive weight of each output channel, and nnz
    float largest_sum = -1;              // of |w| over a channel: no y of spikes is larger; -1 if not known

    // Forward: by output channel, then ky. The operand is a strip [c_in][strip_rows][pitch] of input rows; a row's
    // right padding is the left padding of the row after it. forward_begin has c_out·k_h + 1 entries.
    int forward_rows = 1, strip_rows = 0, pitch = 0, left = 0;
    List<Entry> forward;
    List<int32_t> forward_begin, forward_value;

    // Backward: by group of output channels, input channel, column class (x mod stride), row class (ky mod
    // stride), then ky. The operand is a strip [c_out][grad_rows][grad_pitch] of rows of dL/dy. backward_begin has
    // (((group·c_in + c_in)·stride + class_x)·stride + class_y)·taps + m entries, taps = ceil(k_h / stride), m the
    // index of ky in its class, plus one at the end.
    int backward_rows = 1, grad_rows = 0, grad_pitch = 0, grad_left = 0, taps = 1;
    int backward_groups = 1, backward_group = 1;
    List<Entry> backward;
    List<int32_t> backward_begin, backward_value;

    uint32_t position(size_t i) const { return positions.empty() ? static_cast<uint32_t>(i) : positions[i]; }
    double density() const {
        return static_cast<double>(nnz) / (static_cast<double>(g.c_in) * g.c_out * g.k_h * g.k_w);
    }
};

// The place of a weight.
struct Place {
    int co, ci, ky, kx;
};

inline Place place_of(const Geometry& g, uint32_t position) {
    Place p;
    const uint32_t k_w = g.k_w, k_h = g.k_h, c_in = g.c_in;
    p.kx = static_cast<int>(position % k_w), position /= k_w;
    p.ky = static_cast<int>(position % k_h), position /= k_h;
    p.ci = static_cast<int>(position % c_in);
    p.co = static_cast<int>(position / c_in);
    return p;
}

// fn(index, place) for the alive weights first … last-1 of a layer.
template <class F>
void for_weights(const Connections& k, int64_t first, int64_t last, F fn) {
    const Geometry& g = k.g;
    if (!k.positions.empty()) {
        for (int64_t i = first; i < last; i++) fn(i, place_of(g, k.positions[i]));
        return;
    }
    if (first >= last) return;
    Place p = place_of(g, static_cast<uint32_t>(first));
    for (int64_t i = first; i < last; i++) {
        fn(i, p);
        if (++p.kx < g.k_w) continue;
        p.kx = 0;
        if (++p.ky < g.k_h) continue;
        p.ky = 0;
        if (++p.ci < g.c_in) continue;
        p.ci = 0;
        p.co++;
    }
}

// y = W * source; kept in `stored` where that has data, else computed again at every use.
struct Current {
    Connections* connections = nullptr;
    Map source, stored;
    float stored_scale = 1;  // a power of two: fp16 maps hold y·stored_scale
    // Set while a kernel runs that chose to go by spikes rather than by weights.
    mutable const float* dense_weights = nullptr;
};

// A summand of a neuron's input: scale[c]·y + shift[c] of a current, or a map as it is.
struct Term {
    const Current* current = nullptr;
    Map map;
    const double* scale = nullptr;
    const double* shift = nullptr;
};

enum class Surrogate : int { Atan, Sigmoid, Triangle, Rectangle };

struct Neuron {
    float tau, threshold;
    float reset, subtract;  // by a hard and by a soft reset
    bool hard, decay_input, detach;
    Surrogate surrogate;
    float alpha;
};

struct Run {
    int samples;  // true samples N per step; the last block may be partly empty
    int threads;
};

// dL/dy = a[c]·dL/dx + b[c]·y + c[c]
struct GradientAffine {
    const double *a, *b, *c;
    bool needs_y(int channels) const {
        return std::any_of(b, b + channels, [](double of_y) { return of_y != 0; });
    }
};

// The kernels of one instruction set.
struct Kernels {
    const char* name;
    int lanes;
    void (*statistics)(const Run&, const Current&, double* sum, double* sum_squares);
    long long (*neuron_forward)(const Run&, const std::vector<Term>&, const Neuron&, int pool, const Map& out);
    void (*neuron_backward)(const Run&, const std::vector<Term>&, const Neuron&, int pool, const Map& grad_out,
                            const Map& grad_x, double* sum_gx, double* sum_gx_y);
    void (*synapse_backward)(const Run&, const Current&, Connections&, const Map& grad_x, const GradientAffine&,
                             const Map* grad_source, bool accumulate, float* grad_values);
    void (*dense_gradient)(const Run&, const Current&, const Map& grad_x, const GradientAffine&, int first,
                           int channels, float* gradient);
    int (*dense_gradient_channels)();
    void (*max_pool)(const Run&, const Map& source, int side, const Map& out);
    void (*max_pool_backward)(const Run&, const Map& source, int side, const Map& grad_out, const Map& grad_source,
                              bool accumulate, float factor);
    void (*avg_pool)(const Run&, const Map& source, const Map& out, int side);
    void (*avg_pool_backward)(const Run&, const Map& grad_out, const Map& grad_source, int side, bool accumulate,
                              float factor);
    void (*add)(const Run&, const Map& source, const Map& into, float factor);
    double (*mean_square)(const Run&, const Map& source);
    void (*load)(const Run&, const float* values, const Map& into);
    void (*unload)(const Run&, const Map& from, float* values);
    void (*counts)(const Run&, const Map& source, long long* counts);
    double (*fma_rate)(int threads, double seconds);
};

}  // namespace ndsnn
