// Back through LIF neurons: dL/dx from dL/do, with the max-pool behind and the sums that the norm in front needs.
#include "kernels.h"
#include "neuron_terms.h"

namespace ndsnn::NDSNN_ISA_NAME {
namespace {

// Which lanes of each place take the gradient of its window: those where it is the first maximum in scan order.
void route_bits(const Layout& l, int rows, const bits_t* in, bits_t* route) {
    std::memset(route, 0, sizeof(bits_t) * rows * l.width);
    const int out_w = l.width / l.side_w;
    for (int y = 0; y + l.side_h <= rows; y += l.side_h)
        for (int x = 0; x < out_w; x++) {
            bits_t any = 0;
            for (int i = 0; i < l.side_h; i++)
                for (int j = 0; j < l.side_w; j++) {
                    const int at = (y + i) * l.width + x * l.side_w + j;
                    route[at] = in[at] & ~any;
                    any |= in[at];
                }
            route[y * l.width + x * l.side_w] |= static_cast<bits_t>(~any);
        }
}

template <Surrogate kind>
NDSNN_INLINE vf derivative(vf u, float alpha) {
    if constexpr (kind == Surrogate::Atan) {
        const vf scaled = u * (1.57079632679489661923f * alpha);
        return splat(alpha / 2) / (scaled * scaled + 1.0f);
    } else if constexpr (kind == Surrogate::Sigmoid) {
        const vf z = u * alpha;
        const vf e = exp_negative(choose(z > 0.0f, -z, z));
        return e * alpha / ((e + 1.0f) * (e + 1.0f));
    } else if constexpr (kind == Surrogate::Triangle) {
        const vf d = splat(alpha) - choose(u < 0.0f, -u, u) * (alpha * alpha);
        return choose(d > 0.0f, d, vf{});
    } else {
        return choose(choose(u < 0.0f, -u, u) < 0.5f / alpha, splat(alpha), vf{});
    }
}

// One channel of a unit going back: what it reads and writes, the steps of an array `…_step` elements apart.
template <class E>
struct Backward {
    const Constants& k;
    float alpha;
    int steps;
    bool once;  // the input is the same at every step: its gradient is summed over them
    const E* go;
    size_t go_step;
    E* gx;
    size_t gx_step;
    float* potentials;                    // [t] vectors of room
    const E *y = nullptr, *y2 = nullptr;  // of the currents whose products with dL/dx are summed
    size_t y_step = 0, y2_step = 0;
};

struct Sums {
    vf gx{}, gx_y{}, gx_y2{};
};

// dL/dx of n places from dL/do, by the potentials that the input gives once more.
template <bool hard, bool detach, Surrogate kind, InputKind input, class E>
Sums differentiate(const Backward<E>& b, size_t n, const Input<E>& in) {
    const vf decay = splat(b.k.keep), gain = splat(b.k.gain), threshold = splat(b.k.threshold),
             reset = splat(b.k.reset);
    Sums sums;
    for (size_t p = 0; p < n; p++) {
        vf v = splat(b.k.start);
        for (int t = 0; t < b.steps; t++) {
            const vf h = v * decay + Input<E>::template at<input>(in, t, p);
            store(b.potentials + t * lanes, h);
            v = after_reset<hard>(h, threshold, reset);
        }
        vf gv{}, total{};
        for (int t = b.steps - 1; t >= 0; t--) {
            const vf h = load(b.potentials + t * lanes);
            vf go = load(b.go + t * b.go_step + p * lanes);
            if constexpr (!detach) go += gv * (hard ? reset - h : -reset);
            const vf through = hard ? choose(h >= threshold, vf{}, gv) : gv;
            const vf gh = go * derivative<kind>(h - threshold, b.alpha) + through;
            gv = gh * decay;
            const vf gx = gh * gain;
            total += gx;
            if (!b.once) store(b.gx + t * b.gx_step + p * lanes, gx);
            if (b.y) sums.gx_y += gx * load(b.y + t * b.y_step + p * lanes);
            if (b.y2) sums.gx_y2 += gx * load(b.y2 + t * b.y2_step + p * lanes);
        }
        sums.gx += total;
        if (b.once) store(b.gx + p * lanes, total);
    }
    return sums;
}

template <bool hard, bool detach, Surrogate kind, class E>
Sums by_input(const Backward<E>& b, size_t n, const Input<E>& in) {
    switch (in.kind) {
        case InputKind::One:
            return differentiate<hard, detach, kind, InputKind::One>(b, n, in);
        case InputKind::Two:
            return differentiate<hard, detach, kind, InputKind::Two>(b, n, in);
        default:
            return differentiate<hard, detach, kind, InputKind::WithSpikes>(b, n, in);
    }
}

template <bool hard, bool detach, class E>
Sums by_surrogate(Surrogate kind, const Backward<E>& b, size_t n, const Input<E>& in) {
    switch (kind) {
        case Surrogate::Atan:
            return by_input<hard, detach, Surrogate::Atan>(b, n, in);
        case Surrogate::Sigmoid:
            return by_input<hard, detach, Surrogate::Sigmoid>(b, n, in);
        case Surrogate::Triangle:
            return by_input<hard, detach, Surrogate::Triangle>(b, n, in);
        default:
            return by_input<hard, detach, Surrogate::Rectangle>(b, n, in);
    }
}

template <class E>
Sums differentiate(const Neuron& neuron, const Backward<E>& b, size_t n, const Input<E>& in) {
    if (neuron.hard)
        return neuron.detach ? by_surrogate<true, true>(neuron.surrogate, b, n, in)
                             : by_surrogate<true, false>(neuron.surrogate, b, n, in);
    return neuron.detach ? by_surrogate<false, true>(neuron.surrogate, b, n, in)
                         : by_surrogate<false, false>(neuron.surrogate, b, n, in);
}

// Has `b` sum the products of the first two currents with dL/dx as it goes.
template <class E>
void take_products(const std::vector<Term>& terms, const TermRows& rows, int c, Backward<E>& b) {
    int found = 0;
    for (size_t i = 0; i < terms.size() && found < 2; i++) {
        if (!terms[i].current) continue;
        (found ? b.y2 : b.y) = rows.template row<E>(i, 0, c);
        (found ? b.y2_step : b.y_step) = rows.template step_of<E>(i);
        found++;
    }
}

// Σ dL/dx · y of each term into `out`; of the third current on from dL/dx as `b` wrote it.
template <class E>
void sum_products(const std::vector<Term>& terms, const TermRows& rows, int c, size_t n, const Backward<E>& b,
                  const Sums& s, double* out) {
    int found = 0;
    for (size_t i = 0; i < terms.size(); i++) {
        if (!terms[i].current) continue;
        vf q = found == 0 ? s.gx_y : s.gx_y2;
        if (found > 1) {
            q = vf{};
            for (int t = 0; t < (b.once ? 1 : b.steps); t++)
                for (size_t p = 0; p < n; p++)
                    q += load(b.gx + t * b.gx_step + p * lanes) * load(rows.template row<E>(i, t, c) + p * lanes);
        }
        out[i] = sum(q) / rows.template scale<E>(i);
        found++;
    }
}

// dL/do of channel c of a unit into g [t][n], through the pool by `route` [t][n] where there is one.
template <class T, class E>
void output_gradient(const Layout& l, const Unit& u, const Map& m, const T* from, int c, const bits_t* route,
                     E* g) {
    const size_t n = static_cast<size_t>(u.rows) * l.width;
    const bool pooled = l.side_h > 1 || l.side_w > 1;
    for (int t = 0; t < l.steps; t++) {
        const T* map = from + m.place(t, u.block, c, 0) * lanes;
        E* to = g + t * n * lanes;
        if (!pooled) {
            const T* at = map + static_cast<size_t>(u.y0) * m.width * lanes;
            for (size_t p = 0; p < n; p++) store(to + p * lanes, load(at + p * lanes));
            continue;
        }
        for (int y = 0; y < u.rows; y++)
            for (int x = 0; x < l.width; x++) {
                const int py = (u.y0 + y) / l.side_h, px = x / l.side_w;
                const size_t p = static_cast<size_t>(y) * l.width + x;
                const bool inside = py < m.height && px < m.width;
                store(to + p * lanes,
                      inside ? keep(load(map + (static_cast<size_t>(py) * m.width + px) * lanes), route[t * n + p])
                             : vf{});
            }
    }
}

template <class T, class E>
void store_gradient(const Layout& l, const Unit& u, const Map& m, T* into, int c, const E* g) {
    const size_t n = static_cast<size_t>(u.rows) * l.width;
    for (int t = 0; t < m.steps; t++) {
        T* at = into + m.place(t, u.block, c, u.y0) * lanes;
        for (size_t p = 0; p < n; p++) store(at + p * lanes, load(g + (t * n + p) * lanes));
    }
}

// What a thread works in for one channel of a unit at a time.
struct Room {
    float* x;           // [t][n] vectors
    float* g;           // [t][n] vectors
    float* potentials;  // [t] vectors
    bits_t *bits, *route;
};

// All channels of a unit, with currents and gradients in E: read and written in place where the maps are so
// stored, else by way of `room`.
template <class E>
void unit_backward(const std::vector<Term>& terms, const Neuron& neuron, const Constants& k, const Layout& l,
                   const Unit& u, bits_t valid, TermRows& rows, const Map& grad_out, const Map& grad_x,
                   const Room& room, double* parts) {
    constexpr Kind kind = sizeof(E) == sizeof(float) ? Kind::Float32 : Kind::Float16;
    const size_t n = static_cast<size_t>(u.rows) * l.width, sums = 1 + terms.size();
    const bool pooled = l.side_h > 1 || l.side_w > 1;
    const bool direct_out = grad_out.kind == kind && !pooled, direct_x = grad_x.kind == kind;
    const size_t step = l.blocks * grad_x.plane() * lanes;
    E* g = reinterpret_cast<E*>(room.g);
    for (int c = 0; c < l.channels; c++) {
        if (kind == Kind::Float32) rows.take_channel(c);
        const Input<E> in = rows.input<E>(k, c, room.x);
        if (pooled) {
            integrate(k, neuron.hard, l.steps, n, valid, in, room.bits);
            for (int t = 0; t < l.steps; t++) route_bits(l, u.rows, room.bits + t * n, room.route + t * n);
        }
        if (!direct_out)
            with_floats(grad_out, [&](auto* from) { output_gradient(l, u, grad_out, from, c, room.route, g); });
        const size_t at = grad_x.place(0, u.block, c, u.y0) * lanes;
        Backward<E> b{k,
                      neuron.alpha,
                      l.steps,
                      grad_x.steps == 1,
                      direct_out ? static_cast<E*>(grad_out.data) + at : g,
                      direct_out ? step : n * lanes,
                      direct_x ? static_cast<E*>(grad_x.data) + at : g,
                      direct_x ? step : n * lanes,
                      room.potentials};
        take_products(terms, rows, c, b);
        const Sums s = differentiate(neuron, b, n, in);
        if (!direct_x) with_floats(grad_x, [&](auto* into) { store_gradient(l, u, grad_x, into, c, g); });
        double* part = parts + c * sums;
        part[0] = sum(s.gx);
        sum_products(terms, rows, c, n, b, s, part + 1);
    }
}

}  // namespace

void neuron_backward(const Run& run, const std::vector<Term>& terms, const Neuron& neuron, int pool,
                     const Map& grad_out, const Map& grad_x, double* sum_gx, double* sum_gx_y) {
    const Layout l(terms, grad_out, pool);
    const Constants k(neuron);
    const ChosenKernels chosen(run, computed(terms));
    const size_t sums = 1 + terms.size();
    const int units = l.blocks * l.strips;
    std::vector<double> parts(static_cast<size_t>(units) * l.channels * sums);
    parallel(run.threads, units, [&](int index) {
        thread_local TermRows rows;
        thread_local Scratch x_scratch, bit_scratch;
        const Unit u = l.unit(index);
        const size_t n = static_cast<size_t>(u.rows) * l.width, buffer = l.steps * n * lanes;
        const bits_t valid = valid_lanes(run, u.block);
        rows.prepare(terms, l, u);
        float* x = x_scratch.get<float>(2 * buffer + l.steps * lanes);
        bits_t* bits = bit_scratch.get<bits_t>(2 * l.steps * n);
        const Room room{x, x + buffer, x + 2 * buffer, bits, bits + l.steps * n};
        double* part = parts.data() + static_cast<size_t>(index) * l.channels * sums;
        const bool half = grad_out.kind == Kind::Float16 && grad_x.kind == Kind::Float16 && rows.reads_half();
        if (half)
            unit_backward<half_t>(terms, neuron, k, l, u, valid, rows, grad_out, grad_x, room, part);
        else
            unit_backward<float>(terms, neuron, k, l, u, valid, rows, grad_out, grad_x, room, part);
    });
    for (int c = 0; c < l.channels; c++)
        for (size_t i = 0; i < sums; i++) {
            double total = 0;
            for (int unit = 0; unit < units; unit++)
                total += parts[(static_cast<size_t>(unit) * l.channels + c) * sums + i];
            (i == 0 ? sum_gx[c] : sum_gx_y[(i - 1) * l.channels + c]) = total;
        }
}

}  // namespace ndsnn::NDSNN_ISA_NAME
