// Back through a synapse: dL/dsource and dL/dweights of the alive weights, in one pass over dL/dy or one each
// (choice.h).
//
// Work goes down the rows of a block; a strip holds the rows of dL/dy the present rows need, made from dL/dx and y
// on first use (the backward pass of the norm), so that dL/dy is never stored as a map.
#include <algorithm>
#include <cstring>

#include "../connections.h"
#include "choice.h"
#include "events.h"
#include "gradient_strip.h"
#include "kernels.h"

namespace ndsnn::NDSNN_ISA_NAME {
namespace {

// Weight gradients are summed per slot: a fixed share of the work, whatever the number of threads. A slot has room
// for what `group` writes past the last weight.
constexpr int max_slots = 16;
constexpr size_t slot_bytes = size_t{4} << 20;  // all slots of a layer together, if it has that many weights

constexpr int widest = 8;  // places of a tile

size_t slot_size(const Connections& k) { return (k.nnz + 3) / 16 * 16 + 16; }

int slots_of(const Connections& k, int units) {
    const size_t fit = std::max<size_t>(2, slot_bytes / (sizeof(float) * std::max<size_t>(1, k.nnz)));
    return static_cast<int>(std::min<size_t>({fit, static_cast<size_t>(units), static_cast<size_t>(max_slots)}));
}

// The source at P places `S` apart: lane masks of spikes, or values.
template <int P, int S, class T>
struct SourceTile;
template <int P, int S>
struct SourceTile<P, S, bits_t> {
#if defined(__AVX512F__)
    bits_t m[P];
    NDSNN_INLINE void read(SourceTile& s, const bits_t* at) {
        for (int p = 0; p < P; p++) s.m[p] = at[p * S];
    }
    NDSNN_INLINE vf product(vf g, const SourceTile& s, int p) { return keep(g, s.m[p]); }
#else
    vi m[P];
    NDSNN_INLINE void read(SourceTile& s, const bits_t* at) {
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) s.m[p] = lane_mask(at[p * S]);
    }
    NDSNN_INLINE vf product(vf g, const SourceTile& s, int p) { return keep(g, s.m[p]); }
#endif
};
template <int P, int S>
struct SourceTile<P, S, float> {
    vf x[P];
    NDSNN_INLINE void read(SourceTile& s, const float* at) {
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) s.x[p] = load(at + p * S * lanes);
    }
    NDSNN_INLINE vf product(vf g, const SourceTile& s, int p) { return g * s.x[p]; }
};

// Z alive weights that share a source tile: both products from one load of each gradient vector. `far`: the strip
// is not in the first-level cache, so what the next weights need is asked for early.
template <int P, int S, int Z, bool input, bool weights, bool far, class T>
NDSNN_INLINE void group(vf* a, const SourceTile<P, S, T>& source, const float* strip, const Entry* e, float* dw) {
    vf d[4];
#pragma GCC unroll 4
    for (int z = 0; z < Z; z++) {
        const float* at = strip + static_cast<ptrdiff_t>(e[z].offset) * lanes;
        const vf w = splat(e[z].weight);
        const float* next = far ? strip + static_cast<ptrdiff_t>(e[z + entries_ahead].offset) * lanes : nullptr;
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) {
            vf g = load(at + p * lanes);
            NDSNN_HOLD(g);
            if (far && p * lanes % 16 == 0) __builtin_prefetch(next + p * lanes);
            if constexpr (input) a[p] += g * w;
            if constexpr (weights) {
                const vf product = SourceTile<P, S, T>::product(g, source, p);
                d[z] = p ? d[z] + product : product;
            }
        }
    }
    // Up to three entries past the list get + 0.
    if constexpr (weights) add_sums4(dw, d[0], Z > 1 ? d[1] : vf{}, Z > 2 ? d[2] : vf{}, Z > 3 ? d[3] : vf{});
}

// dL/dsource of P places: from where what earlier groups of channels summed is kept, to there or to the map.
template <int P, int S, class G>
struct InputTile {
    const float* from;  // nullptr for zeros
    float* to;          // nullptr for the map
    G* map;
    bool accumulate;

    NDSNN_INLINE void read(const InputTile& t, vf* a) {
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) a[p] = t.from ? load(t.from + p * lanes) : vf{};
    }
    NDSNN_INLINE void write(const InputTile& t, const vf* a) {
        if (t.to) {
#pragma GCC unroll 8
            for (int p = 0; p < P; p++) store(t.to + p * lanes, a[p]);
            return;
        }
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) {
            G* at = t.map + p * S * lanes;
            store(at, t.accumulate ? a[p] + load(at) : a[p]);
        }
    }
};

template <int P, int S, bool input, bool weights, bool far, class T, class G>
NDSNN_INLINE void tile(const float* strip, const T* at, const Entry* entries, int begin, int end, float* dw,
                       const InputTile<P, S, G>& out) {
    SourceTile<P, S, T> source;
    if constexpr (weights) SourceTile<P, S, T>::read(source, at);
    vf a[P];
    if constexpr (input) InputTile<P, S, G>::read(out, a);
    int i = begin;
    for (; i + 4 <= end; i += 4) group<P, S, 4, input, weights, far, T>(a, source, strip, entries + i, dw + i);
    if (end - i == 3) group<P, S, 3, input, weights, far, T>(a, source, strip, entries + i, dw + i);
    if (end - i == 2) group<P, S, 2, input, weights, far, T>(a, source, strip, entries + i, dw + i);
    if (end - i == 1) group<P, S, 1, input, weights, far, T>(a, source, strip, entries + i, dw + i);
    if constexpr (input) InputTile<P, S, G>::write(out, a);
}

// One row of dL/dsource for all input channels, columns of class x (mod stride).
template <int P, int S, bool input, bool weights, class T, class G>
void row_tiles(const BackwardProblem& p, const float* strip, int base, const T* source, G* out, int y, int class_x,
               int j, float* dw) {
    constexpr int per = sizeof(T) == sizeof(bits_t) ? 1 : lanes;
    const Connections& k = p.k;
    const Geometry& g = p.g;
    const int columns = (g.width - class_x + S - 1) / S, end = j + (columns - j) / P * P;
    const int class_y = (y + g.pad_h) % S, row = (y + g.pad_h - class_y) / S;
    // ky = class_y + m·S reads dL/dy row `row` - m, which has to be on the map.
    const int lo = std::max(0, row - (g.out_h - 1)), hi = std::max(lo, std::min(k.taps, row + 1));
    const size_t map = static_cast<size_t>(g.height) * g.width;
    const float* rows = strip + static_cast<ptrdiff_t>(row - base) * k.grad_pitch * lanes;
    thread_local Scratch scratch;
    const int groups = k.backward_groups;
    float* sums = groups > 1 ? scratch.get<float>(static_cast<size_t>(g.c_in) * P * lanes) : nullptr;
    for (; j < end; j += P) {
        const size_t place = static_cast<size_t>(y) * g.width + class_x + static_cast<size_t>(j) * S;
        const float* at = rows + static_cast<size_t>(j) * lanes;
        for (int group = 0; group < groups; group++)
            for (int ci = 0; ci < g.c_in; ci++) {
                const size_t list = static_cast<size_t>(group) * g.c_in + ci;
                const int32_t* begin = k.backward_begin.data() + ((list * S + class_x) * S + class_y) * k.taps;
                const T* from = source + (ci * map + place) * per;
                float* sum = sums ? sums + static_cast<size_t>(ci) * P * lanes : nullptr;
                const InputTile<P, S, G> to{group ? sum : nullptr, group + 1 < groups ? sum : nullptr,
                                            input ? out + (ci * map + place) * lanes : nullptr, p.accumulate};
                if (P == widest && groups == 1)
                    tile<P, S, input, weights, P == widest>(at, from, k.backward.data(), begin[lo], begin[hi], dw,
                                                            to);
                else
                    tile<P, S, input, weights, false>(at, from, k.backward.data(), begin[lo], begin[hi], dw, to);
            }
    }
    if constexpr (P > 1)
        if (j < columns) row_tiles<P / 2, S, input, weights>(p, strip, base, source, out, y, class_x, j, dw);
}

// dL/dsource with all weights: four input channels × two places in registers, stride 1.
// Packed weights [c_in / 4][c_out][k_h][k_w][4].
template <class G>
void dense_row(const BackwardProblem& p, const float* packed, const float* strip, int base, G* out, int y) {
    const Connections& k = p.k;
    const Geometry& g = p.g;
    const int row = y + g.pad_h, lo = std::max(0, row - (g.out_h - 1)),
              hi = std::max(lo, std::min(g.k_h, row + 1));
    const ptrdiff_t pitch = static_cast<ptrdiff_t>(k.grad_pitch) * lanes, channel = k.grad_rows * pitch;
    const float* rows = strip + (row - base) * pitch + g.pad_w * lanes;
    const size_t map = static_cast<size_t>(g.height) * g.width * lanes;
    for (int x = 0; x < g.width; x += 2) {
        const bool pair = x + 1 < g.width;
        const float* w = packed;
        for (int ci = 0; ci < g.c_in; ci += 4) {
            vf a[4][2];
            for (auto& at : a) at[0] = at[1] = vf{};
            for (int co = 0; co < g.c_out; co++, w += g.k_h * g.k_w * 4)
                for (int ky = lo; ky < hi; ky++) {
                    const float *at = rows + co * channel - ky * pitch + x * lanes, *wk = w + ky * g.k_w * 4;
                    for (int kx = 0; kx < g.k_w; kx++, at -= lanes, wk += 4) {
                        const vf g0 = load(at), g1 = load(at + lanes);
#pragma GCC unroll 4
                        for (int i = 0; i < 4; i++) {
                            const vf weight = splat(wk[i]);
                            a[i][0] += g0 * weight;
                            a[i][1] += g1 * weight;
                        }
                    }
                }
            for (int i = 0; i < std::min(4, g.c_in - ci); i++) {
                G* to = out + (ci + i) * map + (static_cast<size_t>(y) * g.width + x) * lanes;
                store(to, p.accumulate ? a[i][0] + load(to) : a[i][0]);
                if (pair) store(to + lanes, p.accumulate ? a[i][1] + load(to + lanes) : a[i][1]);
            }
        }
    }
}

const float* pack_dense(const Connections& k) {
    thread_local Scratch scratch;
    const Geometry& g = k.g;
    const size_t taps = static_cast<size_t>(g.k_h) * g.k_w, size = ceil_div(g.c_in, 4) * taps * g.c_out * 4;
    float* packed = scratch.get<float>(size);
    std::memset(packed, 0, size * sizeof(float));
    for_weights(k, 0, static_cast<int64_t>(k.nnz), [&](int64_t i, const Place& p) {
        packed[((static_cast<size_t>(p.ci / 4) * g.c_out + p.co) * taps + p.ky * g.k_w + p.kx) * 4 + p.ci % 4] =
            k.values[i];
    });
    return packed;
}

// What a slot does for each unit of rows.
struct Unit {
    int step, block, y0, rows;
};

template <int S, bool input, bool weights, class T, class G>
void unit_rows(const BackwardProblem& p, GradientStrip& strip, const Unit& u, float* dw) {
    constexpr size_t per = sizeof(T) == sizeof(bits_t) ? 1 : lanes;
    const Map& s = p.current.source;
    const size_t map = s.place(u.step, u.block, 0, 0);
    const T* source = static_cast<const T*>(s.data) + map * per;
    G* out = input ? static_cast<G*>(p.grad_source->data) + map * lanes : nullptr;
    const int base = strip.advance(u.block, u.step, u.y0, u.rows);
    for (int y = u.y0; y < u.y0 + u.rows; y++) {
        if (p.packed) {
            if constexpr (input && !weights) dense_row(p, p.packed, strip.origin(), base, out, y);
            continue;
        }
        for (int class_x = 0; class_x < std::min(S, p.g.width); class_x++)
            row_tiles<widest, S, input, weights>(p, strip.origin(), base, source, out, y, class_x, 0, dw);
    }
}

template <bool input, bool weights, class T, class G>
void unit_rows(const BackwardProblem& p, GradientStrip& strip, const Unit& u, float* dw) {
    if (p.g.stride == 1)
        unit_rows<1, input, weights, T, G>(p, strip, u, dw);
    else
        unit_rows<2, input, weights, T, G>(p, strip, u, dw);
}

template <bool weights, class T>
void unit_rows(const BackwardProblem& p, GradientStrip& strip, const Unit& u, float* dw) {
    if (!p.grad_source) {
        if constexpr (weights) unit_rows<false, true, T, float>(p, strip, u, dw);
    } else if (p.grad_source->kind == Kind::Float16) {
        unit_rows<true, weights, T, half_t>(p, strip, u, dw);
    } else {
        unit_rows<true, weights, T, float>(p, strip, u, dw);
    }
}

// Down the rows of all blocks, by slots of blocks that do not depend on the number of threads.
template <bool weights>
void run_slots(const BackwardProblem& p, int slots, float* partial) {
    const Map& s = p.current.source;
    const int strips = ceil_div(p.g.height, p.k.backward_rows), blocks = s.steps * s.blocks;
    parallel(p.run.threads, slots, [&](int slot) {
        GradientStrip strip(p);
        float* dw = weights ? partial + slot_size(p.k) * slot : nullptr;
        if (weights) std::memset(dw, 0, sizeof(float) * slot_size(p.k));
        const int first = static_cast<int>(static_cast<int64_t>(blocks) * slot / slots);
        const int last = static_cast<int>(static_cast<int64_t>(blocks) * (slot + 1) / slots);
        for (int unit = first * strips; unit < last * strips; unit++) {
            const int b = unit / strips, y0 = unit % strips * p.k.backward_rows;
            const Unit u{b / s.blocks, b % s.blocks, y0, std::min(p.k.backward_rows, p.g.height - y0)};
            if (s.kind == Kind::Spikes)
                unit_rows<weights, bits_t>(p, strip, u, dw);
            else
                unit_rows<weights, float>(p, strip, u, dw);
        }
    });
}

void fused(const BackwardProblem& p, float* grad_values) {
    const int slots = slots_of(p.k, p.current.source.steps * p.current.source.blocks);
    Temporary partial_sums(slot_size(p.k) * slots);
    const float* partial = partial_sums.get();
    run_slots<true>(p, slots, partial_sums.get());
    for (size_t i = 0; i < p.k.nnz; i++) {
        float total = partial[i];
        for (int slot = 1; slot < slots; slot++) total += partial[slot_size(p.k) * slot + i];
        grad_values[p.k.backward_value[i]] = total;
    }
}

// The alive entries of a dense gradient.
void weights_by_spikes(const BackwardProblem& p, float* grad_values) {
    const Geometry& g = p.k.g;
    const int groups = ceil_div(g.c_out, group_channels);
    Temporary dense(static_cast<size_t>(groups) * g.k_h * g.k_w * g.c_in * group_channels);
    event_weight_gradient(p.run, p.current, p.grad_x, p.affine, 0, groups, dense.get());
    gather_dense(p.run, p.k, dense.get(), grad_values);
}

}  // namespace

void synapse_backward(const Run& run, const Current& current, Connections& k, const Map& grad_x,
                      const GradientAffine& affine, const Map* grad_source, bool accumulate, float* grad_values) {
    const bool needs_y = affine.needs_y(k.g.c_out);
    const ChosenKernels chosen(run, needs_y ? computed({&current}) : std::vector<const Current*>{});
    const BackwardWay way = backward_way(run, current, k, grad_source != nullptr);
    BackwardProblem p{run, current, k, k.g, grad_x, affine, grad_source, accumulate, needs_y, nullptr};
    if (way == BackwardWay::Fused) {
        need_backward(k);
        return fused(p, grad_values);
    }
    weights_by_spikes(p, grad_values);
    if (!grad_source) return;
    if (way == BackwardWay::SplitDense)
        p.packed = pack_dense(k);
    else
        need_backward(k);
    const int blocks = current.source.steps * current.source.blocks;
    run_slots<false>(p, std::min(blocks, 4 * max_slots), nullptr);
}

}  // namespace ndsnn::NDSNN_ISA_NAME
