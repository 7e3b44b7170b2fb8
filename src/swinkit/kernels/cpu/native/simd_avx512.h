// AVX-512: vectors of sixteen floats, thirty-two registers.
#pragma once
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#define INLINE inline __attribute__((always_inline))

namespace {

using Vec = __m512;

constexpr int LANES = 16;
constexpr int ROWS = 14, COLS = 2;  // 28 sums, 2 weights and a broadcast

INLINE Vec load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void store(float *p, Vec v) { _mm512_storeu_ps(p, v); }
// To aligned memory, past the caches; `fence` makes it seen.
INLINE void stream(float *p, Vec v) { _mm512_stream_ps(p, v); }
INLINE void fence() { _mm_sfence(); }
INLINE Vec set1(float x) { return _mm512_set1_ps(x); }
INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
INLINE Vec larger(Vec a, Vec b) { return _mm512_max_ps(a, b); }
// Bounds that let NaN through: the instruction returns its second operand if either is NaN.
INLINE Vec at_least(Vec x, float bound) { return _mm512_max_ps(set1(bound), x); }
INLINE Vec at_most(Vec x, float bound) { return _mm512_min_ps(set1(bound), x); }
INLINE Vec within(Vec x, float bound) { return _mm512_range_ps(x, set1(bound), 2); }  // the smaller magnitude, with the sign of x
INLINE float first_of(Vec v) { return _mm512_cvtss_f32(v); }
INLINE float sum(Vec v) { return _mm512_reduce_add_ps(v); }
INLINE float largest(Vec v) { return _mm512_reduce_max_ps(v); }

// Sums or maxima of four vectors at once: each 128-bit part of the result holds all four.
template <class Pick> INLINE Vec of_four(const Vec *v, Pick pick) {
    const auto pd = [](Vec x) { return _mm512_castps_pd(x); };
    const Vec a = pick(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    const Vec b = pick(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    const Vec c = pick(_mm512_castpd_ps(_mm512_unpacklo_pd(pd(a), pd(b))), _mm512_castpd_ps(_mm512_unpackhi_pd(pd(a), pd(b))));
    const Vec d = pick(c, _mm512_shuffle_f32x4(c, c, 0x4e));
    return pick(d, _mm512_shuffle_f32x4(d, d, 0xb1));
}
constexpr int TOGETHER = 4;  // rows that a softmax takes at once
INLINE void spread_largest(Vec *v) {
    const Vec m = of_four(v, [](Vec a, Vec b) { return larger(a, b); });
    v[0] = _mm512_permute_ps(m, 0x00), v[1] = _mm512_permute_ps(m, 0x55), v[2] = _mm512_permute_ps(m, 0xaa), v[3] = _mm512_permute_ps(m, 0xff);
}
INLINE void inverse_sums(const Vec *v, float *to) {
    const Vec s = of_four(v, [](Vec a, Vec b) { return a + b; });
    _mm_storeu_ps(to, _mm_div_ps(_mm_set1_ps(1.f), _mm512_castps512_ps128(s)));
}
// The scaling below takes any n.
INLINE Vec scalable(Vec x) { return x; }
INLINE Vec round_whole(Vec x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE Vec times_power_of_two(Vec p, Vec n) { return _mm512_scalef_ps(p, n); }

// 16 x 16 words, whatever they hold.
INLINE void transpose(const float *from, long from_stride, float *to, long to_stride) {
    __m512i r[16], t[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(from + i * from_stride);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        _mm512_storeu_si512(to + i * to_stride, _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88));
        _mm512_storeu_si512(to + (i + 8) * to_stride, _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd));
        _mm512_storeu_si512(to + (i + 4) * to_stride, _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88));
        _mm512_storeu_si512(to + (i + 12) * to_stride, _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd));
    }
}

}  // namespace
