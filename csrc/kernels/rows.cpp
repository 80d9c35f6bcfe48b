#include "rows.h"

#include <algorithm>

#include "choice.h"
#include "events.h"
#include "kernels.h"

namespace ndsnn::NDSNN_ISA_NAME {
namespace {

constexpr size_t streamed_bytes = size_t{8} << 20;  // maps of at least this are written past the caches

// A strip of input rows [c_in][strip_rows][pitch], zeros where the map ends. T: bits_t, or float with `lanes` per
// place.
template <class T>
void fill_strip(const Connections& k, const T* source, int y0, int rows, T* strip) {
    constexpr int per = sizeof(T) == sizeof(bits_t) ? 1 : lanes;
    const Geometry& g = k.g;
    const int first = y0 * g.stride - g.pad_h, needed = (rows - 1) * g.stride + g.k_h;
    const size_t row_size = static_cast<size_t>(k.pitch) * per, width = static_cast<size_t>(g.width) * per;
    std::memset(strip, 0, sizeof(T) * k.left * per);
    for (int c = 0; c < g.c_in; c++) {
        const T* channel = source + static_cast<size_t>(c) * g.height * width;
        T* row = strip + k.left * per + static_cast<size_t>(c) * k.strip_rows * row_size;
        for (int r = 0; r < needed; r++, row += row_size) {
            const int y = first + r;
            if (y < 0 || y >= g.height) {
                std::memset(row, 0, sizeof(T) * row_size);
                continue;
            }
            const char* from = reinterpret_cast<const char*>(channel + y * width);
            char* to = reinterpret_cast<char*>(row);
            // Eight bytes at a time: what is copied too much is overwritten by the padding or the next row.
            for (size_t i = 0; i < width * sizeof(T); i += 8) std::memcpy(to + i, from + i, 8);
            std::memset(row + width, 0, sizeof(T) * (row_size - width));
        }
        // The left padding of the next channel's first row, where that is not the end of a row just written.
        if (needed < k.strip_rows)
            std::memset(row + (k.strip_rows - needed) * row_size - k.left * per, 0, sizeof(T) * k.left * per);
    }
}

// V steps × P places side by side: every alive weight is loaded once for all of them.
template <int V, int P, int S>
NDSNN_INLINE void tile(const bits_t* strip, size_t plane, const Entry* e, const Entry* end, vf* sum) {
    vf a[V * P];
#pragma GCC unroll 16
    for (int i = 0; i < V * P; i++) a[i] = vf{};
    for (; e != end; e++) {
        const vf w = splat(e->weight);
        const bits_t* at = strip + e->offset;
#pragma GCC unroll 8
        for (int v = 0; v < V; v++, at += plane)
#pragma GCC unroll 8
            for (int p = 0; p < P; p++) add_where(a[v * P + p], at + p * S, w);
    }
#pragma GCC unroll 16
    for (int i = 0; i < V * P; i++) sum[i] = a[i];
}

template <int V, int P, int S>
NDSNN_INLINE void tile(const float* strip, size_t plane, const Entry* e, const Entry* end, vf* sum) {
    vf a[V * P];
#pragma GCC unroll 16
    for (int i = 0; i < V * P; i++) a[i] = vf{};
    for (; e != end; e++) {
        const vf w = splat(e->weight);
        const float* at = strip + static_cast<ptrdiff_t>(e->offset) * lanes;
#pragma GCC unroll 8
        for (int v = 0; v < V; v++, at += plane)
#pragma GCC unroll 8
            for (int p = 0; p < P; p++) a[v * P + p] += load(at + p * S * lanes) * w;
    }
#pragma GCC unroll 16
    for (int i = 0; i < V * P; i++) sum[i] = a[i];
}

// Where a row goes, and which output channels it has.
template <class Out>
struct Target {
    int c0, c1;
    Out* into;
    size_t step_stride, channel_stride;
    float* sums;
    float scale;  // of what is written in fp16
    bool past_caches;
};

// fp16 rows take the way through the caches.
template <bool past_caches>
NDSNN_INLINE void write(float* to, vf y, float) {
    past_caches ? stream(to, y) : store(to, y);
}
template <bool>
NDSNN_INLINE void write(half_t* to, vf y, float scale) {
    store(to, y * scale);
}

// One row of V steps: all output channels, tiles of P places and what is left in smaller ones.
template <int V, int P, int S, bool past_caches, class T, class Out>
void row_tiles(const Connections& k, const T* strip, size_t plane, int y, int x, const Target<Out>& target) {
    constexpr int per = sizeof(T) == sizeof(bits_t) ? 1 : lanes;
    const Geometry& g = k.g;
    const int top = y * g.stride - g.pad_h, lo = std::min(g.k_h, std::max(0, -top)),
              hi = std::max(lo, std::min(g.k_h, g.height - top));
    const int end = x + (g.out_w - x) / P * P;
    for (int co = target.c0; co < target.c1; co++) {
        const int32_t* begin = k.forward_begin.data() + static_cast<size_t>(co) * g.k_h;
        const Entry *first = k.forward.data() + begin[lo], *last = k.forward.data() + begin[hi];
        Out* out = target.into + (co - target.c0) * target.channel_stride;
        vf s{}, q{};
        for (int i = x; i < end; i += P) {
            vf y_vp[V * P];
            tile<V, P, S>(strip + static_cast<size_t>(i) * S * per, plane, first, last, y_vp);
#pragma GCC unroll 8
            for (int v = 0; v < V; v++)
#pragma GCC unroll 8
                for (int p = 0; p < P; p++) {
                    const vf value = y_vp[v * P + p];
                    write<past_caches>(out + v * target.step_stride + (i + p) * lanes, value, target.scale);
                    s += value;
                    q += value * value;
                }
        }
        if (target.sums) {
            float* sums = target.sums + static_cast<size_t>(co - target.c0) * 2 * lanes;
            store(sums, load(sums) + s);
            store(sums + lanes, load(sums + lanes) + q);
        }
    }
    if constexpr (P > 1)
        if (end < g.out_w) row_tiles<V, P / 2, S, past_caches>(k, strip, plane, y, end, target);
}

template <int V, int S, class T, class Out>
void row_of(const Connections& k, const T* strip, size_t plane, int y, const Target<Out>& target) {
    constexpr int widest = V == 1 ? 8 : V == 2 ? 4 : 2;
    if constexpr (sizeof(Out) == sizeof(float))
        if (target.past_caches) return row_tiles<V, widest, S, true>(k, strip, plane, y, 0, target);
    row_tiles<V, widest, S, false>(k, strip, plane, y, 0, target);
}

template <int S, class T, class Out>
void steps_of_row(const Connections& k, const T* strip, size_t plane, int steps, int y, Target<Out> target) {
    const int together = k.g.out_w >= 8 ? 1 : k.g.out_w >= 4 ? 2 : 5;
    while (steps > 0) {
        const int v = std::min(steps, together);
#define NDSNN_STEPS(V) \
    if (v == V) row_of<V, S>(k, strip, plane, y, target)
        NDSNN_STEPS(1);
        NDSNN_STEPS(2);
        NDSNN_STEPS(3);
        NDSNN_STEPS(4);
        NDSNN_STEPS(5);
#undef NDSNN_STEPS
        strip += v * plane;
        target.into += v * target.step_stride;
        steps -= v;
    }
}

template <class T, class Out>
void rows_from(const Current& current, const T* source, size_t step_size, const Part& part,
               const Target<Out>& target) {
    constexpr int per = sizeof(T) == sizeof(bits_t) ? 1 : lanes;
    thread_local Scratch scratch;
    const Connections& k = *current.connections;
    const size_t plane = (k.left + static_cast<size_t>(k.g.c_in) * k.strip_rows * k.pitch + 16) * per;
    T* strips = scratch.get<T>(plane * part.steps);
    for (int t = 0; t < part.steps; t++)
        fill_strip(k, source + t * step_size, part.y0, part.rows, strips + t * plane);
    for (int r = 0; r < part.rows; r++) {
        const T* at = strips + static_cast<size_t>(r) * k.g.stride * k.pitch * per;
        Target<Out> row = target;
        row.into += static_cast<size_t>(r) * k.g.out_w * lanes;
        if (k.g.stride == 1)
            steps_of_row<1>(k, at, plane, part.steps, part.y0 + r, row);
        else
            steps_of_row<2>(k, at, plane, part.steps, part.y0 + r, row);
    }
}

}  // namespace

template <class Out>
void compute_rows(const Current& current, const Part& part, Out* into, size_t step_stride, size_t channel_stride,
                  float* sums, bool past_caches) {
    const Map& s = current.source;
    const size_t per = s.kind == Kind::Spikes ? 1 : lanes, step_size = s.blocks * s.plane() * per;
    const size_t at = s.place(part.t0, part.block, 0, 0) * per;
    const Target<Out> target{part.c0,    part.c1, into, step_stride, channel_stride, sums, current.stored_scale,
                             past_caches};
    if (current.dense_weights)
        event_rows(current, static_cast<const bits_t*>(s.data) + at, step_size, part, into, step_stride,
                   channel_stride, sums);
    else if (s.kind == Kind::Spikes)
        rows_from(current, static_cast<const bits_t*>(s.data) + at, step_size, part, target);
    else
        rows_from(current, static_cast<const float*>(s.data) + at, step_size, part, target);
}
template void compute_rows(const Current&, const Part&, float*, size_t, size_t, float*, bool);
template void compute_rows(const Current&, const Part&, half_t*, size_t, size_t, float*, bool);

Rows get_rows(const Current& current, const Part& part, float* buffer) {
    const Geometry& g = current.connections->g;
    const Map& m = current.stored;
    const size_t row = static_cast<size_t>(g.out_w) * lanes, channel_stride = part.rows * row;
    const size_t step_stride = (part.c1 - part.c0) * channel_stride;
    if (!m.data) {
        compute_rows(current, part, buffer, step_stride, channel_stride, nullptr);
        return {buffer, step_stride, channel_stride};
    }
    const size_t channel_size = static_cast<size_t>(g.out_h) * row, step_size = m.blocks * m.plane() * lanes;
    const size_t at = m.place(part.t0, part.block, part.c0, part.y0) * lanes;
    if (m.kind == Kind::Float32) return {static_cast<const float*>(m.data) + at, step_size, channel_size};
    const half_t* from = static_cast<const half_t*>(m.data) + at;
    for (int t = 0; t < part.steps; t++)
        for (int c = 0; c < part.c1 - part.c0; c++)
            for (size_t i = 0; i < channel_stride; i += lanes)
                store(buffer + t * step_stride + c * channel_stride + i,
                      load(from + t * step_size + c * channel_size + i) * (1 / current.stored_scale));
    return {buffer, step_stride, channel_stride};
}

void statistics(const Run& run, const Current& current, double* sum, double* sum_squares) {
    const Connections& k = *current.connections;
    const Geometry& g = k.g;
    const Map &s = current.source, &m = current.stored;
    const ChosenKernels chosen(run, {&current});
    const int strips = ceil_div(g.out_h, k.forward_rows), units = s.blocks * strips;
    const size_t row = static_cast<size_t>(g.out_w) * lanes;
    const bool past_caches =
        m.data && m.kind == Kind::Float32 && m.places() * lanes * sizeof(float) >= streamed_bytes;
    std::vector<double> parts(static_cast<size_t>(units) * g.c_out * 2);
    parallel(run.threads, units, [&](int unit) {
        thread_local Scratch sum_scratch, row_scratch;
        const int block = unit / strips, y0 = unit % strips * k.forward_rows;
        const int rows = std::min(k.forward_rows, g.out_h - y0);
        const Part part = Part::all_channels(current, block, 0, s.steps, y0, rows);
        float* sums = sum_scratch.get<float>(static_cast<size_t>(g.c_out) * 2 * lanes);
        std::memset(sums, 0, sizeof(float) * g.c_out * 2 * lanes);
        if (m.data) {
            with_floats(m, [&](auto* data) {
                compute_rows(current, part, data + m.place(0, block, 0, y0) * lanes, m.blocks * m.plane() * lanes,
                             g.out_h * row, sums, past_caches);
            });
            if (past_caches) stream_fence();
        } else {
            // Only the sums are wanted: all channels and steps share one row.
            float* out = row_scratch.get<float>((s.steps + rows) * row);
            compute_rows(current, part, out, row, 0, sums);
        }
        double* unit_sums = parts.data() + static_cast<size_t>(unit) * g.c_out * 2;
        for (int i = 0; i < g.c_out * 2; i++)
            for (int l = 0; l < lanes; l++) unit_sums[i] += sums[i * lanes + l];
    });
    for (int c = 0; c < g.c_out; c++) {
        sum[c] = sum_squares[c] = 0;
        for (int unit = 0; unit < units; unit++) {
            sum[c] += parts[(static_cast<size_t>(unit) * g.c_out + c) * 2];
            sum_squares[c] += parts[(static_cast<size_t>(unit) * g.c_out + c) * 2 + 1];
        }
    }
}

}  // namespace ndsnn::NDSNN_ISA_NAME
