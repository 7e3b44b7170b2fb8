// The element type of operands and weights: float everywhere, bfloat16 where the instruction set has its dot product.
//
// Included after one simd_*.h, like all headers below it; everything lies in an anonymous namespace, because each instruction set
// compiles its own copy and none may be called on another machine. For the same reason nothing here may use a template or an inline
// function of the standard library: the linker would keep one copy of it, perhaps one that an older CPU cannot run.
#pragma once
#include "net.h"

namespace {

using swk::bf16;
using swk::u8;
using swk::PANEL;

constexpr int VECS = PANEL / LANES;  // vectors of a panel's row

template <class N> INLINE N smaller_of(N a, N b) { return a < b ? a : b; }
template <class N> INLINE N larger_of(N a, N b) { return a > b ? a : b; }

INLINE float to_float(float x) { return x; }

// 32 floats as a panel's row.
INLINE void put(float *to, const float *from) {
    for (int v = 0; v < VECS; v++) store(to + v * LANES, load(from + v * LANES));
}

// COLS vectors of a kernel's result.
INLINE void put(float *to, const Vec *v) {
#pragma GCC unroll 4
    for (int i = 0; i < COLS; i++) store(to + i * LANES, v[i]);
}
INLINE void stream(float *to, const Vec *v) {
#pragma GCC unroll 4
    for (int i = 0; i < COLS; i++) stream(to + i * LANES, v[i]);
}

#ifdef SWK_BF16
INLINE Vec load(const bf16 *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
INLINE float to_float(bf16 x) {
    const uint32_t bits = (uint32_t)x << 16;
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}
INLINE void put(bf16 *to, const Vec *v) { _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(v[1], v[0])); }
INLINE void stream(bf16 *to, const Vec *v) { _mm512_stream_si512((__m512i *)to, (__m512i)_mm512_cvtne2ps_pbh(v[1], v[0])); }
INLINE void put(bf16 *to, const float *from) {
    Vec v[2] = {load(from), load(from + LANES)};
    put(to, v);
}
#endif

}  // namespace
