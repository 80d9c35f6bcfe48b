// Rows of a current, y = W * source, as fp32 vectors.
#pragma once
#include "scratch.h"

namespace ndsnn::NDSNN_ISA_NAME {

// Where rows stand: element (step, channel, place) at base + step·step_stride + channel·channel_stride +
// place·lanes.
struct Rows {
    const float* base;
    size_t step_stride, channel_stride;
};

// A part of a current: rows y0 … y0+rows-1 of steps t0 … t0+steps-1 of a block, output channels c0 … c1-1.
struct Part {
    int block, t0, steps, y0, rows, c0, c1;

    static Part all_channels(const Current& current, int block, int t0, int steps, int y0, int rows) {
        return {block, t0, steps, y0, rows, 0, current.connections->g.c_out};
    }
};

// Computes a part into `into` (fp16 by the current's scale), its first channel at channel 0, and its sums
// [channel][Σ y, Σ y²] vectors where given. At most connections->forward_rows rows at a time; c0 must be a
// multiple of group_channels. What goes `past_caches` needs a `stream_fence` before others read it.
template <class Out>
void compute_rows(const Current& current, const Part& part, Out* into, size_t step_stride, size_t channel_stride,
                  float* sums, bool past_caches = false);

// A part as `compute_rows` gives it: in place where the current is stored in fp32, else computed or converted into
// `buffer`.
Rows get_rows(const Current& current, const Part& part, float* buffer);

// Floats in the buffer of a part.
inline size_t rows_size(const Current& current, const Part& part) {
    return static_cast<size_t>(part.steps) * (part.c1 - part.c0) * part.rows * current.connections->g.out_w *
           lanes;
}

}  // namespace ndsnn::NDSNN_ISA_NAME
