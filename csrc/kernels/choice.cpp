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

namespace {

bool may_go_by_spikes(const Current& current, const Geometry& g) {
    return current.source.kind == Kind::Spikes && g.c_in >= 8 && events_fit(g);
}

// The last group of output channels is computed in full.
double filled(const Geometry& g) {
    return static_cast<double>(g.c_out) / (ceil_div(g.c_out, group_channels) * group_channels);
}

}  // namespace

bool forward_by_spikes(const Run& run, const Current& current) {
    const Connections& k = *current.connections;
    if (!may_go_by_spikes(current, k.g)) return false;
    const double places = static_cast<double>(current.source.steps) * run.samples * k.g.out_h * k.g.out_w;
    const double build = (Cost::build_alive * k.density() + Cost::build_place) * lanes / places;
    const double spent =
        (Cost::forward_by_spikes * firing_rate(run, current.source) + Cost::forward_spikes_fixed) / filled(k.g);
    return spent + build < Cost::forward_by_weights * k.density();
}

BackwardWay backward_way(const Run& run, const Current& current, const Connections& lists, bool needs_input) {
    if (!may_go_by_spikes(current, lists.g)) return BackwardWay::Fused;
    const double weights =
        (Cost::weights_by_spikes * firing_rate(run, current.source) + Cost::weights_spikes_fixed) /
        filled(lists.g);
    const double sparse = Cost::input_by_weights * lists.density(),
                 dense = lists.g.stride == 1 ? Cost::input_dense : 2;
    const double split = weights + (needs_input ? std::min(sparse, dense) : 0);
    const double fused = Cost::backward_fused * lists.density() * (needs_input ? 1 : 0.6);
    if (fused <= split) return BackwardWay::Fused;
    return dense < sparse ? BackwardWay::SplitDense : BackwardWay::SplitSparse;
}

std::vector<const Current*> computed(const std::vector<const Current*>& currents) {
    std::vector<const Current*> found;
    for (const Current* current : currents)
        if (!current->stored.data) found.push_back(current);
    return found;
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
