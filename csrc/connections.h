// From the positions of alive weights to the lists the kernels walk.
#pragma once
#include "layout.h"

namespace ndsnn {

// Takes down what is alive in a layer; it has no values until `set_values`.
// positions: ascending flat positions in [c_out, c_in, k_h, k_w], or nullptr where all places are alive (nnz then
// counts them). Throws std::invalid_argument for a geometry or positions that make no sense.
Connections build_connections(const Geometry& geometry, const int64_t* positions, size_t nnz);

// Takes the values of the alive weights, in the order of their positions, which stay where they are.
void set_values(Connections& connections, const float* values, int threads);

// The power of two by which y of spikes is multiplied before it is kept in fp16: it then uses the upper end of the
// range and cannot leave it.
float stored_scale(Connections& connections);

// Makes the forward or the backward list, if it is not there. Not to be called from several threads at once.
void need_forward(Connections& connections);
void need_backward(Connections& connections);

}  // namespace ndsnn
