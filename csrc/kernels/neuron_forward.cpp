// LIF neurons over all steps, with the norm in front of them and the max-pool behind them.
#include "kernels.h"
#include "neuron_terms.h"

namespace ndsnn::NDSNN_ISA_NAME {
namespace {

// OR over windows of rows [rows][width]; out [rows / side_h][width / side_w].
void pool_bits(const Layout& l, int rows, const bits_t* in, bits_t* out) {
    const int out_w = l.width / l.side_w;
    for (int y = 0; y + l.side_h <= rows; y += l.side_h, out += out_w)
        for (int x = 0; x < out_w; x++) {
            bits_t any = 0;
            for (int i = 0; i < l.side_h; i++)
                for (int j = 0; j < l.side_w; j++) any |= in[(y + i) * l.width + x * l.side_w + j];
            out[x] = any;
        }
}

}  // namespace

long long neuron_forward(const Run& run, const std::vector<Term>& terms, const Neuron& neuron, int pool,
                         const Map& out) {
    const Layout l(terms, out, pool);
    const Constants k(neuron);
    const ChosenKernels chosen(run, computed(terms));
    const bool pooled = l.side_h > 1 || l.side_w > 1;
    std::vector<long long> counts(static_cast<size_t>(l.blocks) * l.strips);
    parallel(run.threads, l.blocks * l.strips, [&](int index) {
        thread_local TermRows rows;
        thread_local Scratch x_scratch, bit_scratch;
        const Unit u = l.unit(index);
        const size_t n = static_cast<size_t>(u.rows) * l.width;
        const bits_t valid = valid_lanes(run, u.block);
        rows.prepare(terms, l, u);
        float* x = x_scratch.get<float>(l.steps * n * lanes);
        bits_t* bits = bit_scratch.get<bits_t>(l.steps * n);
        const bool half = rows.reads_half();
        for (int c = 0; c < l.channels; c++) {
            if (half) {
                counts[index] +=
                    integrate(k, neuron.hard, l.steps, n, valid, rows.input<half_t>(k, c, nullptr), bits);
            } else {
                rows.take_channel(c);
                counts[index] += integrate(k, neuron.hard, l.steps, n, valid, rows.input<float>(k, c, x), bits);
            }
            for (int t = 0; t < l.steps; t++) {
                bits_t* to = static_cast<bits_t*>(out.data) + out.place(t, u.block, c, 0);
                if (pooled)
                    pool_bits(l, u.rows, bits + t * n, to + static_cast<size_t>(u.y0 / l.side_h) * out.width);
                else
                    std::memcpy(to + static_cast<size_t>(u.y0) * l.width, bits + t * n, n * sizeof(bits_t));
            }
        }
    });
    long long total = 0;
    for (long long count : counts) total += count;
    return total;
}

}  // namespace ndsnn::NDSNN_ISA_NAME
