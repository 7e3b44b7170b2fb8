// Layer normalisation of rows that lie in panels: one row is 32 floats every `stride` floats.
#pragma once
#include "element.h"

namespace {

constexpr float EPSILON = 1e-5f;

// Ones for the channels of a panel that exist.
INLINE const float *existing(int channels) {
    alignas(64) static const float ones_then_zeros[2 * PANEL] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                                                 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    return ones_then_zeros + PANEL - channels;
}

// A row in pieces: `pieces` runs of `panels` panels each, as patch merging has them; usually one.
struct Row {
    const float *piece[4];
    int pieces;
    long stride;
    int channels;  // of one piece
};

INLINE Row row_of(const float *from, long stride, int channels) { return {{from}, 1, stride, channels}; }

struct Statistics {
    float mean, inverse;
};

// Two passes, so that a large mean costs no accuracy.
INLINE Statistics statistics(const Row &row) {
    const int panels = (row.channels + PANEL - 1) / PANEL, last = row.channels - (panels - 1) * PANEL;
    const float count = (float)row.channels * row.pieces;
    Vec total[VECS];
    for (int v = 0; v < VECS; v++) total[v] = set1(0.f);
    for (int i = 0; i < row.pieces; i++)
        for (int p = 0; p < panels; p++)
            for (int v = 0; v < VECS; v++) total[v] += load(row.piece[i] + p * row.stride + v * LANES);
    for (int v = 1; v < VECS; v++) total[0] += total[v];
    const float mean = sum(total[0]) / count;
    const Vec m = set1(mean);
    for (int v = 0; v < VECS; v++) total[v] = set1(0.f);
    for (int i = 0; i < row.pieces; i++) {
        for (int p = 0; p < panels - 1; p++)
            for (int v = 0; v < VECS; v++) {
                const Vec d = load(row.piece[i] + p * row.stride + v * LANES) - m;
                total[v] = fma(d, d, total[v]);
            }
        for (int v = 0; v < VECS; v++) {
            const Vec d = (load(row.piece[i] + (panels - 1) * row.stride + v * LANES) - m) * load(existing(last) + v * LANES);
            total[v] = fma(d, d, total[v]);
        }
    }
    for (int v = 1; v < VECS; v++) total[0] += total[v];
    return {mean, 1.f / sqrtf(sum(total[0]) / count + EPSILON)};
}

// to = (row - mean) / deviation, without the affine part, which the next linear layer holds. Padded channels get values too; the
// weights that meet them are zero.
template <class T> INLINE void normalise(const Row &row, T *to, long to_stride, float * = nullptr) {
    const Statistics s = statistics(row);
    const Vec scale = set1(s.inverse), shift = set1(-s.mean * s.inverse);
    const int panels = (row.channels + PANEL - 1) / PANEL;
    for (int i = 0; i < row.pieces; i++)
        for (int p = 0; p < panels; p++, to += to_stride)
            for (int v = 0; v < VECS; v += COLS) {
                Vec x[COLS];
                for (int c = 0; c < COLS; c++) x[c] = fma(load(row.piece[i] + p * row.stride + (v + c) * LANES), scale, shift);
                put(to + v * LANES, x);
            }
}

// to = residual + weight * (row - mean) / deviation + bias; residual may be null. Padded channels come out as the residual's.
INLINE void normalise_onto(const Row &row, const swk::Norm &norm, const float *residual, long residual_stride, float *to, long to_stride) {
    const Statistics s = statistics(row);
    const Vec scale = set1(s.inverse), shift = set1(-s.mean * s.inverse);
    const float *weight = norm.weight.as<float>(), *bias = norm.bias.as<float>();
    const int panels = (row.channels + PANEL - 1) / PANEL;
    for (int p = 0; p < panels; p++)
        for (int v = 0; v < PANEL; v += LANES) {
            Vec x = fma(load(row.piece[0] + p * row.stride + v), scale, shift);
            x = fma(x, load(weight + p * PANEL + v), load(bias + p * PANEL + v));
            if (residual) x += load(residual + p * residual_stride + v);
            store(to + p * to_stride + v, x);
        }
}

// A row as an operand, whose `scale` is needed for int8 only.
template <class T> INLINE void copy_row(const float *from, long stride, int panels, T *to, long to_stride) {
    for (int p = 0; p < panels; p++) put(to + p * to_stride, from + p * stride);
}

template <class T> INLINE void take_row(const Row &row, T *to, long to_stride, float *) {
    const int panels = (row.channels + PANEL - 1) / PANEL;
    for (int i = 0; i < row.pieces; i++) copy_row(row.piece[i], row.stride, panels, to + i * panels * to_stride, to_stride);
}

}  // namespace
