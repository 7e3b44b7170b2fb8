// Rows of any number of channels, between the element type and panels of floats.
#pragma once
#include "attention.h"

namespace {

// D channels as floats, zeros up to whole panels.
template <class T> INLINE void widen(const T *from, int dim, int panels, float *to) {
    int d = 0;
    for (; d + LANES <= dim; d += LANES) store(to + d, load(from + d));
    for (; d < dim; d++) to[d] = to_float(from[d]);
    for (; d < panels * PANEL; d++) to[d] = 0;
}

// And back.
template <class T> INLINE void narrow(const float *from, int dim, T *to) {
    for (; dim >= PANEL; dim -= PANEL, from += PANEL, to += PANEL) put(to, from);
    if (dim <= 0) return;
    T row[PANEL];
    put(row, from);
    __builtin_memcpy(to, row, dim * sizeof(T));
}

// D < 32 values with zeros behind them.
template <class T> INLINE const T *padded(const T *from, int dim, T *to) {
    __builtin_memset(to, 0, PANEL * sizeof(T));
    __builtin_memcpy(to, from, dim * sizeof(T));
    return to;
}

// The depth of a product: even for pairs, and then the last channel or row may be one of zeros.
template <class T> INLINE int even(int count) { return sizeof(T) == sizeof(float) ? count : (count + 1) / 2 * 2; }

// 32 values of a row as the element type, perhaps through GELU.
template <bool GELU, class From> INLINE void convert(const From *from, float *to) {
    for (int d = 0; d < PANEL; d += LANES) store(to + d, GELU ? gelu<float>(load(from + d)) : load(from + d));
}

// Rows of a panel, `stride` apart, as a product's right side: themselves, or for bfloat16 pairs of them.
INLINE void store_rows(const float *from, long stride, int rows, float *to) {
    for (int r = 0; r < rows; r++) put(to + r * PANEL, from + r * stride);
}
#ifdef SWK_BF16
template <bool GELU> INLINE __m512i converted(const bf16 *from) {
    if (!GELU) return _mm512_loadu_si512(from);
    return (__m512i)_mm512_cvtne2ps_pbh(gelu<bf16>(load(from + LANES)), gelu<bf16>(load(from)));
}
template <bool GELU> INLINE __m512i converted(const float *from) {
    static_assert(!GELU, "of bfloat16 only");
    return (__m512i)_mm512_cvtne2ps_pbh(load(from + LANES), load(from));
}
template <bool GELU, class From> INLINE void convert(const From *from, bf16 *to) { _mm512_storeu_si512(to, converted<GELU>(from)); }

INLINE void store_rows(const float *from, long stride, int rows, bf16 *to) {
    for (int r = 0; r < rows; r += 2)
        store_pair(converted<false>(from + r * stride), r + 1 < rows ? converted<false>(from + (r + 1) * stride) : __m512i{}, to + r * PANEL);
}
#endif

// A block of 32 x 32 weights, its rows `stride` apart, turned: the right side of a product that sums over columns.
INLINE void store_columns(const float *from, long stride, float *to) {
    for (int n = 0; n < PANEL; n += LANES)
        for (int k = 0; k < PANEL; k += LANES) transpose(from + n * stride + k, stride, to + k * PANEL + n, PANEL);
}
#ifdef SWK_BF16
INLINE void store_columns(const float *from, long stride, bf16 *to) {
    alignas(64) bf16 rows[PANEL * PANEL];
    for (int n = 0; n < PANEL; n++) convert<false>(from + n * stride, rows + n * PANEL);
    for (int n = 0; n < PANEL; n += LANES) transpose((const float *)(rows + n * PANEL), PANEL / 2, (float *)to + n, PANEL);
}
#endif

}  // namespace
