// Linear layers of training: y = x W^T + b on a whole batch, and its gradients, on rows that are packed a few at a time.
//
// GELU may stand between the layer and its input: it is then applied while packing, and its derivative to the result of the backward pass.
#pragma once
#include "columns.h"
#include "rows.h"

namespace {

using swk::LinearJob;

// Panel `panel` of a layer's outputs: W^T [inputs][32], as pairs for bfloat16, zeros beyond the outputs.
template <class T> void pack_outputs(const LinearJob &j, int panel, void *out, char *scratch) {
    swk::Arena arena{scratch};
    float *from = arena.take<float>(PANEL * PANEL), *turned = arena.take<float>(PANEL * PANEL);
    T *rows = arena.take<T>(PANEL * PANEL);
    const int columns = smaller_of(PANEL, j.outputs - panel * PANEL);
    for (int first = 0; first < j.inputs; first += PANEL) {
        const int depth = smaller_of(PANEL, j.inputs - first);
        for (int n = 0; n < PANEL; n++) {
            const float *weight = j.weight + (long)(panel * PANEL + n) * j.inputs + first;
            for (int k = 0; k < PANEL; k++) from[n * PANEL + k] = n < columns && k < depth ? weight[k] : 0.f;
        }
        for (int n = 0; n < PANEL; n += LANES)
            for (int k = 0; k < PANEL; k += LANES) transpose(from + n * PANEL + k, PANEL, turned + k * PANEL + n, PANEL);
        T *to = (T *)out + (long)first * PANEL;
        store_rows(turned, even<T>(depth), rows, to);
    }
}

// Panel `panel` of a layer's inputs: W [outputs][32], for the way back.
template <class T> void pack_inputs(const LinearJob &j, int panel, void *out, char *scratch) {
    swk::Arena arena{scratch};
    float *from = arena.take<float>(PANEL * PANEL);
    T *rows = arena.take<T>(PANEL * PANEL);
    const int columns = smaller_of(PANEL, j.inputs - panel * PANEL);
    for (int first = 0; first < j.outputs; first += PANEL) {
        const int depth = smaller_of(PANEL, j.outputs - first);
        for (int n = 0; n < PANEL; n++) {
            if (n < depth) widen(j.weight + (long)(first + n) * j.inputs + panel * PANEL, columns, 1, from + n * PANEL);
            else __builtin_memset(from + n * PANEL, 0, PANEL * sizeof(float));
        }
        store_rows(from, even<T>(depth), rows, (T *)out + (long)first * PANEL);
    }
}

template <class T, bool GELU, class From> INLINE void take_panel(const From *from, T *to) {
#pragma GCC unroll 8
    for (int d = 0; d < PANEL; d += COLS * LANES) {
        Vec x[COLS];
#pragma GCC unroll 4
        for (int c = 0; c < COLS; c++) {
            x[c] = load(from + d + c * LANES);
            if (GELU) x[c] = gelu<T>(x[c]);
        }
        put(to + d, x);
    }
}

// Rows of a matrix in float or T, perhaps through GELU, as an operand [panels][room][32]. A row at a time, as it lies in memory.
template <class T, bool GELU, class From> INLINE void take_rows(const From *from, int rows, int channels, T *to, long room) {
    alignas(64) float line[PANEL];
    const int whole = channels / PANEL;
    for (int r = 0; r < rows; r++, from += channels, to += PANEL) {
        for (int p = 0; p < whole; p++) take_panel<T, GELU>(from + p * PANEL, to + p * room * PANEL);
        if (channels % PANEL == 0) continue;
        widen(from + whole * PANEL, channels % PANEL, 1, line);
        take_panel<T, GELU>(line, to + whole * room * PANEL);
    }
}
template <class T> INLINE void take_input(const LinearJob &j, long first, int rows, T *to, long room) {
    const T *x = (const T *)j.x + first * j.inputs;
    if (j.x_wide) take_rows<T, false>((const float *)j.x + first * j.inputs, rows, j.inputs, to, room);
    else if (j.gelu) take_rows<T, true>(x, rows, j.inputs, to, room);
    else take_rows<T, false>(x, rows, j.inputs, to, room);
}

// Where a product's panel goes in a matrix of `columns` columns: straight there, or through `line` where the panel is not a whole one.
template <class T> struct Target {
    T *narrow;
    float *wide;      // instead
    const T *slopes;  // GELU's derivative at these is a factor
    int columns;
};

template <class T>
INLINE void multiply_into(const T *a, int rows, long room, const T *b, int depth, const float *bias, int panel, const Target<T> &to, float *lines) {
    Result result{to.slopes ? Store::gelu_map : to.wide ? Store::wide_map : Store::map};
    const int offset = panel * PANEL, columns = smaller_of(PANEL, to.columns - offset);
    result.bias = bias;
    if (columns == PANEL) {
        result.out = to.wide ? (void *)(to.wide + offset) : (void *)(to.narrow + offset);
        result.aux = to.slopes ? to.slopes + offset : nullptr;
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
        if (to.wide) narrow(line, columns, to.wide + at);
        else narrow(line, columns, to.narrow + at);
    }
}

template <class T> void linear_rows(const LinearJob &j, long first, int rows, const void *packed, const float *bias, char *scratch) {
    swk::Arena arena{scratch};
    T *operand = arena.take<T>((size_t)swk::panels_of(j.inputs) * rows * PANEL);
    float *lines = arena.take<float>((size_t)rows * PANEL);
    take_input(j, first, rows, operand, rows);
    const int depth = even<T>(j.inputs);
    const Target<T> to{(T *)j.y + first * j.outputs, nullptr, nullptr, j.outputs};
    for (int p = 0; p < swk::panels_of(j.outputs); p++)
        multiply_into(operand, rows, rows, (const T *)packed + (long)p * depth * PANEL, depth, bias + p * PANEL, p, to, lines);
}

// The backward pass takes a chunk of rows at a time. Its operands: [panels][room][32] of the gradient of y, and of x and y for the
// gradient of the weight, as pairs for bfloat16; for float the first and the last are one.
template <class T> void linear_pack(const LinearJob &j, const swk::Chunk &chunk, int from, int to, char *scratch) {
    const long first = chunk.first + from;
    const int rows = to - from;
    T *grad = (T *)chunk.grad + (long)from * PANEL;
    if (j.y_grad_wide) take_rows<T, false>((const float *)j.y_grad + first * j.outputs, rows, j.outputs, grad, chunk.room);
    else take_rows<T, false>((const T *)j.y_grad + first * j.outputs, rows, j.outputs, grad, chunk.room);
    if (sizeof(T) == sizeof(float)) {
        if (j.weight_grad) take_input(j, first, rows, (T *)chunk.x_pairs + (long)from * PANEL, chunk.room);
        return;
    }
    for (int p = 0; (j.weight_grad || j.bias_grad) && p < swk::panels_of(j.outputs); p++)
        as_pairs(grad + p * chunk.room * PANEL, rows, (T *)chunk.grad_pairs + (p * chunk.room + from) * PANEL);
    if (!j.weight_grad) return;
    swk::Arena arena{scratch};
    T *x = arena.take<T>((size_t)swk::panels_of(j.inputs) * rows * PANEL);
    take_input(j, first, rows, x, rows);
    for (int p = 0; p < swk::panels_of(j.inputs); p++)
        as_pairs(x + (long)p * rows * PANEL, rows, (T *)chunk.x_pairs + (p * chunk.room + from) * PANEL);
}

template <class T> void linear_input_grad(const LinearJob &j, const swk::Chunk &chunk, int from, int to, const void *packed, char *scratch) {
    swk::Arena arena{scratch};
    float *lines = arena.take<float>((size_t)(to - from) * PANEL);
    const long at = (chunk.first + from) * j.inputs;
    const int depth = even<T>(j.outputs);
    const Target<T> target{j.x_grad_wide ? nullptr : (T *)j.x_grad + at, j.x_grad_wide ? (float *)j.x_grad + at : nullptr,
                           j.gelu ? (const T *)j.x + at : nullptr, j.inputs};
    for (int p = 0; p < swk::panels_of(j.inputs); p++)
        multiply_into((const T *)chunk.grad + (long)from * PANEL, to - from, chunk.room, (const T *)packed + (long)p * depth * PANEL, depth,
                      nullptr, p, target, lines);
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

// Rows [panel * 32, ...) of the weight's gradient, and of the bias's.
template <class T> void linear_weight_grad(const LinearJob &j, const swk::Chunk &chunk, int panel) {
    const T *grad = (const T *)chunk.grad_pairs + panel * chunk.room * PANEL;
    const int count = smaller_of(PANEL, j.outputs - panel * PANEL), depth = even<T>(chunk.rows);
    const bool fresh = chunk.first == 0;
    for (int p = 0; j.weight_grad && p < swk::panels_of(j.inputs); p++) {
        const T *x = (const T *)chunk.x_pairs + p * chunk.room * PANEL;
        float *to = j.weight_grad + (long)panel * PANEL * j.inputs + p * PANEL;
        const int columns = smaller_of(PANEL, j.inputs - p * PANEL);
        if (columns == PANEL) {
            add_transposed(grad, count, x, depth, to, j.inputs, fresh);
            continue;
        }
        alignas(64) float block[PANEL * PANEL];
        add_transposed(grad, count, x, depth, block, PANEL, true);
        for (int r = 0; r < count; r++)
            for (int d = 0; d < columns; d++) to[(long)r * j.inputs + d] = (fresh ? 0.f : to[(long)r * j.inputs + d]) + block[r * PANEL + d];
    }
    if (j.bias_grad) {
        alignas(64) float sums[PANEL] = {};
        add_rows_of(grad, depth, sums);
        for (int d = 0; d < count; d++) j.bias_grad[panel * PANEL + d] = (fresh ? 0.f : j.bias_grad[panel * PANEL + d]) + sums[d];
    }
}

template <class T> size_t linear_scratch(const LinearJob &j, int rows) {
    swk::Arena rows_arena, weights;
    rows_arena.take<T>((size_t)swk::panels_of(j.inputs) * rows * PANEL);
    rows_arena.take<float>((size_t)rows * PANEL);
    weights.take<float>(PANEL * PANEL), weights.take<float>(PANEL * PANEL), weights.take<T>(PANEL * PANEL);
    return rows_arena.used > weights.used ? rows_arena.used : weights.used;
}

}  // namespace
