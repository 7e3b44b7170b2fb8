// Linear layers of training: y = x W^T + b on a whole batch, and its gradients, on rows that are packed a few at a time.
//
// GELU may stand between the layer and its input: it is then applied while packing, and its derivative to the result of the backward pass.
#pragma once
#include "columns.h"
#include "layer_norm.h"
#include "rows.h"

namespace {

using swk::LinearJob;

constexpr int NORMED = 16;  // rows that go through LayerNorm at a time: an even number

// A block of 32 x 32 weights: in place, or where it is not a whole one, a copy with zeros.
struct Weights {
    const float *from;
    long stride;
};
INLINE Weights block_of(const LinearJob &j, int output, int input, float *copy) {
    const float *from = j.weight + (long)output * j.inputs + input;
    const int rows = smaller_of(PANEL, j.outputs - output), columns = smaller_of(PANEL, j.inputs - input);
    if (rows == PANEL && columns == PANEL) return {from, j.inputs};
    for (int r = 0; r < PANEL; r++)
        for (int c = 0; c < PANEL; c++) copy[r * PANEL + c] = r < rows && c < columns ? from[(long)r * j.inputs + c] : 0.f;
    return {copy, PANEL};
}

// Blocks come from memory, their rows far apart.
INLINE void ask_for(const Weights &w, long ahead) {
    for (int r = 0; r < PANEL; r++)
        for (int c = 0; c < PANEL; c += LINE / (int)sizeof(float)) __builtin_prefetch(w.from + ahead + r * w.stride + c);
}

// Panel `panel` of a layer's outputs: W^T [inputs][32], as pairs for bfloat16, zeros beyond the outputs.
template <class T> void pack_outputs(const LinearJob &j, int panel, void *out, char *scratch) {
    swk::Arena arena{scratch};
    float *copy = arena.take<float>(PANEL * PANEL);
    T *block = arena.take<T>(PANEL * PANEL);
    for (int first = 0; first < j.inputs; first += PANEL) {
        const int depth = even<T>(smaller_of(PANEL, j.inputs - first));
        const Weights w = block_of(j, panel * PANEL, first, copy);
        T *to = (T *)out + (long)first * PANEL;
        if (first + 2 * PANEL < j.inputs) ask_for(w, PANEL);
        store_columns(w.from, w.stride, depth == PANEL ? to : block);
        if (depth < PANEL) __builtin_memcpy(to, block, sizeof(T) * depth * PANEL);
    }
}

// Panel `panel` of a layer's inputs: W [outputs][32], for the way back.
template <class T> void pack_inputs(const LinearJob &j, int panel, void *out, char *scratch) {
    swk::Arena arena{scratch};
    float *copy = arena.take<float>(PANEL * PANEL);
    for (int first = 0; first < j.outputs; first += PANEL) {
        const Weights w = block_of(j, first, panel * PANEL, copy);
        if (first + 2 * PANEL < j.outputs) ask_for(w, PANEL * w.stride);
        store_rows(w.from, w.stride, even<T>(smaller_of(PANEL, j.outputs - first)), (T *)out + (long)first * PANEL);
    }
}

// Rows of a matrix in float or T, perhaps through GELU, as an operand [panels][room][32]. A row at a time, as it lies in memory.
template <class T, bool GELU, class From> INLINE void take_rows(const From *from, int rows, int channels, T *to, long room) {
    alignas(64) From line[PANEL];
    const int whole = channels / PANEL, rest = channels % PANEL;
    for (int r = 0; r < rows; r++, from += channels, to += PANEL) {
        for (int p = 0; p < whole; p++) convert<GELU>(from + p * PANEL, to + p * room * PANEL);
        if (rest) convert<GELU>(padded(from + whole * PANEL, rest, line), to + whole * room * PANEL);
    }
}
template <class T> INLINE void take_rows(const LinearJob &j, const T *from, int rows, T *to, long room) {
    if (j.gelu) take_rows<T, true>(from, rows, j.inputs, to, room);
    else take_rows<T, false>(from, rows, j.inputs, to, room);
}
#ifdef SWK_BF16
INLINE void take_rows(const LinearJob &j, const float *from, int rows, bf16 *to, long room) { take_rows<bf16, false>(from, rows, j.inputs, to, room); }
#endif

INLINE size_t normed_bytes(const LinearJob &j) { return j.norm_weight ? sizeof(float) * NORMED * j.inputs : 0; }

// Calls take(rows, where they are in the run, how many) for the layer's input: the rows of x, or what LayerNorm makes of a few at a time.
template <class From, class Take> INLINE void each_input_of(const LinearJob &j, long first, int rows, char *scratch, Take take) {
    const From *x = (const From *)j.x + first * j.inputs;
    if (!j.norm_weight) return take(x, 0, rows);
    NormJob norm{NORMED, j.inputs, j.norm_epsilon, nullptr, j.norm_weight, j.norm_bias, scratch, nullptr, nullptr, nullptr, nullptr, nullptr, 1, nullptr};
    for (int at = 0; at < rows; at += NORMED) {
        const int count = smaller_of(NORMED, rows - at);
        norm.x = x + (long)at * j.inputs;
        norm_rows<From>(norm, 0, count);
        take((const From *)scratch, at, count);
    }
}
template <class T, class Take> INLINE void each_input(const LinearJob &j, long first, int rows, char *scratch, Take take) {
    if (j.x_wide) each_input_of<float>(j, first, rows, scratch, take);
    else each_input_of<T>(j, first, rows, scratch, take);
}
template <class T> INLINE void take_input(const LinearJob &j, long first, int rows, char *scratch, T *to, long room) {
    each_input<T>(j, first, rows, scratch, [&](const auto *from, int at, int count) { take_rows(j, from, count, to + (long)at * PANEL, room); });
}

// Where a product's panel goes in a matrix of `columns` columns: straight there, or through `line` where the panel is not a whole one.
template <class T> struct Target {
    T *narrow;
    float *wide;      // instead
    const T *slopes;  // GELU's derivative at these is a factor
    const T *addend;  // these are added
    int columns;
    bool streams;
};

// A matrix that the caches will not hold until it is read is better not written into them: each of its lines would be fetched first.
constexpr long STREAMED = 8 << 20;  // bytes
INLINE bool streams(const void *matrix, long rows, long row_bytes) {
    return rows * row_bytes >= STREAMED && (uintptr_t)matrix % LINE == 0 && row_bytes % LINE == 0;
}

template <class T>
INLINE void multiply_into(const T *a, int rows, long room, const T *b, int depth, const float *bias, int panel, const Target<T> &to, float *lines) {
    Result result{to.slopes ? Store::gelu_map : to.addend ? Store::sum_map : to.wide ? Store::wide_map : Store::map};
    const int offset = panel * PANEL, columns = smaller_of(PANEL, to.columns - offset);
    result.bias = bias, result.streams = to.streams;
    if (columns == PANEL) {
        result.out = to.wide ? (void *)(to.wide + offset) : (void *)(to.narrow + offset);
        result.aux = to.slopes ? to.slopes + offset : to.addend ? to.addend + offset : nullptr;
        result.stride = to.columns;
        product(a, rows, room * PANEL, b, depth, result);
        return;
    }
    result.how = Store::floats, result.out = lines;
    product(a, rows, room * PANEL, b, depth, result);
    for (int r = 0; r < rows; r++) {
        const long at = (long)r * to.columns + offset;
        float *line = lines + r * PANEL;
        if (to.slopes) {
            alignas(64) float slope[PANEL];
            widen(to.slopes + at, columns, 1, slope);
            for (int d = 0; d < PANEL; d += LANES) store(line + d, load(line + d) * gelu_slope<T>(load(slope + d)));
        }
        if (to.addend) {
            alignas(64) float addend[PANEL];
            widen(to.addend + at, columns, 1, addend);
            for (int d = 0; d < PANEL; d += LANES) store(line + d, load(line + d) + load(addend + d));
        }
        if (to.wide) narrow(line, columns, to.wide + at);
        else narrow(line, columns, to.narrow + at);
    }
}

template <class T> void linear_rows(const LinearJob &j, long first, int rows, const void *packed, const float *bias, char *scratch) {
    swk::Arena arena{scratch};
    T *operand = arena.take<T>((size_t)swk::panels_of(j.inputs) * rows * PANEL);
    float *lines = arena.take<float>((size_t)rows * PANEL);
    take_input(j, first, rows, arena.take<char>(normed_bytes(j)), operand, rows);
    const int depth = even<T>(j.inputs);
    const T *residual = j.residual ? (const T *)j.residual + first * j.outputs : nullptr;
    const Target<T> to{(T *)j.y + first * j.outputs, nullptr, nullptr, residual, j.outputs, streams(j.y, j.rows, j.outputs * (long)sizeof(T))};
    for (int p = 0; p < swk::panels_of(j.outputs); p++)
        multiply_into(operand, rows, rows, (const T *)packed + (long)p * depth * PANEL, depth, bias + p * PANEL, p, to, lines);
    fence();
}

// The backward pass takes a chunk of rows at a time. Its operands: [panels][room][32] of the gradient of y, and of x and y for the
// gradient of the weight, as pairs for bfloat16; for float the first and the last are one.
template <class T> INLINE void take_grad(const LinearJob &j, const swk::Chunk &chunk, int from, int rows, T *to) {
    const long at = (chunk.first + from) * j.outputs;
    if (j.y_grad_wide) take_rows<T, false>((const float *)j.y_grad + at, rows, j.outputs, to, chunk.room);
    else take_rows<T, false>((const T *)j.y_grad + at, rows, j.outputs, to, chunk.room);
}
INLINE void pack_rows(const LinearJob &j, const swk::Chunk &chunk, int from, int rows, float *grad, char *scratch) {
    take_grad(j, chunk, from, rows, grad);
    if (j.weight_grad) take_input(j, chunk.first + from, rows, scratch, (float *)chunk.x_pairs + (long)from * PANEL, chunk.room);
}
#ifdef SWK_BF16
// Two rows at a time.
template <bool GELU, class From> INLINE void take_pairs(const From *from, int rows, int channels, bf16 *to, long room) {
    alignas(64) From lines[2][PANEL];
    for (int r = 0; r < rows; r += 2, from += 2 * channels, to += 2 * PANEL) {
        const bool both = r + 1 < rows;
        for (int p = 0; p * PANEL < channels; p++) {
            const int columns = smaller_of(PANEL, channels - p * PANEL);
            const From *a = from + p * PANEL, *b = both ? a + channels : a;
            if (columns < PANEL) a = padded(a, columns, lines[0]), b = padded(b, columns, lines[1]);
            store_pair(converted<GELU>(a), both ? converted<GELU>(b) : __m512i{}, to + p * room * PANEL);
        }
    }
}
INLINE void take_pairs(const LinearJob &j, const float *from, int rows, bf16 *to, long room) { take_pairs<false>(from, rows, j.inputs, to, room); }
INLINE void take_pairs(const LinearJob &j, const bf16 *from, int rows, bf16 *to, long room) {
    if (j.gelu) take_pairs<true>(from, rows, j.inputs, to, room);
    else take_pairs<false>(from, rows, j.inputs, to, room);
}
INLINE void pack_rows(const LinearJob &j, const swk::Chunk &chunk, int from, int rows, bf16 *grad, char *scratch) {
    take_grad(j, chunk, from, rows, grad);
    for (int p = 0; (j.weight_grad || j.bias_grad) && p < swk::panels_of(j.outputs); p++)
        as_pairs(grad + p * chunk.room * PANEL, rows, (bf16 *)chunk.grad_pairs + (p * chunk.room + from) * PANEL);
    if (!j.weight_grad) return;
    bf16 *to = (bf16 *)chunk.x_pairs + (long)from * PANEL;
    each_input<bf16>(j, chunk.first + from, rows, scratch,
                     [&](const auto *x, int at, int count) { take_pairs(j, x, count, to + (long)at * PANEL, chunk.room); });
}
#endif
template <class T> void linear_pack(const LinearJob &j, const swk::Chunk &chunk, int from, int to, char *scratch) {
    swk::Arena arena{scratch};
    pack_rows(j, chunk, from, to - from, (T *)chunk.grad + (long)from * PANEL, arena.take<char>(normed_bytes(j)));
}

template <class T> void linear_input_grad(const LinearJob &j, const swk::Chunk &chunk, int from, int to, const void *packed, char *scratch) {
    swk::Arena arena{scratch};
    float *lines = arena.take<float>((size_t)(to - from) * PANEL);
    const long at = (chunk.first + from) * j.inputs;
    const int depth = even<T>(j.outputs);
    const Target<T> target{j.x_grad_wide ? nullptr : (T *)j.x_grad + at, j.x_grad_wide ? (float *)j.x_grad + at : nullptr,
                           j.gelu ? (const T *)j.x + at : nullptr, nullptr, j.inputs,
                           streams(j.x_grad, j.rows, j.inputs * (long)(j.x_grad_wide ? sizeof(float) : sizeof(T)))};
    for (int p = 0; p < swk::panels_of(j.inputs); p++)
        multiply_into((const T *)chunk.grad + (long)from * PANEL, to - from, chunk.room, (const T *)packed + (long)p * depth * PANEL, depth,
                      nullptr, p, target, lines);
    fence();
}

// Sums over the rows of a panel of pairs or rows.
INLINE void add_rows_of(const float *panel, int rows, float *sums) {
    for (int d = 0; d < PANEL; d += LANES) {
        Vec total = load(sums + d);
        for (int r = 0; r < rows; r++) total += load(panel + r * PANEL + d);
        store(sums + d, total);
    }
}
#ifdef SWK_BF16
INLINE void add_rows_of(const bf16 *pairs, int rows, float *sums) {
    const __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
    Vec low = load(sums), high = load(sums + LANES);
    for (int r = 0; r < rows; r += 2) {
        low = _mm512_dpbf16_ps(low, ones, (__m512bh)_mm512_loadu_si512(pairs + r * PANEL));
        high = _mm512_dpbf16_ps(high, ones, (__m512bh)_mm512_loadu_si512(pairs + (r + 1) * PANEL));
    }
    store(sums, low), store(sums + LANES, high);
}
#endif

// Rows [panel * 32, ...) of the weight's gradient in the columns of some panels, and of the bias's along with the first of them.
template <class T> void linear_weight_grad(const LinearJob &j, const swk::Chunk &chunk, int panel, int from, int to) {
    const T *grad = (const T *)chunk.grad_pairs + panel * chunk.room * PANEL;
    const int count = smaller_of(PANEL, j.outputs - panel * PANEL), depth = even<T>(chunk.rows);
    const bool fresh = chunk.first == 0;
    for (int p = from; j.weight_grad && p < to; p++) {
        const T *x = (const T *)chunk.x_pairs + p * chunk.room * PANEL;
        float *out = j.weight_grad + (long)panel * PANEL * j.inputs + p * PANEL;
        const int columns = smaller_of(PANEL, j.inputs - p * PANEL);
        if (columns == PANEL) {
            add_transposed(grad, count, x, depth, out, j.inputs, fresh);
            continue;
        }
        alignas(64) float block[PANEL * PANEL];
        add_transposed(grad, count, x, depth, block, PANEL, true);
        for (int r = 0; r < count; r++)
            for (int d = 0; d < columns; d++) out[(long)r * j.inputs + d] = (fresh ? 0.f : out[(long)r * j.inputs + d]) + block[r * PANEL + d];
    }
    if (j.bias_grad && from == 0) {
        alignas(64) float sums[PANEL] = {};
        add_rows_of(grad, depth, sums);
        for (int d = 0; d < count; d++) j.bias_grad[panel * PANEL + d] = (fresh ? 0.f : j.bias_grad[panel * PANEL + d]) + sums[d];
    }
}

template <class T> size_t linear_scratch(const LinearJob &j, int rows) {
    swk::Arena rows_arena, weights;
    rows_arena.take<T>((size_t)swk::panels_of(j.inputs) * rows * PANEL);
    rows_arena.take<float>((size_t)rows * PANEL), rows_arena.take<char>(normed_bytes(j));
    weights.take<float>(PANEL * PANEL), weights.take<T>(PANEL * PANEL);
    return rows_arena.used > weights.used ? rows_arena.used : weights.used;
}

}  // namespace
