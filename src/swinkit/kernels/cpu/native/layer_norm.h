// LayerNorm of training: y = weight * (x - mean) / deviation + bias over the channels of each row, and its gradients.
#pragma once
#include "norm.h"

namespace {

using swk::NormJob;

constexpr int STEP = COLS * LANES;  // channels that are written at a time

// Two passes, so that a large mean costs no accuracy.
template <class T> INLINE Statistics moments(const T *x, int channels, float epsilon) {
    Vec total[COLS], square[COLS];
    for (int v = 0; v < COLS; v++) total[v] = square[v] = set1(0.f);
    for (int c = 0; c < channels; c += STEP)
        for (int v = 0; v < COLS; v++) total[v] += load(x + c + v * LANES);
    for (int v = 1; v < COLS; v++) total[0] += total[v];
    const float mean = sum(total[0]) / channels;
    const Vec m = set1(mean);
    for (int c = 0; c < channels; c += STEP)
        for (int v = 0; v < COLS; v++) {
            const Vec d = load(x + c + v * LANES) - m;
            square[v] = fma(d, d, square[v]);
        }
    for (int v = 1; v < COLS; v++) square[0] += square[v];
    const float variance = sum(square[0]) / channels;
    return {mean, 1.f / sqrtf(variance + epsilon) + (variance - variance)};  // NaN where the variance is not finite
}

template <class T> void norm_rows(const NormJob &j, long first, int rows) {
    const T *x = (const T *)j.x + first * j.channels;
    T *y = (T *)j.y + first * j.channels;
    for (int r = 0; r < rows; r++, x += j.channels, y += j.channels) {
        const Statistics s = moments(x, j.channels, j.epsilon);
        const Vec mean = set1(s.mean), inverse = set1(s.inverse);
        for (int c = 0; c < j.channels; c += STEP) {
            Vec out[COLS];
            for (int v = 0; v < COLS; v++)
                out[v] = fma((load(x + c + v * LANES) - mean) * inverse, load(j.weight + c + v * LANES), load(j.bias + c + v * LANES));
            put(y + c, out);
        }
    }
}

// One row's gradient, added to what `passed` holds, if anything; g = y_grad * weight, n = (x - mean) / deviation: x_grad = (g - mean(g) - n * mean(g * n)) / deviation. What it adds
// to those of weight and bias goes to `sums`, [2][channels].
template <class T> INLINE void norm_row_back(const NormJob &j, const T *x, const T *y_grad, const T *passed, T *x_grad, float *sums) {
    const Statistics s = moments(x, j.channels, j.epsilon);
    const Vec mean = set1(s.mean), inverse = set1(s.inverse);
    Vec plain = set1(0.f), crossed = set1(0.f);
    for (int c = 0; c < j.channels; c += LANES) {
        const Vec n = (load(x + c) - mean) * inverse, grad = load(y_grad + c), g = grad * load(j.weight + c);
        plain += g, crossed = fma(g, n, crossed);
        store(sums + c, fma(grad, n, load(sums + c)));
        store(sums + j.channels + c, load(sums + j.channels + c) + grad);
    }
    const Vec a = set1(sum(plain) / j.channels), b = set1(sum(crossed) / j.channels);
    for (int c = 0; c < j.channels; c += STEP) {
        Vec out[COLS];
        for (int v = 0; v < COLS; v++) {
            const int at = c + v * LANES;
            const Vec n = (load(x + at) - mean) * inverse;
            out[v] = (load(y_grad + at) * load(j.weight + at) - a - n * b) * inverse;
            if (passed) out[v] += load(passed + at);
        }
        put(x_grad + c, out);
    }
}

template <class T> void norm_rows_back(const NormJob &j, long first, int rows, float *sums) {
    for (int c = 0; c < 2 * j.channels; c++) sums[c] = 0.f;
    for (long at = first * j.channels; rows > 0; rows--, at += j.channels)
        norm_row_back(j, (const T *)j.x + at, (const T *)j.y_grad + at, j.passed ? (const T *)j.passed + at : nullptr, (T *)j.x_grad + at, sums);
}

}  // namespace
