// What neurons integrate: the rows of their terms, and the constants of their equations.
//
// h[t] = keep·v[t-1] + gain·x[t] + bias,  o[t] = h[t] ≥ ϑ,  v[t] = o ? v_reset : h (hard) or h - r·o (soft),
// x[t] = Σ over terms of scale[c]·y[t] + shift[c].
#pragma once
#include <algorithm>

#include "choice.h"
#include "rows.h"

namespace ndsnn::NDSNN_ISA_NAME {

struct Constants {
    float keep, gain, bias, start, threshold;
    float reset;  // what the potential is set to (hard), or loses (soft)
    explicit Constants(const Neuron& n) {
        const float k = 1 / n.tau;
        keep = 1 - k;
        gain = n.decay_input ? k : 1;
        start = n.hard ? n.reset : 0;
        bias = k * start;
        threshold = n.threshold;
        reset = n.hard ? n.reset : n.subtract;
    }
};

template <bool hard>
NDSNN_INLINE vf after_reset(vf h, vf threshold, vf reset) {
    const vi fired = h >= threshold;
    return hard ? choose(fired, reset, h) : h - choose(fired, reset, vf{});
}

// What a unit of work covers: all steps of some rows of one block, before the pool.
struct Unit {
    int block, y0, rows;
};

struct Layout {
    int steps, blocks, channels, height, width;  // before the pool
    int side_h, side_w;                          // window of the pool
    int rows;                                    // rows of a unit, a multiple of side_h
    int strips;

    Layout(const std::vector<Term>& terms, const Map& pooled, int pool) {
        const Term& first = terms.front();
        steps = pooled.steps;
        blocks = pooled.blocks;
        channels = pooled.channels;
        height = first.current ? first.current->connections->g.out_h : first.map.height;
        width = first.current ? first.current->connections->g.out_w : first.map.width;
        side_h = std::min(pool, height);
        side_w = std::min(pool, width);
        rows = height;
        for (const Term& term : terms)
            if (term.current && !term.current->stored.data)
                rows = std::min(rows, term.current->connections->forward_rows);
        rows = std::min(rows, std::max(1, 64 / width));
        rows = ceil_div(rows, side_h) * side_h;
        strips = ceil_div(height, rows);
    }
    Unit unit(int index) const {
        const int y0 = index % strips * rows;
        return {index / strips, y0, std::min(rows, height - y0)};
    }
};

// The input current of one channel, gain·x + bias, at step t and place p; the steps of an array are `…_step`
// elements apart. E: how currents are stored.
enum class InputKind { One, Two, WithSpikes };
template <class E>
struct Input {
    InputKind kind = InputKind::One;
    const E *y = nullptr, *y2 = nullptr;
    size_t y_step = 0, y2_step = 0, spike_step = 0;
    float a = 0, a2 = 0, b = 0, gain = 0;
    const bits_t* spikes = nullptr;

    template <InputKind kind>
    NDSNN_INLINE vf at(const Input& in, int t, size_t p) {
        vf x = load(in.y + t * in.y_step + p * lanes) * in.a + in.b;
        if constexpr (kind == InputKind::Two) x += load(in.y2 + t * in.y2_step + p * lanes) * in.a2;
        if constexpr (kind == InputKind::WithSpikes) x += keep(splat(in.gain), in.spikes[t * in.spike_step + p]);
        return x;
    }
};

// The rows of all terms of a unit; those of currents are kept until the unit is done.
class TermRows {
public:
    void prepare(const std::vector<Term>& terms, const Layout& layout, const Unit& unit) {
        terms_ = &terms;
        layout_ = &layout;
        unit_ = unit;
        size_t size = 0;
        for (const Term& term : terms)
            if (term.current) size += buffer_size(*term.current);
        float* buffer = scratch_.get<float>(size);
        rows_.clear();
        for (const Term& term : terms) {
            if (!term.current) {
                rows_.push_back({});
                continue;
            }
            rows_.push_back(fetch(*term.current, buffer));
            buffer += buffer_size(*term.current);
        }
    }

    // Whether `input<half_t>` can read all currents where they are stored.
    bool reads_half() const {
        const std::vector<Term>& terms = *terms_;
        const auto half = [](const Term& term) { return term.current && is_half(*term.current); };
        return half(terms[0]) &&
               (terms.size() == 1 ||
                (terms.size() == 2 && (half(terms[1]) || (!terms[1].current && in_bits(terms[1])))));
    }

    // To be called before a channel's rows of floats are asked for: those of fp16 maps are made one channel at a
    // time.
    void take_channel(int c) {
        for (size_t i = 0; i < terms_->size(); i++) {
            const Current* current = (*terms_)[i].current;
            if (!current || !is_half(*current)) continue;
            Part part = part_of(*current);
            part.c0 = c, part.c1 = c + 1;
            get_rows(*current, part, const_cast<float*>(rows_[i].base));
        }
    }

    // y of term i: step t (0 if it is the same at every step), channel c; as it is stored, times `scale(i)`, where
    // E is fp16.
    template <class E>
    const E* row(size_t i, int t, int c) const {
        const Current& current = *(*terms_)[i].current;
        const int step = current.source.steps == 1 ? 0 : t;
        if constexpr (sizeof(E) == sizeof(half_t))
            return static_cast<const E*>(current.stored.data) + place(current.stored, step, c) * lanes;
        else
            return rows_[i].base + step * rows_[i].step_stride + c * rows_[i].channel_stride;
    }

    // Elements between two steps of term i, 0 if it is the same at every step.
    template <class E>
    size_t step_of(size_t i) const {
        const Current& current = *(*terms_)[i].current;
        if (current.source.steps == 1) return 0;
        return sizeof(E) == sizeof(half_t) ? current.stored.blocks * current.stored.plane() * lanes
                                           : rows_[i].step_stride;
    }

    template <class E>
    float scale(size_t i) const {
        return sizeof(E) == sizeof(half_t) ? (*terms_)[i].current->stored_scale : 1;
    }

    // gain·x + bias of channel c over all steps, ready to be read place by place; `buffer` [t][n] is used where
    // the terms are of no common kind, which `reads_half` excludes.
    template <class E>
    Input<E> input(const Constants& k, int c, float* buffer) const {
        const std::vector<Term>& terms = *terms_;
        Input<E> in;
        if (terms.size() <= 2 && terms[0].current &&
            (terms.size() == 1 || terms[1].current || in_bits(terms[1]))) {
            in.y = row<E>(0, 0, c), in.y_step = step_of<E>(0);
            in.a = static_cast<float>(k.gain * terms[0].scale[c]) / scale<E>(0);
            double b = k.gain * terms[0].shift[c] + k.bias;
            if (terms.size() == 2 && terms[1].current) {
                in.kind = InputKind::Two;
                in.y2 = row<E>(1, 0, c), in.y2_step = step_of<E>(1);
                in.a2 = static_cast<float>(k.gain * terms[1].scale[c]) / scale<E>(1);
                b += k.gain * terms[1].shift[c];
            } else if (terms.size() == 2) {
                const Map& m = terms[1].map;
                in.kind = InputKind::WithSpikes;
                in.spikes = static_cast<const bits_t*>(m.data) + place(m, 0, c);
                in.spike_step = m.steps == 1 ? 0 : m.blocks * m.plane();
                in.gain = k.gain;
            }
            in.b = static_cast<float>(b);
            return in;
        }
        if constexpr (sizeof(E) == sizeof(float)) {
            const size_t n = static_cast<size_t>(unit_.rows) * layout_->width;
            for (int t = 0; t < layout_->steps; t++) {
                float* x = buffer + t * n * lanes;
                for (size_t i = 0; i < terms.size(); i++)
                    terms[i].current ? add_current(k, i, t, c, n, i == 0, x)
                                     : add_map(k, terms[i].map, t, c, n, i == 0, x);
            }
            in.y = buffer, in.y_step = n * lanes;
            in.a = 1, in.b = 0;
        }
        return in;
    }

private:
    static bool in_bits(const Term& term) { return term.map.kind == Kind::Spikes; }
    static bool is_half(const Current& current) {
        return current.stored.data && current.stored.kind == Kind::Float16;
    }

    // Floats that the rows of a current are kept in.
    size_t buffer_size(const Current& current) const {
        const Part part = part_of(current);
        return rows_size(current, part) / (is_half(current) ? part.c1 : 1);
    }

    Part part_of(const Current& current) const {
        return Part::all_channels(current, unit_.block, 0, current.source.steps, unit_.y0, unit_.rows);
    }

    // A unit may be taller than what is computed at a time.
    Rows fetch(const Current& current, float* buffer) {
        const Geometry& g = current.connections->g;
        const int most = current.connections->forward_rows;
        Part part = part_of(current);
        if (is_half(current)) return {buffer, static_cast<size_t>(unit_.rows) * g.out_w * lanes, 0};
        if (current.stored.data) return get_rows(current, part, buffer);
        const size_t row = static_cast<size_t>(g.out_w) * lanes, channel = unit_.rows * row,
                     step = g.c_out * channel;
        for (int r = 0; r < unit_.rows; r += most) {
            part.y0 = unit_.y0 + r;
            part.rows = std::min(most, unit_.rows - r);
            compute_rows(current, part, buffer + r * row, step, channel, nullptr);
        }
        return {buffer, step, channel};
    }

    size_t place(const Map& m, int t, int c) const { return m.place(t, unit_.block, c, unit_.y0); }

    void add_current(const Constants& k, size_t i, int t, int c, size_t n, bool first, float* x) const {
        const Term& term = (*terms_)[i];
        const float* y = row<float>(i, t, c);
        const vf a = splat(static_cast<float>(k.gain * term.scale[c]));
        const vf b = splat(static_cast<float>(k.gain * term.shift[c] + (first ? k.bias : 0)));
        if (first)
            for (size_t p = 0; p < n; p++) store(x + p * lanes, load(y + p * lanes) * a + b);
        else
            for (size_t p = 0; p < n; p++)
                store(x + p * lanes, load(x + p * lanes) + (load(y + p * lanes) * a + b));
    }

    void add_map(const Constants& k, const Map& m, int t, int c, size_t n, bool first, float* x) const {
        const size_t at = place(m, m.steps == 1 ? 0 : t, c);
        const vf gain = splat(k.gain), bias = splat(first ? k.bias : 0);
        for (size_t p = 0; p < n; p++) {
            const vf old = first ? bias : load(x + p * lanes);
            vf in;
            if (m.kind == Kind::Spikes)
                in = keep(gain, static_cast<const bits_t*>(m.data)[at + p]);
            else
                in = gain * load(static_cast<const float*>(m.data) + (at + p) * lanes);
            store(x + p * lanes, old + in);
        }
    }

    const std::vector<Term>* terms_ = nullptr;
    const Layout* layout_ = nullptr;
    Unit unit_{};
    std::vector<Rows> rows_;
    Scratch scratch_;
};

// The currents that are computed at every use.
inline std::vector<const Current*> computed(const std::vector<Term>& terms) {
    std::vector<const Current*> currents;
    for (const Term& term : terms)
        if (term.current) currents.push_back(term.current);
    return computed(currents);
}

// Spikes of n places to bits [t][n]; returns their number.
template <bool hard, InputKind kind, class E>
long long integrate(const Constants& k, int steps, size_t n, bits_t valid, const Input<E>& in, bits_t* bits) {
    const vf decay = splat(k.keep), threshold = splat(k.threshold), reset = splat(k.reset);
    long long count = 0;
    for (size_t p = 0; p < n; p++) {
        vf v = splat(k.start);
        for (int t = 0; t < steps; t++) {
            const vf h = v * decay + Input<E>::template at<kind>(in, t, p);
            const bits_t o = at_least(h, threshold) & valid;
            bits[t * n + p] = o;
            count += __builtin_popcount(o);
            v = after_reset<hard>(h, threshold, reset);
        }
    }
    return count;
}

template <class E>
long long integrate(const Constants& k, bool hard, int steps, size_t n, bits_t valid, const Input<E>& in,
                    bits_t* bits) {
    switch (in.kind) {
        case InputKind::One:
            return hard ? integrate<true, InputKind::One>(k, steps, n, valid, in, bits)
                        : integrate<false, InputKind::One>(k, steps, n, valid, in, bits);
        case InputKind::Two:
            return hard ? integrate<true, InputKind::Two>(k, steps, n, valid, in, bits)
                        : integrate<false, InputKind::Two>(k, steps, n, valid, in, bits);
        default:
            return hard ? integrate<true, InputKind::WithSpikes>(k, steps, n, valid, in, bits)
                        : integrate<false, InputKind::WithSpikes>(k, steps, n, valid, in, bits);
    }
}

}  // namespace ndsnn::NDSNN_ISA_NAME
