// Spike-driven products for layers whose weights are denser than their input's spikes: only what fires is added,
// with output channels instead of samples as lanes.
#pragma once
#include "rows.h"

namespace ndsnn::NDSNN_ISA_NAME {

constexpr int vectors_per_group = 8;  // output channels of a group, in vectors
constexpr int group_channels = vectors_per_group * lanes;

constexpr int dense_slots = 4;

// Whether the entries of this layer's spike lists fit into 16 bits, which very wide maps' do not.
bool events_fit(const Geometry& g);

// Dense weights by group of output channels, in the order the passes of `event_rows` read them; zero past the last
// output channel. The buffer belongs to the calling thread and holds until its next call with that slot.
const float* dense_weights(const Run& run, const Connections& k, int slot);

// A part as `compute_rows` gives it, by the spikes from `source` on, the steps of the block `step_size` words
// apart.
template <class Out>
void event_rows(const Current& current, const bits_t* source, size_t step_size, const Part& part, Out* into,
                size_t step_stride, size_t channel_stride, float* sums);

// The gradient of all weights, alive or not, of `groups` groups of output channels from `first_group` on:
// dense [group][k_h][k_w][c_in][group_channels]. The source must be spikes.
void event_weight_gradient(const Run& run, const Current& current, const Map& grad_x, const GradientAffine& affine,
                           int first_group, int groups, float* dense);

// The entries of a gradient of `event_weight_gradient`, of all groups, at the weights of `k`, in their order.
void gather_dense(const Run& run, const Connections& k, const float* dense, float* values);

}  // namespace ndsnn::NDSNN_ISA_NAME
