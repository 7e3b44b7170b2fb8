// Vectors of four floats in the compiler's own notation: every machine has them (SSE2, NEON).
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#define INLINE inline __attribute__((always_inline))

namespace {

typedef float Vec __attribute__((vector_size(16)));
typedef int32_t VecInt __attribute__((vector_size(16)));

constexpr int LANES = 4;
#if defined(__aarch64__)
constexpr int ROWS = 6, COLS = 4;  // 24 sums, 4 weights and a broadcast in 32 registers
#else
constexpr int ROWS = 6, COLS = 2;  // 12 sums, 2 weights and a broadcast in 16 registers
#endif

INLINE Vec load(const float *p) {
    Vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
INLINE void store(float *p, Vec v) { std::memcpy(p, &v, sizeof v); }
INLINE void stream(float *p, Vec v) { store(p, v); }  // elsewhere past the caches
INLINE void fence() {}
INLINE Vec set1(float x) { return Vec{x, x, x, x}; }
INLINE Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
INLINE Vec larger(Vec a, Vec b) {
    VecInt first = a > b;
    return (Vec)(((VecInt)a & first) | ((VecInt)b & ~first));
}
// Bounds that let NaN through.
INLINE Vec at_least(Vec x, float bound) {
    Vec low = set1(bound);
    VecInt below = x < low;
    return (Vec)(((VecInt)low & below) | ((VecInt)x & ~below));
}
INLINE Vec at_most(Vec x, float bound) {
    Vec high = set1(bound);
    VecInt above = x > high;
    return (Vec)(((VecInt)high & above) | ((VecInt)x & ~above));
}
INLINE Vec within(Vec x, float bound) { return at_least(at_most(x, bound), -bound); }
INLINE float first_of(Vec v) { return v[0]; }
INLINE float sum(Vec v) { return (v[0] + v[1]) + (v[2] + v[3]); }
INLINE float largest(Vec v) {
    float a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
    return a > b ? a : b;
}
constexpr int TOGETHER = 1;  // rows that a softmax takes at once
INLINE void spread_largest(Vec *v) { v[0] = set1(largest(v[0])); }
INLINE void inverse_sums(const Vec *v, float *to) { to[0] = 1.f / sum(v[0]); }

// The scaling below takes a whole n of at least -126, which no sum of softmax can tell from less.
INLINE Vec scalable(Vec x) { return at_least(x, -126.f); }
// x = n + f with a whole n and |f| <= 1/2, for |x| < 2^22.
INLINE Vec round_whole(Vec x) {
    const Vec big = set1(12582912.f);  // 1.5 * 2^23: adding it leaves no bits for a fraction
    Vec shifted = x + big;
    return shifted - big;
}
// p * 2^n for a whole n of at least -126.
INLINE Vec times_power_of_two(Vec p, Vec n) {
    VecInt exponent = (__builtin_convertvector(n, VecInt) + 127) << 23;
    return p * (Vec)exponent;
}
INLINE void transpose(const float *from, long from_stride, float *to, long to_stride) {
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < LANES; j++) to[j * to_stride + i] = from[i * from_stride + j];
}

}  // namespace
