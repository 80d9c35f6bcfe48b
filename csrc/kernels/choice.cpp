#include "choice.h"

#include <algorithm>

#include "../connections.h"
#include "events.h"
#include "kernels.h"

namespace ndsnn::NDSNN_ISA_NAME {

double firing_rate(const Run& run, const Map& spikes) {
    const double places = static_cast<double>(spikes.steps) * spikes.plane() * run.samples;
    return static_cast<double>(spike_count(run, spikes)) / places;
}

bool forward_by_spikes(const Run& run, const Current& current) {
    const Connections& k = *current.connections;
    if (current.source.kind != Kind::Spikes || k.g.c_in < 8 || !events_fit(k.g)) return false;
    // The last group of output channels is computed in full.
    const double filled = static_cast<double>(k.g.c_out) / (ceil_div(k.g.c_out, group_channels) * group_channels);
    const double places = static_cast<double>(current.source.steps) * run.samples * k.g.out_h * k.g.out_w;
    const double build = (Cost::build_alive * k.density() + Cost::build_place) * lanes / places;
    const double spent =
        (Cost::forward_by_spikes * firing_rate(run, current.source) + Cost::forward_spikes_fixed) / filled;
    return spent + build < Cost::forward_by_weights * k.density();
}

BackwardWay backward_way(const Run& run, const Current& current, const Connections& lists, bool needs_input) {
    if (current.source.kind != Kind::Spikes || lists.g.c_in < 8 || !events_fit(lists.g)) return BackwardWay::Fused;
    const Geometry& g = lists.g;
    const double filled = static_cast<double>(g.c_out) / (ceil_div(g.c_out, group_channels) * group_channels);
    const double weights =
        (Cost::weights_by_spikes * firing_rate(run, current.source) + Cost::weights_spikes_fixed) / filled;
    const double sparse = Cost::input_by_weights * lists.density(), dense = g.stride == 1 ? Cost::input_dense : 2;
    const double split = weights + (needs_input ? std::min(sparse, dense) : 0);
    const double fused = Cost::backward_fused * lists.density() * (needs_input ? 1 : 0.6);
    if (fused <= split) return BackwardWay::Fused;
    return dense < sparse ? BackwardWay::SplitDense : BackwardWay::SplitSparse;
}

ChosenKernels::ChosenKernels(const Run& run, std::vector<const Current*> currents) {
    for (const Current* current : currents) {
        const int slot = static_cast<int>(currents_.size());
        if (slot == dense_slots || !forward_by_spikes(run, *current)) {
            need_forward(*current->connections);
            continue;
        }
        current->dense_weights = dense_weights(run, *current->connections, slot);
        currents_.push_back(current);
    }
}

ChosenKernels::~ChosenKernels() {
    for (const Current* current : currents_) current->dense_weights = nullptr;
}

}  // namespace ndsnn::NDSNN_ISA_NAME
