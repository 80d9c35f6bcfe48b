// Back through a synapse: dL/dsource and dL/dweights of the alive weights, in one pass over dL/dy or one each
// (choice.h).
//
// Work goes down the rows of a block; a strip holds the rows of dL/dy the present rows need, made from dL/dx and y
// on first use (the backward pass of the norm), so that dL/dy is never stored as a map.
#include <algorithm>

#include "../connections.h"
#include "choice.h"
#include "events.h"
#include "kernels.h"

namespace ndsnn::NDSNN_ISA_NAME {
namespace {

// Weight gradients are summed per slot: a fixed share of the work, whatever the number of threads. A slot has room
// for what `group` writes past the last weight.
constexpr int max_slots = 16;
constexpr size_t slot_bytes = size_t{4} << 20;  // all slots of a layer together, if it has that many weights

size_t slot_size(const Connections& k) { return (k.nnz + 3) / 16 * 16 + 16; }

int slots_of(const Connections& k, int units) {
    const size_t fit = std::max<size_t>(2, slot_bytes / (sizeof(float) * std::max<size_t>(1, k.nnz)));
    return static_cast<int>(std::min<size_t>({fit, static_cast<size_t>(units), static_cast<size_t>(max_slots)}));
}

struct Problem {
    const Run& run;
    const Current& current;
    const Connections& k;
    const Geometry& g;
    const Map& grad_x;
    const GradientAffine& affine;
    const Map* grad_source;
    bool accumulate;
    bool needs_y;
    const float* packed;  // dense weights of dL/dsource, or nullptr to go by alive ones
};

// The strip of a slot: rows of dL/dy of one block, moving down.
class GradientStrip {
public:
    explicit GradientStrip(const Problem& p) : p_(p) {
        const Connections& k = p.k;
        channel_ = static_cast<size_t>(k.grad_rows) * k.grad_pitch * lanes;
        const size_t size = (k.grad_left + 16) * lanes + p.g.c_out * channel_;
        data_ = strip_scratch().get<float>(size);
        std::memset(data_, 0, size * sizeof(float));
        origin_ = data_ + k.grad_left * lanes;
    }

    // Makes ready what rows y0 … y0+rows-1 of dL/dsource need; returns the row of dL/dy that stands first in the
    // strip.
    int advance(int block, int t, int y0, int rows) {
        const Geometry& g = p_.g;
        const int base = floor_div(y0 + g.pad_h - (g.k_h - 1), g.stride);
        const int last = std::min(g.out_h - 1, floor_div(y0 + rows - 1 + g.pad_h, g.stride));
        int next = std::max(0, base);
        if (block == block_ && t == t_ && base_ <= base && end_ > next) {
            move_up(base - base_, end_ - base);
            next = end_;
        }
        while (next <= last) {
            const int count = std::min(last + 1 - next, p_.current.connections->forward_rows);
            convert(block, t, next, count, base);
            next += count;
        }
        block_ = block, t_ = t, base_ = base, end_ = std::max(next, last + 1);
        return base;
    }
    const float* origin() const { return origin_; }
    size_t row_size() const { return static_cast<size_t>(p_.k.grad_pitch) * lanes; }

private:
    static Scratch& strip_scratch() {
        thread_local Scratch scratch;
        return scratch;
    }

    void move_up(int by, int rows) {
        if (by == 0 || rows <= 0) return;
        for (int c = 0; c < p_.g.c_out; c++) {
            float* to = origin_ + c * channel_;
            std::memmove(to, to + by * row_size(), sizeof(float) * rows * row_size());
        }
    }

    void convert(int block, int t, int y0, int rows, int base) {
        thread_local Scratch y_scratch;
        Rows y{nullptr, 0, 0};
        if (p_.needs_y) {
            const Part part = Part::all_channels(p_.current, block, t, 1, y0, rows);
            y = get_rows(p_.current, part, y_scratch.get<float>(rows_size(p_.current, part)));
        }
        const bits_t valid = valid_lanes(p_.run, block);
        const bool full = valid == static_cast<bits_t>(~bits_t{0});
        with_floats(p_.grad_x, [&](auto* data) {
            const Map& m = p_.grad_x;
            const size_t at =
                ((static_cast<size_t>(t) * m.blocks + block) * m.plane() + static_cast<size_t>(y0) * m.width) *
                lanes;
            full ? rows_of<true>(data + at, y, rows, y0 - base, valid)
                 : rows_of<false>(data + at, y, rows, y0 - base, valid);
        });
    }

    template <bool full, class T>
    void rows_of(const T* gx, const Rows& y, int rows, int first, bits_t valid) {
        const Geometry& g = p_.g;
        const size_t row = static_cast<size_t>(g.out_w) * lanes;
        for (int c = 0; c < g.c_out; c++) {
            const vf a = splat(static_cast<float>(p_.affine.a[c])), b = splat(static_cast<float>(p_.affine.b[c])),
                     d = splat(static_cast<float>(p_.affine.c[c]));
            for (int r = 0; r < rows; r++) {
                const T* from = gx + (static_cast<size_t>(c) * g.out_h + r) * row;
                const float* yr = p_.needs_y ? y.base + c * y.channel_stride + r * row : nullptr;
                float* to = origin_ + c * channel_ + (first + r) * row_size();
                for (size_t i = 0; i < row; i += lanes) {
                    vf v = load(from + i) * a + d;
                    if (yr) v += load(yr + i) * b;
                    store(to + i, full ? v : keep(v, valid));
                }
            }
        }
    }

    const Problem& p_;
    size_t channel_;
    float *data_, *origin_;
    int block_ = -1, t_ = -1, base_ = 0, end_ = 0;
};

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

// Z alive weights that share a source tile: both products from one load of each gradient vector.
template <int P, int S, int Z, bool input, bool weights, class T>
NDSNN_INLINE void group(vf* a, const SourceTile<P, S, T>& source, const float* strip, const Entry* e, float* dw) {
    vf d[4];
#pragma GCC unroll 4
    for (int z = 0; z < Z; z++) {
        const float* at = strip + static_cast<ptrdiff_t>(e[z].offset) * lanes;
        const vf w = splat(e[z].weight);
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) {
            vf g = load(at + p * lanes);
            NDSNN_HOLD(g);
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

template <int P, int S, bool input, bool weights, class T, class G>
NDSNN_INLINE void tile(const float* strip, const T* at, const Entry* entries, int begin, int end, float* dw,
                       G* out, bool accumulate) {
    SourceTile<P, S, T> source;
    if constexpr (weights) SourceTile<P, S, T>::read(source, at);
    vf a[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; p++) a[p] = vf{};
    int i = begin;
    for (; i + 4 <= end; i += 4) group<P, S, 4, input, weights, T>(a, source, strip, entries + i, dw + i);
    if (end - i == 3) group<P, S, 3, input, weights, T>(a, source, strip, entries + i, dw + i);
    if (end - i == 2) group<P, S, 2, input, weights, T>(a, source, strip, entries + i, dw + i);
    if (end - i == 1) group<P, S, 1, input, weights, T>(a, source, strip, entries + i, dw + i);
    if constexpr (input) {
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) {
            G* to = out + p * S * lanes;
            store(to, accumulate ? a[p] + load(to) : a[p]);
        }
    }
}

// One row of dL/dsource for all input channels, columns of class x (mod stride).
template <int P, int S, bool input, bool weights, class T, class G>
void row_tiles(const Problem& p, const float* strip, int base, const T* source, G* out, int y, int class_x, int j,
               float* dw) {
    constexpr int per = sizeof(T) == sizeof(bits_t) ? 1 : lanes;
    const Connections& k = p.k;
    const Geometry& g = p.g;
    const int columns = (g.width - class_x + S - 1) / S, end = j + (columns - j) / P * P;
    const int class_y = (y + g.pad_h) % S, row = (y + g.pad_h - class_y) / S;
    // ky = class_y + m·S reads dL/dy row `row` - m, which has to be on the map.
    const int lo = std::max(0, row - (g.out_h - 1)), hi = std::max(lo, std::min(k.taps, row + 1));
    const size_t map = static_cast<size_t>(g.height) * g.width;
    const float* rows = strip + static_cast<ptrdiff_t>(row - base) * k.grad_pitch * lanes;
    for (; j < end; j += P) {
        const size_t place = static_cast<size_t>(y) * g.width + class_x + static_cast<size_t>(j) * S;
        for (int ci = 0; ci < g.c_in; ci++) {
            const int32_t* begin =
                k.backward_begin.data() + ((static_cast<size_t>(ci) * S + class_x) * S + class_y) * k.taps;
            const size_t at = ci * map + place;
            tile<P, S, input, weights>(rows + static_cast<size_t>(j) * lanes, source + at * per, k.backward.data(),
                                       begin[lo], begin[hi], dw, input ? out + at * lanes : nullptr, p.accumulate);
        }
    }
    if constexpr (P > 1)
        if (j < columns) row_tiles<P / 2, S, input, weights>(p, strip, base, source, out, y, class_x, j, dw);
}

// dL/dsource with all weights: four input channels × two places in registers, stride 1.
// Packed weights [c_in / 4][c_out][k_h][k_w][4].
template <class G>
void dense_row(const Problem& p, const float* packed, const float* strip, int base, G* out, int y) {
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
void unit_rows(const Problem& p, GradientStrip& strip, const Unit& u, float* dw) {
    constexpr size_t per = sizeof(T) == sizeof(bits_t) ? 1 : lanes;
    const Map& s = p.current.source;
    const size_t map = (static_cast<size_t>(u.step) * s.blocks + u.block) * s.plane();
    const T* source = static_cast<const T*>(s.data) + map * per;
    G* out = input ? static_cast<G*>(p.grad_source->data) + map * lanes : nullptr;
    const int base = strip.advance(u.block, u.step, u.y0, u.rows);
    for (int y = u.y0; y < u.y0 + u.rows; y++) {
        if (p.packed) {
            if constexpr (input && !weights) dense_row(p, p.packed, strip.origin(), base, out, y);
            continue;
        }
        for (int class_x = 0; class_x < std::min(S, p.g.width); class_x++)
            row_tiles<8, S, input, weights>(p, strip.origin(), base, source, out, y, class_x, 0, dw);
    }
}

template <bool input, bool weights, class T, class G>
void unit_rows(const Problem& p, GradientStrip& strip, const Unit& u, float* dw) {
    if (p.g.stride == 1)
        unit_rows<1, input, weights, T, G>(p, strip, u, dw);
    else
        unit_rows<2, input, weights, T, G>(p, strip, u, dw);
}

template <bool weights, class T>
void unit_rows(const Problem& p, GradientStrip& strip, const Unit& u, float* dw) {
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
void run_slots(const Problem& p, int slots, float* partial) {
    const Map& s = p.current.source;
    const int strips = ceil_div(p.g.height, p.k.backward_rows), blocks = s.steps * s.blocks;
    parallel(p.run.threads, slots, [&](int slot) {
        GradientStrip strip(p);
        float* dw = weights ? partial + slot_size(p.k) * slot : nullptr;
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

void fused(const Problem& p, float* grad_values) {
    const int slots = slots_of(p.k, p.current.source.steps * p.current.source.blocks);
    std::vector<float> partial(slot_size(p.k) * slots);
    run_slots<true>(p, slots, partial.data());
    for (size_t i = 0; i < p.k.nnz; i++) {
        float total = partial[i];
        for (int slot = 1; slot < slots; slot++) total += partial[slot_size(p.k) * slot + i];
        grad_values[p.k.backward_value[i]] = total;
    }
}

// The alive entries of a dense gradient.
void weights_by_spikes(const Problem& p, float* grad_values) {
    thread_local Scratch scratch;
    const Geometry& g = p.g;
    const int groups = ceil_div(g.c_out, group_channels);
    float* dense = scratch.get<float>(static_cast<size_t>(groups) * g.k_h * g.k_w * g.c_in * group_channels);
    event_weight_gradient(p.run, p.current, p.grad_x, p.affine, 0, groups, dense);
    gather_dense(p.run, p.k, 0, dense, grad_values);
}

}  // namespace

void gather_dense(const Run& run, const Connections& k, int first_group, const float* dense, float* values) {
    const Geometry& g = k.g;
    parallel(run.threads, g.c_out, [&](int co) {
        const size_t group = co / group_channels - first_group;
        for_weights(k, k.channel_begin[co], k.channel_begin[co + 1], [&](int64_t i, const Place& p) {
            const size_t tap = (group * g.k_h + p.ky) * g.k_w + p.kx;
            values[i] = dense[(tap * g.c_in + p.ci) * group_channels + co % group_channels];
        });
    });
}

int dense_gradient_channels() { return group_channels; }

void dense_gradient(const Run& run, const Current& current, const Map& grad_x, const GradientAffine& affine,
                    int first, int channels, float* gradient) {
    thread_local Scratch scratch;
    const Geometry& g = current.connections->g;
    const size_t taps = static_cast<size_t>(g.k_h) * g.k_w, size = g.c_in * taps;
    if (current.source.kind != Kind::Spikes || !events_fit(g)) {
        std::vector<int64_t> positions(size * channels);
        for (size_t i = 0; i < positions.size(); i++) positions[i] = static_cast<int64_t>(first * size + i);
        Connections all = build_connections(g, positions.data(), positions.size());
        return synapse_backward(run, current, all, grad_x, affine, nullptr, false, gradient);
    }
    const ChosenKernels chosen(run, {&current});
    const int groups = ceil_div(channels, group_channels);
    float* dense = scratch.get<float>(groups * size * group_channels);
    event_weight_gradient(run, current, grad_x, affine, first / group_channels, groups, dense);
    parallel(run.threads, channels, [&](int c) {
        const float* from = dense + c / group_channels * size * group_channels + c % group_channels;
        for (int ci = 0; ci < g.c_in; ci++)
            for (size_t tap = 0; tap < taps; tap++)
                gradient[(static_cast<size_t>(c) * g.c_in + ci) * taps + tap] =
                    from[(tap * g.c_in + ci) * group_channels];
    });
}

void synapse_backward(const Run& run, const Current& current, Connections& k, const Map& grad_x,
                      const GradientAffine& affine, const Map* grad_source, bool accumulate, float* grad_values) {
    const bool needs_y = std::any_of(affine.b, affine.b + k.g.c_out, [](double b) { return b != 0; });
    const bool computes = needs_y && !current.stored.data;
    const ChosenKernels chosen(run,
                               computes ? std::vector<const Current*>{&current} : std::vector<const Current*>{});
    const BackwardWay way = backward_way(run, current, k, grad_source != nullptr);
    Problem p{run, current, k, k.g, grad_x, affine, grad_source, accumulate, needs_y, nullptr};
    if (way != BackwardWay::SplitDense) need_backward(k);
    if (way == BackwardWay::Fused) return fused(p, grad_values);
    weights_by_spikes(p, grad_values);
    if (!grad_source) return;
    if (way == BackwardWay::SplitDense) p.packed = pack_dense(k);
    const int blocks = current.source.steps * current.source.blocks;
    run_slots<false>(p, std::min(blocks, 4 * max_slots), nullptr);
}

}  // namespace ndsnn::NDSNN_ISA_NAME
