// The table of this instruction set, and the probe of what its units can do.
#include <chrono>

#include "kernels.h"
#include "scratch.h"

#define NDSNN_STRING2(x) #x
#define NDSNN_STRING(x) NDSNN_STRING2(x)

namespace ndsnn::NDSNN_ISA_NAME {

// Multiply-adds per second of all threads, from registers: what no kernel can pass.
double fma_rate(int threads, double seconds) {
    std::vector<double> rates(threads);
    parallel(threads, threads, [&](int thread) {
        using clock = std::chrono::steady_clock;
        vf a[10];
        for (int i = 0; i < 10; i++) a[i] = splat(static_cast<float>(i));
        volatile float factor = 0.999f;
        const vf m = splat(factor), c = splat(1 - factor);
        double passed = 0, rounds = 0;
        const auto start = clock::now();
        while (passed < seconds) {
            for (int r = 0; r < 10000; r++) {
#pragma GCC unroll 10
                for (int i = 0; i < 10; i++) {
                    a[i] = a[i] * m + c;
#if defined(__AVX2__)
                    asm volatile("" : "+x"(a[i]));  // keeps the loop from being folded
#endif
                }
            }
            rounds += 10000;
            passed = std::chrono::duration<double>(clock::now() - start).count();
        }
        rates[thread] = rounds * 10 * lanes / passed;
    });
    double total = 0;
    for (double rate : rates) total += rate;
    return total;
}

extern const Kernels table;
const Kernels table{NDSNN_STRING(NDSNN_ISA_NAME),
                    lanes,
                    statistics,
                    neuron_forward,
                    neuron_backward,
                    synapse_backward,
                    dense_gradient,
                    dense_gradient_channels,
                    max_pool,
                    max_pool_backward,
                    avg_pool,
                    avg_pool_backward,
                    add,
                    mean_square,
                    load_map,
                    unload_map,
                    count_places,
                    fma_rate};

}  // namespace ndsnn::NDSNN_ISA_NAME
