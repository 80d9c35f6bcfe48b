// From the positions of alive weights to the lists the kernels walk.
#pragma once
#include "layout.h"

namespace ndsnn {

// Takes down what is alive in a layer; values are 0 until `set_values`.
// positions: ascending flat positions in [c_out, c_in, k_h, k_w], or nullptr where all places are alive (nnz then
// counts them). Throws std::invalid_argument for a geometry or positions that make no sense.
Connections build_connections(const Geometry& geometry, const int64_t* positions, size_t nnz);

// Takes over the values of the alive weights, in the order of their positions.
void set_values(Connections& connections, const float* values, int threads);

// Makes the forward or the backward list, if it is not there. Not to be called from several threads at once.
void need_forward(Connections& connections);
void need_backward(Connections& connections);

}  // namespace ndsnn
