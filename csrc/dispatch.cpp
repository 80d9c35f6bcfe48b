#include "dispatch.h"

#include <stdexcept>

namespace ndsnn {

#ifdef NDSNN_HAVE_AVX512
namespace avx512 {
extern const Kernels table;
}
#endif
#ifdef NDSNN_HAVE_AVX2
namespace avx2 {
extern const Kernels table;
}
#endif
namespace portable {
extern const Kernels table;
}

namespace {

std::vector<const Kernels*> usable() {
    std::vector<const Kernels*> found;
#ifdef NDSNN_HAVE_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
        found.push_back(&avx512::table);
#endif
#ifdef NDSNN_HAVE_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
        found.push_back(&avx2::table);
#endif
    found.push_back(&portable::table);
    return found;
}

}  // namespace

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const Kernels* k : usable()) names.emplace_back(k->name);
    return names;
}

const Kernels& kernels_of(const std::string& isa) {
    std::string known;
    for (const Kernels* k : usable()) {
        if (isa.empty() || isa == k->name) return *k;
        known += (known.empty() ? "" : ", ") + std::string(k->name);
    }
    throw std::invalid_argument("instruction set '" + isa + "' is not available on this machine; there are " +
                                known);
}

}  // namespace ndsnn
