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

// The depth of a product: even for pairs, and then the last channel or row may be one of zeros.
template <class T> INLINE int even(int count) { return sizeof(T) == sizeof(float) ? count : (count + 1) / 2 * 2; }

// Rows of a panel as a product's right side: themselves, or for bfloat16 pairs of them.
INLINE void store_rows(const float *from, int rows, float *, float *to) { __builtin_memcpy(to, from, sizeof(float) * rows * PANEL); }
#ifdef SWK_BF16
INLINE void store_rows(const float *from, int rows, bf16 *narrowed, bf16 *to) {
    for (int r = 0; r < rows; r++) put(narrowed + r * PANEL, from + r * PANEL);
    as_pairs(narrowed, rows, to);
}
#endif

}  // namespace
