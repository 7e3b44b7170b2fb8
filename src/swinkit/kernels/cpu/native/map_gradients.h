// The backward pass of map_attention.h.
//
//     P = softmax(S)    dP = dO V^T    dS = P * (dP - rowsum(P * dP))    dQ = scale dS K    dK = scale dS^T Q    dV = P^T dO
#pragma once
#include "map_attention.h"

namespace {

INLINE float dot(const float *a, const float *b, int panels) {
    Vec total = set1(0.f);
    for (int d = 0; d < panels * PANEL; d += LANES) total = fma(load(a + d), load(b + d), total);
    return sum(total);
}

// The gradient of the output for each query, and the sums of the softmax.
template <class T> INLINE void take_output(const Attention &a, int head, MapScratch<T> &s) {
    for (int r = 0; r < s.rows; r++) {
        const long at = s.token[s.place[r]] * a.job.heads + head;
        take_channels((const T *)a.job.out_grad + at * a.job.dim, a.job.dim, a.panels, false, s.line, s.grad + r * PANEL, s.panel);
        s.lse[r] = a.job.lse[at];
    }
}

// One row of scores becomes its weights, in place; returns the sum of their products with their gradients.
template <class T> INLINE float to_weights(float *scores, const float *grads, long stride, int keys, const float *bias, const float *mask, Vec lse) {
    Vec total[COLS];
#pragma GCC unroll 4
    for (int c = 0; c < COLS; c++) total[c] = set1(0.f);
    for (int key = 0; key < keys; key += COLS * LANES) {
        const long at = key / PANEL * stride + key % PANEL;
#pragma GCC unroll 4
        for (int c = 0; c < COLS; c++) {
            Vec x = load(scores + at + c * LANES) + load(bias + key + c * LANES);
            if (mask) x += load(mask + key + c * LANES);
            const Vec weight = exp2<T>(x - lse);
            total[c] = fma(weight, load(grads + at + c * LANES), total[c]);
            store(scores + at + c * LANES, weight);
        }
    }
    for (int c = 1; c < COLS; c++) total[0] += total[c];
    return sum(total[0]);
}

// From scores and gradients of weights to weights and gradients of scores, which are those of the bias as well.
template <class T> INLINE void to_score_gradients(const Attention &a, int head, int row, int rows, float *bias_grad, MapScratch<T> &s) {
    const RowTables tables = tables_of(a, head, row, s);
    for (int r = 0; r < rows; r++) {
        const int token = tables.place ? tables.place[r] : r;
        const float *bias = tables.bias + token * tables.stride;
        const float *mask = tables.side ? tables.masks + tables.side[token] * tables.stride : nullptr;
        float *sums = bias_grad + ((long)head * a.shape.tokens + s.place[row + r]) * a.shape.keys;
        const Vec delta = set1(to_weights<T>(s.scores + r * PANEL, s.weight_grads + r * PANEL, s.stride, a.shape.keys, bias, mask, set1(s.lse[row + r])));
        for (int key = 0; key < a.shape.keys; key += COLS * LANES) {
            const long at = key / PANEL * s.stride + r * PANEL + key % PANEL;
            Vec weight[COLS], grad[COLS];
#pragma GCC unroll 4
            for (int c = 0; c < COLS; c++) {
                weight[c] = load(s.scores + at + c * LANES);
                grad[c] = weight[c] * (load(s.weight_grads + at + c * LANES) - delta);
                store(sums + key + c * LANES, load(sums + key + c * LANES) + grad[c]);
            }
            if (sizeof(T) != sizeof(float)) put(s.weights + at, weight);  // otherwise they are the scores, in place
            put(s.score_grads + at, grad);
        }
    }
}

// Rows of q from their sums, for one query.
template <class T> INLINE void finish_query(const Attention &a, int head, int row, int r, const AttentionGradients &grads, MapScratch<T> &s) {
    const int dim = a.job.dim, panels = a.panels;
    const long token = s.token[s.place[row + r]], at = offset_of(a, token, 0, head);
    if (!a.job.cosine && !grads.scale && dim == PANEL)
        return spread_scaled(s.q_sum + r * PANEL, set1(a.job.scale[head]), 1, (T *)a.job.qkv_grad + at, 0);
    for (int p = 0; p < panels; p++) put(s.line + p * PANEL, s.q_sum + p * s.stride + r * PANEL);
    float inverse = 1;
    if (a.job.cosine || grads.scale) widen((const T *)a.job.qkv + at, dim, panels, s.unit);
    if (a.job.cosine) inverse = to_unit(s.unit, panels);
    if (grads.scale) grads.scale[head] += dot(s.unit, s.line, panels);
    for (int d = 0; d < panels * PANEL; d += LANES) store(s.line + d, load(s.line + d) * set1(a.job.scale[head]));
    if (a.job.cosine) from_unit(s.unit, inverse, panels, s.line);
    narrow(s.line, dim, (T *)a.job.qkv_grad + at);
}

// Rows of k (part 1) or v (part 2) from their sums: to the map, or to the gradient of the padding.
template <class T> INLINE void finish_keys(const Attention &a, int head, int part, const AttentionGradients &grads, MapScratch<T> &s) {
    const int dim = a.job.dim, panels = a.panels;
    const float *sums = part == 1 ? s.k_sum : s.v_sum;
    const Vec factor = set1(part == 1 ? LN_2 : 1.f);  // the queries were multiplied by log2 e
    for (int t = 0; t < a.shape.tokens; t++) {
        const long token = s.token[t];
        if (token >= 0 && dim == PANEL && !(a.job.cosine && part == 1)) {
            spread_scaled(sums + t * PANEL, factor, 1, (T *)a.job.qkv_grad + offset_of(a, token, part, head), 0);
            continue;
        }
        for (int d = 0; d < panels * PANEL; d += LANES)
            store(s.line + d, load(sums + ((long)(d / PANEL) * a.shape.keys + t) * PANEL + d % PANEL) * factor);
        if (a.job.cosine && part == 1) {
            if (token < 0) widen(padding_of(a, part, head), dim, panels, s.unit);
            else widen((const T *)a.job.qkv + offset_of(a, token, part, head), dim, panels, s.unit);
            const float inverse = to_unit(s.unit, panels);
            from_unit(s.unit, inverse, panels, s.line);
        }
        if (token >= 0) {
            narrow(s.line, dim, (T *)a.job.qkv_grad + offset_of(a, token, part, head));
        } else {
            float *pad = grads.pad + ((long)part * a.job.heads + head) * dim;
            for (int d = 0; d < dim; d++) pad[d] += s.line[d];
        }
    }
}

// Gradients of keys and values of one head, from some of the queries.
template <class T> INLINE void add_keys(const Attention &a, int row, int rows, MapScratch<T> &s) {
    const bool fresh = row == 0;
    const int panels = a.panels, keys = a.shape.keys, depth = even<T>(rows);
    const T *scores = paired(s.score_grads, rows, s.stride, keys / PANEL, s.score_pairs, s.stride);
    const T *weights = paired(s.weights, rows, s.stride, keys / PANEL, s.weight_pairs, s.stride);
    const T *q = paired(s.q + row * PANEL, rows, s.panel, panels, s.q_pairs, s.stride);
    const T *grad = paired(s.grad + row * PANEL, rows, s.panel, panels, s.grad_pairs, s.stride);
    const long panel = sizeof(T) == sizeof(float) ? s.panel : s.stride;
    for (int key = 0; key < a.shape.tokens; key += PANEL) {
        const int count = smaller_of(PANEL, a.shape.tokens - key);
        const long from = key / PANEL * s.stride;
        for (int p = 0; p < panels; p++) {
            const long to = ((long)p * keys + key) * PANEL;
            add_transposed(scores + from, count, q + p * panel, depth, s.k_sum + to, PANEL, fresh);
            add_transposed(weights + from, count, grad + p * panel, depth, s.v_sum + to, PANEL, fresh);
        }
    }
}

template <class T> void attend_backward(const Attention &a, int head, const AttentionGradients &grads, MapScratch<T> &s) {
    take_head(a, head, s);
    take_output(a, head, s);
    as_columns(a, s.k, s.keys, s);
    as_columns(a, s.v, s.value_keys, s);
    const T *keys = paired(s.k, a.shape.tokens, s.panel, a.panels, s.pairs, s.panel);
    for (int row = 0; row < s.rows; row += s.chunk) {
        const int rows = smaller_of(s.chunk, s.rows - row);
        multiply_columns(a, s.q + row * PANEL, rows, s.keys, s.scores, s);
        multiply_columns(a, s.grad + row * PANEL, rows, s.value_keys, s.weight_grads, s);
        to_score_gradients(a, head, row, rows, grads.bias, s);
        for (int p = 0; p < a.panels; p++) {
            Result to{Store::floats};
            to.out = s.q_sum + p * s.stride;
            product(s.score_grads, rows, s.stride, keys + p * s.panel, even<T>(a.shape.tokens), to);
        }
        for (int r = 0; r < rows; r++) finish_query(a, head, row, r, grads, s);
        add_keys(a, row, rows, s);
    }
    for (int part = 1; part < 3; part++) finish_keys(a, head, part, grads, s);
}

template <class T>
void map_backward(const Attention &a, long window, int from, int to, const AttentionGradients &grads, char *scratch) {
    swk::Arena arena{scratch};
    MapScratch<T> s = lay_out_map<T>(arena, a, true);
    find_window(a, window, s);
    fetch_head(a, from, true, s);
    for (int head = from; head < to; head++) {
        if (head + 1 < to) fetch_head(a, head + 1, true, s);
        attend_backward(a, head, grads, s);
    }
}

}  // namespace
