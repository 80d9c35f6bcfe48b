// The kernels of one instruction set, as `Kernels` in layout.h lists them.
#pragma once
#include "../layout.h"

namespace ndsnn::NDSNN_ISA_NAME {

void statistics(const Run&, const Current&, double* sum, double* sum_squares);
long long neuron_forward(const Run&, const std::vector<Term>&, const Neuron&, int pool, const Map& out);
void neuron_backward(const Run&, const std::vector<Term>&, const Neuron&, int pool, const Map& grad_out,
                     const Map& grad_x, double* sum_gx, double* sum_gx_y);
// The gradient of the weights in `lists`, which are the current's own or others of the same geometry.
void synapse_backward(const Run&, const Current&, Connections& lists, const Map& grad_x, const GradientAffine&,
                      const Map* grad_source, bool accumulate, float* grad_values);
// The gradient [channels][c_in][k_h][k_w] of all places of output channels from `first` on, alive or not. `first`
// must be a multiple of `dense_gradient_channels`.
void dense_gradient(const Run&, const Current&, const Map& grad_x, const GradientAffine&, int first, int channels,
                    float* gradient);
int dense_gradient_channels();
void max_pool(const Run&, const Map& source, int side, const Map& out);
void max_pool_backward(const Run&, const Map& source, int side, const Map& grad_out, const Map& grad_source,
                       bool accumulate, float factor);
void avg_pool(const Run&, const Map& source, const Map& out, int side);
void avg_pool_backward(const Run&, const Map& grad_out, const Map& grad_source, int side, bool accumulate,
                       float factor);
void add(const Run&, const Map& source, const Map& into, float factor);
// Of some thousand vectors spread evenly over a map of floats.
double mean_square(const Run&, const Map& source);
void load_map(const Run&, const float* values, const Map& into);
void unload_map(const Run&, const Map& from, float* values);
void count_places(const Run&, const Map& source, long long* counts);
long long spike_count(const Run&, const Map& source);
double fma_rate(int threads, double seconds);

}  // namespace ndsnn::NDSNN_ISA_NAME
