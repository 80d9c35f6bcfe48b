// dL/dy as the backward kernels read it: rows of one block, made from dL/dx and y.
#pragma once
#include "rows.h"

namespace ndsnn::NDSNN_ISA_NAME {

// What a backward pass through a synapse is given.
struct BackwardProblem {
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

// Rows of dL/dy of one block, moving down.
class GradientStrip {
public:
    explicit GradientStrip(const BackwardProblem& p) : p_(p) {
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
        const Map& stored = p_.current.stored;
        if (p_.needs_y && stored.data && stored.kind == Kind::Float16) {
            const half_t* y = static_cast<const half_t*>(stored.data) + stored.place(t, block, 0, y0) * lanes;
            const size_t channel = static_cast<size_t>(stored.height) * stored.width * lanes;
            return with_y(block, t, y0, rows, base, y, channel, 1 / p_.current.stored_scale);
        }
        Rows y{nullptr, 0, 0};
        if (p_.needs_y) {
            const Part part = Part::all_channels(p_.current, block, t, 1, y0, rows);
            y = get_rows(p_.current, part, y_scratch.get<float>(rows_size(p_.current, part)));
        }
        with_y(block, t, y0, rows, base, y.base, y.channel_stride, 1);
    }

    // y: of channel 0, or nullptr; its true value is `y_factor` times what stands there.
    template <class Y>
    void with_y(int block, int t, int y0, int rows, int base, const Y* y, size_t y_channel, float y_factor) {
        const bits_t valid = valid_lanes(p_.run, block);
        const bool full = valid == static_cast<bits_t>(~bits_t{0});
        with_floats(p_.grad_x, [&](auto* data) {
            const auto* from = data + p_.grad_x.place(t, block, 0, y0) * lanes;
            full ? rows_of<true>(from, y, y_channel, y_factor, rows, y0 - base, valid)
                 : rows_of<false>(from, y, y_channel, y_factor, rows, y0 - base, valid);
        });
    }

    template <bool full, class T, class Y>
    void rows_of(const T* gx, const Y* y, size_t y_channel, float y_factor, int rows, int first, bits_t valid) {
        const Geometry& g = p_.g;
        const size_t row = static_cast<size_t>(g.out_w) * lanes;
        for (int c = 0; c < g.c_out; c++) {
            const vf a = splat(static_cast<float>(p_.affine.a[c])),
                     b = splat(static_cast<float>(p_.affine.b[c]) * y_factor),
                     d = splat(static_cast<float>(p_.affine.c[c]));
            for (int r = 0; r < rows; r++) {
                const T* from = gx + (static_cast<size_t>(c) * g.out_h + r) * row;
                const Y* yr = y ? y + c * y_channel + r * row : nullptr;
                float* to = origin_ + c * channel_ + (first + r) * row_size();
                for (size_t i = 0; i < row; i += lanes) {
                    vf v = load(from + i) * a + d;
                    if (yr) v += load(yr + i) * b;
                    store(to + i, full ? v : keep(v, valid));
                }
            }
        }
    }

    const BackwardProblem& p_;
    size_t channel_;
    float *data_, *origin_;
    int block_ = -1, t_ = -1, base_ = 0, end_ = 0;
};

}  // namespace ndsnn::NDSNN_ISA_NAME
