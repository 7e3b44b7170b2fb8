// Attention over a whole map and its gradients, for training: one window and one head at a time, read from the map and written to it.
//
// Padding is never a query: nobody reads its result. As a key it takes part, and its gradients go to `pad`. The forward pass keeps the
// logarithm of each softmax's sum, from which the backward pass computes the weights again.
#pragma once
#include "columns.h"
#include "rows.h"

namespace {

using swk::Attention;
using swk::AttentionGradients;

constexpr float LOG2_E = 1.44269504088896f, LN_2 = 0.69314718055995f;
constexpr float SHORTEST = 1e-12f;  // what a vector's length is at least taken for

template <class T> struct MapScratch {
    long *token;              // [tokens]: where on the map each place of the window is; -1: padding
    int *place;               // [tokens]: the places that are not padding
    unsigned char *side;      // [tokens]
    float *masks;             // [4 sides][keys]
    float *line, *unit;       // [panels * 32]
    T *q, *k, *v;             // [panels][tokens + 1][32]: q of the queries, k and v of all places
    T *keys;                  // [panel of keys][depth][32]
    T *pairs;                 // [panels][tokens + 1][32]: values (forward) or keys (backward), as pairs for bfloat16
    float *scores;            // [panel of keys][chunk][32]
    T *weights;
    float *inverse, *largest; // [chunk]
    T *result;                // [chunk][32]
    T *block;                 // [LANES][32]

    T *grad;                  // [panels][tokens + 1][32]: of the output
    T *value_keys;            // [panel of keys][depth][32]: v, as columns
    float *lse;               // [tokens]
    float *weight_grads;      // [panel of keys][chunk][32]
    T *score_grads;           // [panel of keys][chunk][32]
    T *score_pairs, *weight_pairs, *q_pairs, *grad_pairs;
    float *q_sum;             // [panels][chunk][32]
    float *k_sum, *v_sum;     // [panels][keys][32]
    int chunk, rows, seam;
    long stride;              // from one panel of scores to the next
    long panel;               // from one panel of q, k, v to the next
};

template <class T> void lay_out_gradients(swk::Arena &arena, const Attention &a, MapScratch<T> &s, size_t room) {
    const size_t all = a.panels * s.panel, keys = a.shape.keys;
    s.grad = arena.take<T>(all);
    s.value_keys = arena.take<T>(a.panels * keys * PANEL);
    s.lse = arena.take<float>(a.shape.tokens);
    s.weight_grads = arena.take<float>(keys * room);
    s.score_grads = arena.take<T>(keys * room);
    const bool pairs = sizeof(T) != sizeof(float);
    s.score_pairs = pairs ? arena.take<T>(keys * room) : s.score_grads;
    s.weight_pairs = pairs ? arena.take<T>(keys * room) : s.weights;
    s.q_pairs = pairs ? arena.take<T>(a.panels * room * PANEL) : nullptr;
    s.grad_pairs = pairs ? arena.take<T>(a.panels * room * PANEL) : nullptr;
    s.q_sum = arena.take<float>(a.panels * room * PANEL);
    s.k_sum = arena.take<float>(a.panels * keys * PANEL);
    s.v_sum = arena.take<float>(a.panels * keys * PANEL);
}

template <class T> MapScratch<T> lay_out_map(swk::Arena &arena, const Attention &a, bool backward) {
    const size_t tokens = a.shape.tokens, keys = a.shape.keys;
    MapScratch<T> s{};
    s.chunk = chunk_of(a.shape);
    const size_t together = larger_of(TOGETHER, 2), room = (s.chunk + together - 1) / together * together;
    s.stride = (long)room * PANEL;
    s.panel = (long)(tokens + 1) * PANEL;
    s.token = arena.take<long>(tokens);
    s.place = arena.take<int>(tokens);
    s.side = arena.take<unsigned char>(tokens);
    s.masks = arena.take<float>(4 * keys);
    s.line = arena.take<float>((size_t)a.panels * PANEL);
    s.unit = arena.take<float>((size_t)a.panels * PANEL);
    s.q = arena.take<T>(a.panels * s.panel);
    s.k = arena.take<T>(a.panels * s.panel);
    s.v = arena.take<T>(a.panels * s.panel);
    s.keys = arena.take<T>(a.panels * keys * PANEL);
    s.pairs = arena.take<T>(a.panels * s.panel);
    s.scores = arena.take<float>(keys * room);
    s.weights = sizeof(T) == sizeof(float) ? (T *)s.scores : arena.take<T>(keys * room);
    s.inverse = arena.take<float>(room);
    s.largest = arena.take<float>(room);
    s.result = arena.take<T>(room * PANEL);
    s.block = arena.take<T>(LANES * PANEL);
    if (backward) lay_out_gradients(arena, a, s, room);
    return s;
}

template <class T> size_t map_scratch(const Attention &a, bool backward) {
    swk::Arena arena;
    lay_out_map<T>(arena, a, backward);
    return arena.used;
}

template <class T> void find_window(const Attention &a, long index, MapScratch<T> &s) {
    for (int t = 0; t < a.shape.tokens; t++) s.token[t] = -1;
    s.rows = 0;
    each_token(a.shape, a.windows, index, [&](int place, long token) { s.token[place] = token, s.place[s.rows++] = place; });
    s.seam = seam_of(a.windows, index);
    if (s.seam) fill_masks(a.shape, a.windows, s.seam, s.side, s.masks);
}

// Where head `head` of part `part` (q, k, v) of a token begins in qkv.
INLINE long offset_of(const Attention &a, long token, int part, int head) { return ((token * 3 + part) * a.job.heads + head) * a.job.dim; }
INLINE const float *padding_of(const Attention &a, int part, int head) { return a.job.pad + ((long)part * a.job.heads + head) * a.job.dim; }

// Asks for a head's channels of a token in advance. Each is a line or two, too short a run for the hardware to notice.
template <class T> INLINE void fetch(const T *from, int dim, bool to_write) {
    for (int d = 0; d < dim; d += LINE / (int)sizeof(T)) {
        if (to_write) __builtin_prefetch(from + d, 1, 2);
        else __builtin_prefetch(from + d, 0, 2);
    }
}

template <class T> INLINE void fetch_head(const Attention &a, int head, bool backward, const MapScratch<T> &s) {
    for (int r = 0; r < s.rows; r++) {
        const long token = s.token[s.place[r]], out = (token * a.job.heads + head) * a.job.dim;
        for (int part = 0; part < 3; part++) {
            const long at = offset_of(a, token, part, head);
            fetch((const T *)a.job.qkv + at, a.job.dim, false);
            if (backward) fetch((const T *)a.job.qkv_grad + at, a.job.dim, true);
        }
        fetch((const T *)(backward ? a.job.out_grad : a.job.out) + out, a.job.dim, !backward);
    }
}

// The same direction with length 1; returns what the vector was multiplied by.
INLINE float to_unit(float *line, int panels) {
    float squares = 0;
    for (int d = 0; d < panels * PANEL; d += LANES) squares += sum(load(line + d) * load(line + d));
    const float length = larger_of(sqrtf(squares), SHORTEST), inverse = 1 / length;
    for (int d = 0; d < panels * PANEL; d += LANES) store(line + d, load(line + d) * set1(inverse));
    return inverse;
}

// A row of whole panels into [panels] rows of T that lie `panel` apart.
template <class T, class From> INLINE void spread(const From *from, int panels, T *to, long panel) {
    for (int p = 0; p < panels; p++) convert<false>(from + p * PANEL, to + p * panel);
}
template <class T, class From> INLINE void spread_scaled(const From *from, Vec scale, int panels, T *to, long panel) {
    for (int p = 0; p < panels; p++, from += PANEL, to += panel)
        for (int d = 0; d < PANEL; d += COLS * LANES) {
            Vec x[COLS];
#pragma GCC unroll 4
            for (int c = 0; c < COLS; c++) x[c] = load(from + d + c * LANES) * scale;
            put(to + d, x);
        }
}

// A head's channels of a token, straight or through `line`, as a vector of length 1 if that is wanted.
template <class T, class From> INLINE void take_channels(const From *from, int dim, int panels, bool unit, float *line, T *to, long panel) {
    if (!unit && dim % PANEL == 0) return spread(from, panels, to, panel);
    widen(from, dim, panels, line);
    if (unit) to_unit(line, panels);
    spread(line, panels, to, panel);
}

// The gradient of x from that of its unit vector `u`, in place: (g - u (u . g)) / |x|.
INLINE void from_unit(const float *u, float inverse, int panels, float *grad) {
    Vec along = set1(0.f);
    for (int d = 0; d < panels * PANEL; d += LANES) along = fma(load(u + d), load(grad + d), along);
    const Vec part = set1(inverse < 1 / SHORTEST ? sum(along) : 0.f), scale = set1(inverse);
    for (int d = 0; d < panels * PANEL; d += LANES) store(grad + d, (load(grad + d) - load(u + d) * part) * scale);
}

// The queries of one head, times scale and log2 e; k and v of all places.
template <class T> INLINE void take_head(const Attention &a, int head, MapScratch<T> &s) {
    const T *qkv = (const T *)a.job.qkv;
    const int dim = a.job.dim, panels = a.panels;
    const Vec scale = set1(a.job.scale[head] * LOG2_E);
    for (int r = 0; r < s.rows; r++) {
        const T *from = qkv + offset_of(a, s.token[s.place[r]], 0, head);
        if (!a.job.cosine && dim % PANEL == 0) {
            spread_scaled(from, scale, panels, s.q + r * PANEL, s.panel);
            continue;
        }
        widen(from, dim, panels, s.line);
        if (a.job.cosine) to_unit(s.line, panels);
        spread_scaled(s.line, scale, panels, s.q + r * PANEL, s.panel);
    }
    for (int part = 1; part < 3; part++)
        for (int t = 0; t < a.shape.tokens; t++) {
            const bool unit = a.job.cosine && part == 1;
            T *to = (part == 1 ? s.k : s.v) + t * PANEL;
            if (s.token[t] < 0) take_channels(padding_of(a, part, head), dim, panels, unit, s.line, to, s.panel);
            else take_channels(qkv + offset_of(a, s.token[t], part, head), dim, panels, unit, s.line, to, s.panel);
        }
}

template <class T> INLINE void as_columns(const Attention &a, const T *rows, T *to, MapScratch<T> &s) {
    const int depth = a.panels * PANEL;
    for (int p = 0; p < a.panels; p++)
        transpose_keys(rows + p * s.panel, a.shape.tokens, a.shape.keys, PANEL, depth, to + (long)p * PANEL * PANEL, s.block);
}

// Each panel of `rows` as pairs of rows.
template <class T> INLINE const T *paired(const T *rows, int count, long panel, int panels, T *to, long to_panel) {
    for (int p = 0; p < panels; p++)
        if (as_pairs(rows + p * panel, count, to + p * to_panel) == rows) return rows;
    return to;
}

// scores = a * columns: rows of q times keys, or of the output's gradient times values.
template <class T> INLINE void multiply_columns(const Attention &a, const T *rows, int count, const T *columns, float *out, MapScratch<T> &s) {
    const int depth = a.panels * PANEL;
    for (int p = 0; p < a.shape.keys / PANEL; p++) {
        Result to{Store::floats};
        to.out = out + p * s.stride;
        product(rows, count, s.panel, columns + (long)p * depth * PANEL, depth, to);
    }
}

template <class T> INLINE RowTables tables_of(const Attention &a, int head, int row, const MapScratch<T> &s) {
    const bool whole = s.rows == a.shape.tokens;
    const int token = whole ? row : 0;
    const float *bias = a.bias + ((long)head * a.shape.tokens + token) * a.shape.keys;
    return {bias, a.shape.keys, whole ? nullptr : s.place + row, s.masks, s.seam ? s.side + token : nullptr};
}

template <class T> void attend_on_map(const Attention &a, int head, MapScratch<T> &s) {
    take_head(a, head, s);
    as_columns(a, s.k, s.keys, s);
    const T *values = paired(s.v, a.shape.tokens, s.panel, a.panels, s.pairs, s.panel);
    const int panels = a.shape.keys / PANEL;
    for (int row = 0; row < s.rows; row += s.chunk) {
        const int rows = smaller_of(s.chunk, s.rows - row);
        multiply_columns(a, s.q + row * PANEL, rows, s.keys, s.scores, s);
        const Scores<T> scores{s.scores, s.weights, s.stride, panels, s.inverse, s.largest};
        const RowTables tables = tables_of(a, head, row, s);
        panels == 2 ? softmax<T, 2>(scores, rows, tables) : softmax<T, 0>(scores, rows, tables);
        for (int p = 0; p < a.panels; p++) {
            Result to{Store::scaled};
            to.out = s.result, to.aux = s.inverse;
            product(s.weights, rows, s.stride, values + p * s.panel, even<T>(a.shape.tokens), to);
            const int dim = smaller_of(PANEL, a.job.dim - p * PANEL);
            for (int r = 0; r < rows; r++) {
                T *out = (T *)a.job.out + (s.token[s.place[row + r]] * a.job.heads + head) * a.job.dim + p * PANEL;
                if (dim == PANEL) __builtin_memcpy(out, s.result + r * PANEL, PANEL * sizeof(T));  // of a known size, without a call
                else __builtin_memcpy(out, s.result + r * PANEL, dim * sizeof(T));
            }
        }
        for (int r = 0; a.job.lse && r < rows; r++)
            a.job.lse[s.token[s.place[row + r]] * a.job.heads + head] = s.largest[r] - log2f(s.inverse[r]);
    }
}

template <class T> void map_forward(const Attention &a, long window, int from, int to, char *scratch) {
    swk::Arena arena{scratch};
    MapScratch<T> s = lay_out_map<T>(arena, a, false);
    find_window(a, window, s);
    fetch_head(a, from, false, s);
    for (int head = from; head < to; head++) {
        if (head + 1 < to) fetch_head(a, head + 1, false, s);
        attend_on_map(a, head, s);
    }
}

}  // namespace
