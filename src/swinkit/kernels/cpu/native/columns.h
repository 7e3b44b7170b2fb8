// Products that sum over the rows of both operands, as gradients of keys and values do: out += a^T b.
#pragma once
#include "gemm.h"

namespace {

// R columns of a [depth][32], from the one that `a` points to, times a panel b [depth][32].
template <int R> INLINE void multiply_transposed(Vec (&sum)[R][COLS], const float *a, const float *b, int depth) {
    for (int k = 0; k < depth; k++, a += PANEL, b += PANEL) {
        Vec w[COLS];
#pragma GCC unroll 4
        for (int v = 0; v < COLS; v++) w[v] = load(b + v * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            const Vec x = set1(a[r]);
#pragma GCC unroll 4
            for (int v = 0; v < COLS; v++) sum[r][v] = fma(x, w[v], sum[r][v]);
        }
    }
}

#ifdef SWK_BF16
// Both operands as pairs of rows, [depth / 2][32][2].
template <int R> INLINE void multiply_transposed(Vec (&sum)[R][COLS], const bf16 *a, const bf16 *b, int depth) {
    for (int k = 0; k < depth; k += 2, a += 2 * PANEL, b += 2 * PANEL) {
        const __m512bh w0 = (__m512bh)_mm512_loadu_si512(b), w1 = (__m512bh)_mm512_loadu_si512(b + PANEL);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            int pair;
            __builtin_memcpy(&pair, a + 2 * r, sizeof pair);
            const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
            sum[r][0] = _mm512_dpbf16_ps(sum[r][0], x, w0);
            sum[r][1] = _mm512_dpbf16_ps(sum[r][1], x, w1);
        }
    }
}
#endif

template <class T, int R> __attribute__((noinline)) void transposed_tile(const T *a, const T *b, int depth, float *out, long stride, bool fresh) {
    Vec sum[R][COLS];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < COLS; v++) sum[r][v] = fresh ? set1(0.f) : load(out + r * stride + v * LANES);
    multiply_transposed(sum, a, b, depth);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) put(out + r * stride, sum[r]);
}

template <class T, int... R> struct TransposedTable {
    static constexpr void (*by_rows[])(const T *, const T *, int, float *, long, bool) = {nullptr, transposed_tile<T, R>...};
};
#if defined(__AVX512F__)
template <class T> using Transposed = TransposedTable<T, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14>;
#else
template <class T> using Transposed = TransposedTable<T, 1, 2, 3, 4, 5, 6>;
#endif

// out += a^T b for the first `rows` columns of a panel a [depth][32] and a panel b [depth][32]; bfloat16 takes both as pairs. Rows of `out` lie
// `stride` apart; what it held before does not count where it is `fresh`.
template <class T> INLINE void add_transposed(const T *a, int rows, const T *b, int depth, float *out, long stride = PANEL, bool fresh = false) {
    constexpr int WORD = sizeof(float) / sizeof(T);
    const int tiles = (rows + ROWS - 1) / ROWS;
    for (int column = 0; column < PANEL; column += COLS * LANES)
        for (int t = 0, row = 0; t < tiles; t++) {
            const int count = rows / tiles + (t < rows % tiles);
            Transposed<T>::by_rows[count](a + row * WORD, b + column * WORD, depth, out + row * stride + column, stride, fresh);
            row += count;
        }
}

}  // namespace
