// Attention inside the windows of a tile, one group of heads after its three projections.
//
// Scores are held in units of log2 e, so that softmax takes powers of two. A window reads rows of itself only: a key block that does not
// fill a vector goes through zeroed scratch, and the bias of keys that are not there is -1e30.
#pragma once
#include "gemm.h"
#include "kernels.h"

namespace {

constexpr float MASKED = -100.f * 1.44269504088896f;  // the originals add -100 across the seam
constexpr int SCORES = 32768;                          // floats of scores at a time, so that they stay in the first caches

using swk::Windows;
using swk::WindowShape;

// Calls each(place in the window, token of the map) for the tokens of a window that are not padding.
template <class Each> INLINE void each_token(const WindowShape &shape, const Windows &windows, long index, Each each) {
    const swk::Grid &grid = windows.grid;
    const long per_image = (long)windows.down * windows.across;
    const int image = (int)(index / per_image), y0 = (int)(index % per_image / windows.across), x0 = (int)(index % windows.across);
    for (int i = 0; i < shape.window_h; i++) {
        const int y = (y0 * shape.window_h + i + windows.shift_h) % (windows.down * shape.window_h);
        for (int j = 0; j < shape.window_w && y < grid.height; j++) {
            const int x = (x0 * shape.window_w + j + windows.shift_w) % (windows.across * shape.window_w);
            if (x < grid.width) each(i * shape.window_w + j, ((long)image * grid.height + y) * grid.width + x);
        }
    }
}

// Whether a window lies on the seam of the shift below (2) and to the right (1).
INLINE int seam_of(const Windows &windows, long index) {
    const int y = (int)(index / windows.across % windows.down), x = (int)(index % windows.across);
    return (windows.shift_h && y == windows.down - 1 ? 2 : 0) + (windows.shift_w && x == windows.across - 1 ? 1 : 0);
}

// On which side of the seam each token of a window lies, and what each side may not see.
INLINE void fill_masks(const WindowShape &shape, const Windows &windows, int seam, unsigned char *side, float *masks) {
    for (int t = 0; t < shape.tokens; t++) {
        const int below = (seam & 2) && t / shape.window_w >= shape.window_h - windows.shift_h;
        const int right = (seam & 1) && t % shape.window_w >= shape.window_w - windows.shift_w;
        side[t] = (unsigned char)(2 * below + right);
    }
    for (int own = 0; own < 4; own++)
        for (int t = 0; t < shape.keys; t++) masks[own * shape.keys + t] = t < shape.tokens && side[t] != own ? MASKED : 0.f;
}

template <class T> struct AttentionScratch {
    T *q, *k, *v;             // [panels][rows][32]
    float *wide;              // [panels][rows][32]: version 2, before the unit length
    T *window_k, *window_v;   // [panels][tokens][32]: of a window with padding
    T *keys;                  // [panel of keys][depth][32]
    T *values;                // [panels][tokens][32], as pairs for bfloat16
    float *scores;            // [panel of keys][chunk][32]
    T *weights;               // the same, as an operand
    float *inverse;           // [chunk]
    T *narrow;                // [chunk][32]: a result of which only one head's channels are wanted
    T *block;                 // [LANES][32]
    float *masks;             // [windows][4 sides][keys]
    int chunk;                // query rows at a time
    long stride;              // from one panel of scores to the next
};

INLINE int chunk_of(const WindowShape &shape) {
    return smaller_of(shape.tokens, larger_of(ROWS, SCORES / shape.keys / ROWS * ROWS));
}

template <class T> AttentionScratch<T> lay_out(swk::Arena &arena, const swk::Block &block, int rows, int windows) {
    const size_t panels = block.heads.panels, tokens = block.tokens + 1, keys = block.keys;
    AttentionScratch<T> s;
    s.chunk = chunk_of(block);
    const size_t room = (s.chunk + TOGETHER - 1) / TOGETHER * TOGETHER;
    s.stride = (long)room * PANEL;
    s.q = arena.take<T>(panels * rows * PANEL);
    s.k = arena.take<T>(panels * rows * PANEL);
    s.v = arena.take<T>(panels * rows * PANEL);
    s.wide = block.version == 2 ? arena.take<float>(panels * rows * PANEL) : nullptr;
    s.window_k = arena.take<T>(panels * tokens * PANEL);
    s.window_v = arena.take<T>(panels * tokens * PANEL);
    s.keys = arena.take<T>(panels * keys * PANEL);
    s.values = arena.take<T>(panels * tokens * PANEL);
    s.scores = arena.take<float>(keys * room);
    s.weights = sizeof(T) == sizeof(float) ? (T *)s.scores : arena.take<T>(keys * room);
    s.inverse = arena.take<float>(room);
    s.narrow = arena.take<T>((size_t)s.chunk * PANEL);
    s.block = arena.take<T>(LANES * PANEL);
    s.masks = arena.take<float>((size_t)windows * 4 * keys);
    return s;
}

// Version 2: rows of `from` as vectors of length `scale`, head by head.
template <class T> INLINE void to_length(const float *from, T *to, int rows, const swk::Heads &heads, const float *scale) {
    const int width = heads.per_group > 1 ? heads.dim : PANEL, parts = PANEL / width;
    const long panel = (long)rows * PANEL;
    for (int r = 0; r < rows; r++)
        for (int part = 0; part < parts; part++) {
            float squares = 0;
            for (int p = 0; p < heads.panels; p++) {
                const float *x = from + p * panel + r * PANEL + part * width;
                if (width % LANES) {
                    for (int d = 0; d < width; d++) squares += x[d] * x[d];
                } else {
                    Vec total = load(x) * load(x);
                    for (int d = LANES; d < width; d += LANES) total = fma(load(x + d), load(x + d), total);
                    squares += sum(total);
                }
            }
            const float length = sqrtf(squares), factor = (scale ? scale[part] : 1.f) / (length < 1e-12f ? 1e-12f : length);
            for (int p = 0; p < heads.panels; p++) {
                float *x = const_cast<float *>(from) + p * panel + r * PANEL + part * width;
                for (int d = 0; d < width; d++) x[d] *= factor;
            }
        }
    for (int p = 0; p < heads.panels; p++)
        for (int r = 0; r < rows; r++) put(to + p * panel + r * PANEL, from + p * panel + r * PANEL);
}

template <class T, class Q> INLINE void project_group(const swk::Block &block, const swk::Tile &tile, int group, AttentionScratch<T> &s) {
    const int panels = block.heads.panels;
    const long panel = (long)tile.rows * PANEL;
    T *const outs[3] = {s.q, s.k, s.v};
    for (int part = 0; part < 3; part++) {
        const bool cosine = block.version == 2 && part < 2;
        for (int p = 0; p < panels; p++) {
            const int column = (group * 3 + part) * panels + p;
            Result to{cosine ? Store::floats : Store::operand};
            to.out = cosine ? (void *)(s.wide + p * panel) : (void *)(outs[part] + p * panel);
            to.row_scale = tile.scale;
            layer(block.qkv, column, 1, (const Q *)tile.operand, tile.rows, panel, to);
        }
        if (cosine)
            to_length(s.wide, outs[part], tile.rows, block.heads, part ? nullptr : block.scale.as<float>() + group * block.heads.per_group);
    }
}

// LANES keys of one head, as columns: (LANES, depth) -> (depth, LANES) in a panel of keys.
INLINE void transpose_block(const float *from, float *to, int depth) {
    if (depth % LANES == 0) {
        for (int d = 0; d < depth; d += LANES) transpose(from + d, PANEL, to + (long)d * PANEL, PANEL);
    } else {
        for (int d = 0; d < depth; d++)
            for (int key = 0; key < LANES; key++) to[d * PANEL + key] = from[key * PANEL + d];
    }
}
INLINE const float *as_pairs(const float *values, int, float *) { return values; }

#ifdef SWK_BF16
// The same for pairs of channels: (LANES, depth / 2) words -> (depth / 2, LANES) words.
INLINE void transpose_block(const bf16 *from, bf16 *to, int depth) {
    if (depth == PANEL) {
        transpose((const float *)from, PANEL / 2, (float *)to, PANEL);
    } else {
        for (int d = 0; d < depth; d++)
            for (int key = 0; key < LANES; key++) to[(d / 2) * 2 * PANEL + key * 2 + d % 2] = from[key * PANEL + d];
    }
}

// Two rows of 32 as pairs, [32][2].
INLINE void store_pair(__m512i a, __m512i b, bf16 *to) {
    alignas(64) static const uint16_t order[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                   8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i low = _mm512_load_si512(order), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, low, b));
    _mm512_storeu_si512(to + PANEL, _mm512_permutex2var_epi16(a, high, b));
}

// Rows of values as pairs: [rows][32] -> [rows / 2][32][2]; a last row without a partner gets zeros.
INLINE const bf16 *as_pairs(const bf16 *values, int rows, bf16 *to) {
    for (int r = 0; r < rows; r += 2)
        store_pair(_mm512_loadu_si512(values + r * PANEL), r + 1 < rows ? _mm512_loadu_si512(values + (r + 1) * PANEL) : __m512i{}, to + r * PANEL);
    return to;
}
#endif

// Keys of one head: [tokens][32] from `from` on -> [panel of keys][depth][32], zeros where there is no key.
template <class T> INLINE void transpose_keys(const T *from, int tokens, int keys, int depth, int whole_depth, T *to, T *spare) {
    constexpr int WORD = sizeof(float) / sizeof(T);
    for (int key = 0; key < keys; key += LANES) {
        const int present = smaller_of(tokens - key, LANES);
        const T *block = from + (long)key * PANEL;
        if (present < LANES) {
            for (int r = 0; r < LANES; r++)
                for (int d = 0; d < depth; d++) spare[r * PANEL + d] = r < present ? block[r * PANEL + d] : (T)0;
            block = spare;
        }
        transpose_block(block, to + (long)(key / PANEL) * whole_depth * PANEL + (key % PANEL) * WORD, depth);
    }
}

// What a softmax reads and writes: panels of keys lie `stride` floats apart.
template <class T> struct Scores {
    float *from;
    T *to;
    long stride;
    int panels;
    float *inverse;            // of each row
    float *largest = nullptr;  // of each row, if wanted
};

// softmax of TOGETHER rows, without its division: what it would divide by comes back inverted. PANELS: how many panels of keys, where that is
// known; the scores then stay in registers.
template <class T, int PANELS> INLINE void softmax_rows(const Scores<T> &s, const float *const *bias, const float *const *mask) {
    constexpr int N = TOGETHER;
    const int count = PANELS ? PANELS : s.panels;
    Vec held[N][PANELS ? PANELS * VECS : 1], most[N];
#pragma GCC unroll 4
    for (int r = 0; r < N; r++) {
        most[r] = set1(-1e38f);
        for (int p = 0; p < count; p++)
#pragma GCC unroll 8
            for (int v = 0; v < VECS; v++) {
                float *score = s.from + r * PANEL + p * s.stride + v * LANES;
                Vec x = load(score) + load(bias[r] + p * PANEL + v * LANES);
                if (mask) x += load(mask[r] + p * PANEL + v * LANES);
                most[r] = larger(most[r], x);
                if (PANELS) held[r][p * VECS + v] = x;
                else store(score, x);
            }
    }
    spread_largest(most);
    Vec total[N];
#pragma GCC unroll 4
    for (int r = 0; r < N; r++) {
        total[r] = set1(0.f);
        for (int p = 0; p < count; p++)
#pragma GCC unroll 8
            for (int v = 0; v < VECS; v += COLS) {
                Vec e[COLS];
#pragma GCC unroll 4
                for (int c = 0; c < COLS; c++) {
                    const Vec x = PANELS ? held[r][p * VECS + v + c] : load(s.from + r * PANEL + p * s.stride + (v + c) * LANES);
                    e[c] = exp2<T>(x - most[r]);
                    total[r] += e[c];
                }
                put(s.to + r * PANEL + p * s.stride + v * LANES, e);
            }
    }
    inverse_sums(total, s.inverse);
    for (int r = 0; s.largest && r < N; r++) s.largest[r] = first_of(most[r]);
}

// Rows of bias and mask for the tokens of some rows.
struct RowTables {
    const float *bias;
    long stride;                // of bias and masks
    const int *place;           // null: the rows are the tokens in order
    const float *masks;
    const unsigned char *side;  // null: no mask
};

// softmax of rows [0, rows) of the scores, TOGETHER at a time. The last ones may be rows that nobody asked for; scratch has room for them.
template <class T, int PANELS> INLINE void softmax(const Scores<T> &s, int rows, const RowTables &tables) {
    for (int first = 0; first < rows; first += TOGETHER) {
        const float *bias[TOGETHER], *mask[TOGETHER];
        for (int r = 0; r < TOGETHER; r++) {
            const int row = smaller_of(first + r, rows - 1), token = tables.place ? tables.place[row] : row;
            bias[r] = tables.bias + token * tables.stride;
            mask[r] = tables.side ? tables.masks + tables.side[token] * tables.stride : nullptr;
        }
        const Scores<T> part{s.from + first * PANEL, s.to + first * PANEL, s.stride, s.panels, s.inverse + first, s.largest ? s.largest + first : nullptr};
        softmax_rows<T, PANELS>(part, bias, tables.side ? mask : nullptr);
    }
}

}  // namespace
