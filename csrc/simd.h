// One block of samples as a vector: GCC/Clang vector code, with intrinsics only where a mask meets a vector.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef NDSNN_ISA_NAME
#error "NDSNN_ISA_NAME names the instruction set the kernels are built for"
#endif
#define NDSNN_INLINE static inline __attribute__((always_inline))

namespace ndsnn::NDSNN_ISA_NAME {

#if defined(__AVX512F__)
constexpr int lanes = 16;
using bits_t = uint16_t;
#else
constexpr int lanes = 8;
using bits_t = uint8_t;
#endif

typedef float vf __attribute__((vector_size(4 * lanes)));
typedef int32_t vi __attribute__((vector_size(4 * lanes)));
using half_t = uint16_t;

NDSNN_INLINE vf splat(float x) { return x - vf{}; }
NDSNN_INLINE vf load(const float* p) { return *reinterpret_cast<const vf*>(p); }
NDSNN_INLINE void store(float* p, vf x) { *reinterpret_cast<vf*>(p) = x; }
// Past the caches, for maps that do not fit them; to be followed by a `stream_fence` before others read.
#if defined(__AVX512F__)
NDSNN_INLINE void stream(float* p, vf x) { _mm512_stream_ps(p, x); }
#elif defined(__AVX2__)
NDSNN_INLINE void stream(float* p, vf x) { _mm256_stream_ps(p, x); }
#else
NDSNN_INLINE void stream(float* p, vf x) { store(p, x); }
#endif
NDSNN_INLINE void stream_fence() {
#if defined(__AVX2__)
    _mm_sfence();
#endif
}

#if defined(__AVX512F__)
NDSNN_INLINE vf keep(vf x, bits_t mask) { return _mm512_maskz_mov_ps(mask, x); }
// The mask straight from memory: gcc 12 otherwise loads it through a general register.
NDSNN_INLINE void add_where(vf& a, const bits_t* mask, vf x) {
    __mmask16 k;
    asm("kmovw %1, %0" : "=k"(k) : "m"(*mask));
    a = _mm512_mask_add_ps(a, k, a, x);
}
NDSNN_INLINE bits_t at_least(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
NDSNN_INLINE vf load(const half_t* p) {
    return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(p)));
}
NDSNN_INLINE void store(half_t* p, vf x) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(p),
                       _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#else
// All ones in lane l where bit l of the index is set.
struct LaneMasks {
    alignas(64) int32_t rows[256][8];
    constexpr LaneMasks() : rows() {
        for (int m = 0; m < 256; m++)
            for (int l = 0; l < 8; l++) rows[m][l] = (m >> l & 1) ? -1 : 0;
    }
};
inline constexpr LaneMasks lane_masks{};

NDSNN_INLINE vi lane_mask(bits_t mask) { return *reinterpret_cast<const vi*>(lane_masks.rows[mask]); }
#if defined(__AVX2__)
NDSNN_INLINE vf keep(vf x, vi mask) { return _mm256_and_ps(x, (vf)mask); }
#else
NDSNN_INLINE vf keep(vf x, vi mask) { return (vf)((vi)x & mask); }
#endif
NDSNN_INLINE vf keep(vf x, bits_t mask) { return keep(x, lane_mask(mask)); }
NDSNN_INLINE void add_where(vf& a, const bits_t* mask, vf x) { a += keep(x, *mask); }
#if defined(__AVX2__)
NDSNN_INLINE bits_t at_least(vf a, vf b) {
    return static_cast<bits_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)));
}
NDSNN_INLINE vf load(const half_t* p) {
    return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(p)));
}
NDSNN_INLINE void store(half_t* p, vf x) {
    _mm_store_si128(reinterpret_cast<__m128i*>(p),
                    _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#else
NDSNN_INLINE bits_t at_least(vf a, vf b) {
    vi hit = (a >= b) & vi{1, 2, 4, 8, 16, 32, 64, 128};
    int sum = 0;
    for (int l = 0; l < lanes; l++) sum |= hit[l];
    return static_cast<bits_t>(sum);
}
NDSNN_INLINE vf load(const half_t* p) {
    vf x;
    for (int l = 0; l < lanes; l++) {
        _Float16 h;
        std::memcpy(&h, p + l, sizeof h);
        x[l] = static_cast<float>(h);
    }
    return x;
}
NDSNN_INLINE void store(half_t* p, vf x) {
    for (int l = 0; l < lanes; l++) {
        const _Float16 h = static_cast<_Float16>(x[l]);
        std::memcpy(p + l, &h, sizeof h);
    }
}
#endif
#endif

// Keeps a vector in a register: gcc otherwise loads it again for every use.
#if defined(__AVX512F__)
#define NDSNN_HOLD(x) asm("" : "+v"(x))
#elif defined(__AVX2__)
#define NDSNN_HOLD(x) asm("" : "+x"(x))
#else
#define NDSNN_HOLD(x)
#endif

// Keeps an address in one register: gcc otherwise keeps one base for each offset from it, and spills them.
template <class T>
NDSNN_INLINE const T* held(const T* p) {
    asm("" : "+r"(p));
    return p;
}

NDSNN_INLINE vf choose(vi where, vf yes, vf no) { return where ? yes : no; }

// Σ over lanes, halving: the order is fixed for a lane count.
NDSNN_INLINE float sum(vf x) {
    float part[lanes];
    std::memcpy(part, &x, sizeof part);
    for (int n = lanes / 2; n; n /= 2)
        for (int l = 0; l < n; l++) part[l] += part[l + n];
    return part[0];
}
#if defined(__AVX2__) && !defined(__AVX512F__)
// Adds the four sums of lanes to out[0..3].
NDSNN_INLINE void add_sums4(float* out, vf a, vf b, vf c, vf d) {
    const __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    const __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    const __m256d lo = _mm256_unpacklo_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd));
    const __m256d hi = _mm256_unpackhi_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd));
    const __m256 s = _mm256_add_ps(_mm256_castpd_ps(lo), _mm256_castpd_ps(hi));
    const __m128 r = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    _mm_storeu_ps(out, _mm_add_ps(_mm_loadu_ps(out), r));
}
#elif defined(__AVX512F__)
NDSNN_INLINE void add_sums4(float* out, vf a, vf b, vf c, vf d) {
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512d lo = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const __m512d hi = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const __m512 s = _mm512_add_ps(_mm512_castpd_ps(lo), _mm512_castpd_ps(hi));
    const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
    const __m128 r = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    _mm_storeu_ps(out, _mm_add_ps(_mm_loadu_ps(out), r));
}
#else
NDSNN_INLINE void add_sums4(float* out, vf a, vf b, vf c, vf d) {
    out[0] += sum(a), out[1] += sum(b), out[2] += sum(c), out[3] += sum(d);
}
#endif

// e^x for x ≤ 0 within 2 ulp (Cephes' polynomial); below -87 it is 0.
NDSNN_INLINE vf exp_negative(vf x) {
    const vi tiny = x < splat(-87.0f);
    x = choose(tiny, splat(-87.0f), x);
    const vf scaled = x * 1.44269504088896341f - 0.5f;
    vi n =
        __builtin_convertvector(scaled, vi);  // towards 0: floor(x·log2 e + 1/2) up to one, which is good enough
    const vf k = __builtin_convertvector(n, vf);
    const vf r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
    vf p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    n = (n + 127) << 23;
    return choose(tiny, vf{}, p * (vf)n);
}

}  // namespace ndsnn::NDSNN_ISA_NAME
