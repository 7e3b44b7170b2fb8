// The matrix product: a tile of up to ROWS rows times one panel of 32 columns, with whatever follows it done on the sums in registers.
#pragma once
#include "element.h"
#include "polynomials.h"

namespace {

// What becomes of the sums.
enum class Store {
    floats,      // out = sum
    operand,     // out = sum, as an operand of the next product
    gelu,        // out = gelu(sum), as an operand
    scaled,      // out = sum * aux[row], as an operand
    accumulate,  // out += sum
    residual,    // out = rows[row] + sum
    finish,      // rows[row] = out + sum
    scatter,     // rows[row] = sum
    map,         // out[row] = sum, in rows that lie `stride` apart
    wide_map,    // the same in float
    gelu_map,    // the same times the derivative of GELU at aux[row], an operand in rows that lie `stride` apart
    sum_map,     // out[row] = sum + aux[row], likewise
};

struct Result {
    Store how;
    void *out = nullptr;           // a panel [rows][32]
    const float *bias = nullptr;   // [32]
    float *const *rows = nullptr;  // rows elsewhere, and where this panel lies in them
    long offset = 0;
    const void *aux = nullptr;
    long stride = 0;
    bool streams = false;          // maps: past the caches, in whole lines
    const float *row_scale = nullptr, *column_scale = nullptr;  // int8: what a step is worth, of each row's operand and of each column's weights
    const int *start = nullptr;                                 // int8: where the sums of each column begin
    const char *next = nullptr;    // weights that will be wanted after these
};

constexpr int LINE = 64;    // bytes of a cache line
constexpr int FETCHERS = 4;  // tiles of rows that share the work of asking for the next weights

template <class T, int R> INLINE void keep(const Vec (&sum)[R][COLS], const Result &to, int row, int column) {
    T *out = (T *)to.out + (long)row * PANEL + column;
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) put(out + r * PANEL, sum[r]);
}

template <int R> INLINE void add_rows(Vec (&sum)[R][COLS], const float *from, long stride) {
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < COLS; v++) sum[r][v] += load(from + r * stride + v * LANES);
}

template <int R> INLINE void to_rows(const Vec (&sum)[R][COLS], const Result &to, int row, int column) {
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) put(to.rows[row + r] + to.offset + column, sum[r]);
}

template <class T, int R> INLINE void to_map(const Vec (&sum)[R][COLS], const Result &to, int row, int column) {
    T *out = (T *)to.out + row * to.stride + column;
    if (to.streams) {
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) stream(out + r * to.stride, sum[r]);
        return;
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) put(out + r * to.stride, sum[r]);
}

template <class T, int R> INLINE void times_gelu_slope(Vec (&sum)[R][COLS], const Result &to, int row, int column) {
    const T *at = (const T *)to.aux + row * to.stride + column;
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < COLS; v++) sum[r][v] = sum[r][v] * gelu_slope<T>(load(at + r * to.stride + v * LANES));
}

template <class T, int R> INLINE void plus_map(Vec (&sum)[R][COLS], const Result &to, int row, int column) {
    const T *at = (const T *)to.aux + row * to.stride + column;
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < COLS; v++) sum[r][v] += load(at + r * to.stride + v * LANES);
}

template <class T, int R> INLINE void finish(Vec (&sum)[R][COLS], const Result &to, int row, int column) {
    float *out = (float *)to.out + (long)row * PANEL + column;
    switch (to.how) {
    case Store::floats: keep<float>(sum, to, row, column); break;
    case Store::operand: keep<T>(sum, to, row, column); break;
    case Store::gelu:
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int v = 0; v < COLS; v++) sum[r][v] = gelu<T>(sum[r][v]);
        keep<T>(sum, to, row, column);
        break;
    case Store::scaled:
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int v = 0; v < COLS; v++) sum[r][v] = sum[r][v] * set1(((const float *)to.aux)[row + r]);
        keep<T>(sum, to, row, column);
        break;
    case Store::accumulate:
        add_rows(sum, out, PANEL);
        keep<float>(sum, to, row, column);
        break;
    case Store::residual:
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int v = 0; v < COLS; v++) sum[r][v] += load(to.rows[row + r] + to.offset + column + v * LANES);
        keep<float>(sum, to, row, column);
        break;
    case Store::finish:
        add_rows(sum, out, PANEL);
        to_rows(sum, to, row, column);
        break;
    case Store::scatter: to_rows(sum, to, row, column); break;
    case Store::map: to_map<T>(sum, to, row, column); break;
    case Store::wide_map: to_map<float>(sum, to, row, column); break;
    case Store::gelu_map:
        times_gelu_slope<T>(sum, to, row, column);
        to_map<T>(sum, to, row, column);
        break;
    case Store::sum_map:
        plus_map<T>(sum, to, row, column);
        to_map<T>(sum, to, row, column);
        break;
    }
}

// sum += a * b over `depth` channels of a [depth / 32][stride / 32][32] and b [depth][32]. On the way a quarter of a panel's lines from
// `next` on are asked for: at small batches weights come from main memory, and slower than they are used.
template <int R> INLINE void multiply(Vec (&sum)[R][COLS], const float *a, long stride, const float *b, int depth, const char *next) {
    for (; depth > 0; depth -= PANEL, a += stride) {
        const int deep = smaller_of(depth, PANEL);
        for (int k = 0; k < deep; k++, b += PANEL) {
            if (k % 2 == 0) __builtin_prefetch(next, 0, 2), next += LINE;
            Vec w[COLS];
#pragma GCC unroll 4
            for (int v = 0; v < COLS; v++) w[v] = load(b + v * LANES);
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
                const Vec x = set1(a[r * PANEL + k]);
#pragma GCC unroll 4
                for (int v = 0; v < COLS; v++) sum[r][v] = fma(x, w[v], sum[r][v]);
            }
        }
    }
}

#ifdef SWK_BF16
// The same on pairs of channels, for an even depth.
template <int R> INLINE void multiply(Vec (&sum)[R][COLS], const bf16 *a, long stride, const bf16 *b, int depth, const char *next) {
    for (; depth > 0; depth -= PANEL, a += stride) {
        const int pairs = smaller_of(depth, PANEL) / 2;
        for (int k = 0; k < pairs; k++, b += 2 * PANEL) {
            if (k % 2 == 0) __builtin_prefetch(next, 0, 2), next += LINE;
            const __m512bh w0 = (__m512bh)_mm512_loadu_si512(b), w1 = (__m512bh)_mm512_loadu_si512(b + PANEL);
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
                int pair;
                __builtin_memcpy(&pair, a + r * PANEL + 2 * k, sizeof pair);
                const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
                sum[r][0] = _mm512_dpbf16_ps(sum[r][0], x, w0);
                sum[r][1] = _mm512_dpbf16_ps(sum[r][1], x, w1);
            }
        }
    }
}
#endif

template <class T, int R>
INLINE void dot(Vec (&sum)[R][COLS], const T *a, long stride, const T *b, int depth, const Result &to, int, int column, const char *next) {
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < COLS; v++) sum[r][v] = to.bias ? load(to.bias + column + v * LANES) : set1(0.f);
    multiply(sum, a, stride, b + column, depth, next);
}

// What is made of the results of products with T.
template <class T> struct Made {
    using Type = T;
};

#ifdef SWK_VNNI
template <> struct Made<u8> {
    using Type = bf16;
};

typedef int Words __attribute__((vector_size(64)));

// The same on fours of channels. Sums are exact integers until they get their scales.
template <int R>
INLINE void dot(Vec (&sum)[R][COLS], const u8 *a, long stride, const u8 *b, int depth, const Result &to, int row, int, const char *next) {
    Words whole[R][COLS];
    const Words start[COLS] = {(Words)_mm512_loadu_si512(to.start), (Words)_mm512_loadu_si512(to.start + LANES)};
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) whole[r][0] = start[0], whole[r][1] = start[1];
    for (; depth > 0; depth -= PANEL, a += stride) {
        for (int k = 0; k < PANEL / 4; k++, b += 4 * PANEL) {
            if (k % 2 == 0) __builtin_prefetch(next, 0, 2), next += LINE;
            const __m512i w0 = _mm512_loadu_si512(b), w1 = _mm512_loadu_si512(b + 2 * PANEL);
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
                int four;
                __builtin_memcpy(&four, a + r * PANEL + 4 * k, sizeof four);
                const __m512i x = _mm512_set1_epi32(four);
                whole[r][0] = (Words)_mm512_dpbusd_epi32((__m512i)whole[r][0], x, w0);
                whole[r][1] = (Words)_mm512_dpbusd_epi32((__m512i)whole[r][1], x, w1);
            }
        }
    }
    alignas(64) static const float zeros[PANEL] = {};
    const float *bias = to.bias ? to.bias : zeros, *scale = to.column_scale;
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < COLS; v++)
            sum[r][v] = fma(__builtin_convertvector(whole[r][v], Vec), set1(to.row_scale[row + r]) * load(scale + v * LANES), load(bias + v * LANES));
}
#endif

// What the sums meet in the end comes from memory, its rows far apart.
template <class T, int R> INLINE void ask_for_aux(const Result &to, int row, int column) {
    if (to.how != Store::gelu_map && to.how != Store::sum_map) return;
    const T *at = (const T *)to.aux + row * to.stride + column;
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
        for (int c = 0; c < COLS * LANES; c += LINE / (int)sizeof(T)) __builtin_prefetch(at + r * to.stride + c);
}

template <class T, int R>
__attribute__((noinline)) void tile(const T *a, long stride, const T *b, int depth, const Result &to, int row, int column, const char *next) {
    Vec sum[R][COLS];
    ask_for_aux<typename Made<T>::Type, R>(to, row, column);
    dot(sum, a, stride, b, depth, to, row, column, next);
    finish<typename Made<T>::Type>(sum, to, row, column);
}

template <class T> using TileFunction = void (*)(const T *, long, const T *, int, const Result &, int, int, const char *);

template <class T, int... R> struct TileTable {
    static constexpr TileFunction<T> by_rows[] = {nullptr, tile<T, R>...};
};
#if defined(__AVX512F__)
template <class T> using Tiles = TileTable<T, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14>;
#else
template <class T> using Tiles = TileTable<T, 1, 2, 3, 4, 5, 6>;
#endif

// `rows` rows of a [depth / 32][stride / 32][32] times one panel of weights. Rows are shared out evenly: a last tile of one row would
// read all weights for it.
template <class T> INLINE void product(const T *a, int rows, long stride, const T *b, int depth, const Result &to) {
    const int tiles = (rows + ROWS - 1) / ROWS;
    const size_t part = (size_t)depth * PANEL * sizeof(T) / FETCHERS;
    for (int column = 0, work = 0; column < PANEL; column += COLS * LANES)
        for (int t = 0, row = 0; t < tiles; t++, work++) {
            const int count = rows / tiles + (t < rows % tiles);
            const char *next = to.next && work < FETCHERS ? to.next + work * part : (const char *)a;
            Tiles<T>::by_rows[count](a + (long)row * PANEL, stride, b, depth, to, row, column, next);
            row += count;
        }
}

// Panel `panel` of a linear layer.
template <class T> INLINE const T *panel_of(const swk::Linear &linear, int panel) {
    return linear.weight.as<T>() + (size_t)panel * linear.depth * PANEL;
}

template <class T> INLINE void add_scales(Result &, const swk::Linear &, int, const T *) {}
#ifdef SWK_VNNI
INLINE void add_scales(Result &to, const swk::Linear &linear, int panel, const u8 *) {
    to.column_scale = linear.scale.as<float>() + panel * PANEL;
    to.start = linear.start.as<int>() + panel * PANEL;
}
#endif

// Channels [first, first + depth) of a linear layer's inputs into panel `panel` of its outputs. The panel that this thread will probably
// want next lies `ahead` further.
template <class T>
INLINE void layer(const swk::Linear &linear, int panel, int ahead, int first, int depth, const T *a, int rows, long stride, Result to) {
    const size_t offset = (size_t)first * PANEL;
    if (panel + ahead < linear.panels) to.next = (const char *)(panel_of<T>(linear, panel + ahead) + offset);
    if (first == 0) to.bias = linear.bias.as<float>() + panel * PANEL;
    add_scales(to, linear, panel, a);
    product(a, rows, stride, panel_of<T>(linear, panel) + offset, depth, to);
}
template <class T> INLINE void layer(const swk::Linear &linear, int panel, int ahead, const T *a, int rows, long stride, const Result &to) {
    layer(linear, panel, ahead, 0, linear.depth, a, rows, stride, to);
}

}  // namespace
