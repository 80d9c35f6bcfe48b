// The gradient of all places of a weight, alive or not, for growth.
#include "../connections.h"
#include "choice.h"
#include "events.h"
#include "kernels.h"

namespace ndsnn::NDSNN_ISA_NAME {

void gather_dense(const Run& run, const Connections& k, const float* dense, float* values) {
    const Geometry& g = k.g;
    parallel(run.threads, g.c_out, [&](int co) {
        const size_t group = co / group_channels;
        for_weights(k, k.channel_begin[co], k.channel_begin[co + 1], [&](int64_t i, const Place& p) {
            const size_t tap = (group * g.k_h + p.ky) * g.k_w + p.kx;
            values[i] = dense[(tap * g.c_in + p.ci) * group_channels + co % group_channels];
        });
    });
}

int dense_gradient_channels() { return group_channels; }

void dense_gradient(const Run& run, const Current& current, const Map& grad_x, const GradientAffine& affine,
                    int first, int channels, float* gradient) {
    const Geometry& g = current.connections->g;
    const size_t taps = static_cast<size_t>(g.k_h) * g.k_w, size = g.c_in * taps;
    if (current.source.kind != Kind::Spikes || !events_fit(g)) {
        std::vector<int64_t> positions(size * channels);
        for (size_t i = 0; i < positions.size(); i++) positions[i] = static_cast<int64_t>(first * size + i);
        Connections all = build_connections(g, positions.data(), positions.size());
        return synapse_backward(run, current, all, grad_x, affine, nullptr, false, gradient);
    }
    const ChosenKernels chosen(run, computed({&current}));
    const int groups = ceil_div(channels, group_channels);
    Temporary sums(groups * size * group_channels);
    const float* dense = sums.get();
    event_weight_gradient(run, current, grad_x, affine, first / group_channels, groups, sums.get());
    parallel(run.threads, channels, [&](int c) {
        const float* from = dense + c / group_channels * size * group_channels + c % group_channels;
        for (int ci = 0; ci < g.c_in; ci++)
            for (size_t tap = 0; tap < taps; tap++)
                gradient[(static_cast<size_t>(c) * g.c_in + ci) * taps + tap] =
                    from[(tap * g.c_in + ci) * group_channels];
    });
}

}  // namespace ndsnn::NDSNN_ISA_NAME
