// Which of several algorithms computes a product: a written cost model on the density of the weights and the
// firing rate of the input, so that the choice, and with it the rounding, depends on nothing but them.
#pragma once
#include <vector>

#include "scratch.h"

namespace ndsnn::NDSNN_ISA_NAME {

// Cycles per vector of multiply-adds of the dense layer, as measured on AVX2 (docs/performance.md).
struct Cost {
    static constexpr double forward_by_weights = 1.2, forward_by_spikes = 1.4, forward_spikes_fixed = 0.01;
    static constexpr double build_alive = 6,
                            build_place = 0.5;  // dense weights: cycles per alive weight and per place
    static constexpr double backward_fused = 2.1, input_by_weights = 1.0, input_dense = 0.75,
                            weights_by_spikes = 1.6, weights_spikes_fixed = 0.01;
};

double firing_rate(const Run& run, const Map& spikes);

bool forward_by_spikes(const Run& run, const Current& current);

enum class BackwardWay { Fused, SplitSparse, SplitDense };

// How to go back: both products by alive weights, or the weight gradient by spikes and the input gradient by alive
// or by all weights.
BackwardWay backward_way(const Run& run, const Current& current, const Connections& lists, bool needs_input);

// Those of some currents that are computed at every use.
std::vector<const Current*> computed(const std::vector<const Current*>& currents);

// Holds the choice for some currents, and their dense weights, while a kernel runs.
class ChosenKernels {
public:
    ChosenKernels(const Run& run, std::vector<const Current*> currents);
    ~ChosenKernels();
    ChosenKernels(const ChosenKernels&) = delete;
    ChosenKernels& operator=(const ChosenKernels&) = delete;

private:
    std::vector<const Current*> currents_;
};

}  // namespace ndsnn::NDSNN_ISA_NAME
