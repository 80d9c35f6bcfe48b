// lanes × lanes transposition in registers.
#pragma once
#include <utility>

#include "../simd.h"

namespace ndsnn::NDSNN_ISA_NAME {

#if defined(__AVX2__) && !defined(__AVX512F__)
NDSNN_INLINE void transpose(vf* r) {
    const __m256 a0 = _mm256_unpacklo_ps(r[0], r[1]), a1 = _mm256_unpackhi_ps(r[0], r[1]);
    const __m256 a2 = _mm256_unpacklo_ps(r[2], r[3]), a3 = _mm256_unpackhi_ps(r[2], r[3]);
    const __m256 a4 = _mm256_unpacklo_ps(r[4], r[5]), a5 = _mm256_unpackhi_ps(r[4], r[5]);
    const __m256 a6 = _mm256_unpacklo_ps(r[6], r[7]), a7 = _mm256_unpackhi_ps(r[6], r[7]);
    const __m256 b0 = _mm256_shuffle_ps(a0, a2, 0x44), b1 = _mm256_shuffle_ps(a0, a2, 0xee);
    const __m256 b2 = _mm256_shuffle_ps(a1, a3, 0x44), b3 = _mm256_shuffle_ps(a1, a3, 0xee);
    const __m256 b4 = _mm256_shuffle_ps(a4, a6, 0x44), b5 = _mm256_shuffle_ps(a4, a6, 0xee);
    const __m256 b6 = _mm256_shuffle_ps(a5, a7, 0x44), b7 = _mm256_shuffle_ps(a5, a7, 0xee);
    r[0] = _mm256_permute2f128_ps(b0, b4, 0x20), r[1] = _mm256_permute2f128_ps(b1, b5, 0x20);
    r[2] = _mm256_permute2f128_ps(b2, b6, 0x20), r[3] = _mm256_permute2f128_ps(b3, b7, 0x20);
    r[4] = _mm256_permute2f128_ps(b0, b4, 0x31), r[5] = _mm256_permute2f128_ps(b1, b5, 0x31);
    r[6] = _mm256_permute2f128_ps(b2, b6, 0x31), r[7] = _mm256_permute2f128_ps(b3, b7, 0x31);
}
#else
// Swaps of ever larger squares: at distance d, lane bit d of row i against lane bit d of row i + d.
template <int D, int... L>
NDSNN_INLINE void swap_squares(vf* r, std::integer_sequence<int, L...>) {
#pragma GCC unroll 16
    for (int i = 0; i < lanes; i++)
        if (!(i & D)) {
            const vf a = r[i], b = r[i + D];
            r[i] = __builtin_shufflevector(a, b, (L & D ? lanes + (L ^ D) : L)...);
            r[i + D] = __builtin_shufflevector(a, b, (L & D ? lanes + L : L ^ D)...);
        }
}
NDSNN_INLINE void transpose(vf* r) {
    constexpr auto each = std::make_integer_sequence<int, lanes>();
    swap_squares<1>(r, each);
    swap_squares<2>(r, each);
    swap_squares<4>(r, each);
    if constexpr (lanes == 16) swap_squares<8>(r, each);
}
#endif

}  // namespace ndsnn::NDSNN_ISA_NAME
