// Which instruction set's kernels to run.
#pragma once
#include <string>
#include <vector>

#include "layout.h"

namespace ndsnn {

// Names of the instruction sets built in that this processor runs, best first.
std::vector<std::string> available_isas();

// Kernels by name, or the best of all where it is empty. Throws std::invalid_argument if there are none of that
// name here.
const Kernels& kernels_of(const std::string& isa);

}  // namespace ndsnn
