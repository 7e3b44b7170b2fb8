// AVX2 and FMA: vectors of eight floats, sixteen registers.
#pragma once
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#define INLINE inline __attribute__((always_inline))

namespace {

using Vec = __m256;

constexpr int LANES = 8;
constexpr int ROWS = 6, COLS = 2;  // 12 sums, 2 weights and a broadcast

INLINE Vec load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void store(float *p, Vec v) { _mm256_storeu_ps(p, v); }
// To aligned memory, past the caches; `fence` makes it seen.
INLINE void stream(float *p, Vec v) { _mm256_stream_ps(p, v); }
INLINE void fence() { _mm_sfence(); }
INLINE Vec set1(float x) { return _mm256_set1_ps(x); }
INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
INLINE Vec larger(Vec a, Vec b) { return _mm256_max_ps(a, b); }
// Bounds that let NaN through: the instruction returns its second operand if either is NaN.
INLINE Vec at_least(Vec x, float bound) { return _mm256_max_ps(set1(bound), x); }
INLINE Vec at_most(Vec x, float bound) { return _mm256_min_ps(set1(bound), x); }
INLINE Vec within(Vec x, float bound) { return at_least(at_most(x, bound), -bound); }
INLINE __m128 halves_added(Vec v) { return _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)); }
INLINE float first_of(Vec v) { return _mm256_cvtss_f32(v); }
INLINE float sum(Vec v) {
    __m128 s = halves_added(v);
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE float largest(Vec v) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
constexpr int TOGETHER = 1;  // rows that a softmax takes at once
INLINE void spread_largest(Vec *v) { v[0] = set1(largest(v[0])); }
INLINE void inverse_sums(const Vec *v, float *to) { to[0] = 1.f / sum(v[0]); }

// The scaling below takes a whole n of at least -126, which no sum of softmax can tell from less.
INLINE Vec scalable(Vec x) { return at_least(x, -126.f); }
INLINE Vec round_whole(Vec x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// p * 2^n for a whole n of at least -126.
INLINE Vec times_power_of_two(Vec p, Vec n) {
    __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(p, _mm256_castsi256_ps(exponent));
}
INLINE void transpose(const float *from, long from_stride, float *to, long to_stride) {
    __m256 r[8], t[8];
    for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(from + i * from_stride);
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
        r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(to + i * to_stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(to + (i + 4) * to_stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

}  // namespace
