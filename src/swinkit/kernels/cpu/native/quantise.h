// Rows as int8 operands: their largest size gives the scale. Compiled where the instruction set has the dot product, and nothing elsewhere.
//
// A row with a NaN or an infinity in it gets a scale that is one, whatever its integers are: all its results are not finite.
#pragma once
#include "norm.h"

#ifdef SWK_VNNI
namespace {

constexpr float TINY = 1e-30f;   // rows of zeros have a scale too, whose inverse is finite
constexpr __mmask16 ALL = 0xffff;  // masked forms, because those without one look uninitialised to some versions of g++
constexpr float STEPS = 127.f;   // to each side of the middle

INLINE float as_float(unsigned bits) {
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

// As integers, sizes of floats are in order, and NaN is the largest.
INLINE __m512i larger_size(__m512i most, Vec x) {
    return _mm512_maskz_max_epu32(ALL, most, _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)));
}

INLINE float not_tiny(float x) { return x < TINY ? TINY : x; }  // NaN stays

// The largest |x - mean| of the channels that exist.
INLINE float largest_size(const Row &row, float mean) {
    const int panels = (row.channels + PANEL - 1) / PANEL, last = row.channels - (panels - 1) * PANEL;
    const Vec m = set1(mean);
    __m512i most = _mm512_setzero_si512();
    for (int i = 0; i < row.pieces; i++)
        for (int p = 0; p < panels; p++)
            for (int v = 0; v < PANEL; v += LANES) {
                const Vec d = load(row.piece[i] + p * row.stride + v) - m;
                most = larger_size(most, p < panels - 1 ? d : d * load(existing(last) + v));
            }
    return as_float(_mm512_reduce_max_epu32(most));
}

// to = round((row - mean) * 127 / largest) + 128. Padded channels get anything; the weights that meet them are zero.
INLINE float quantise(const Row &row, float mean, u8 *to, long to_stride) {
    const float most = not_tiny(largest_size(row, mean)), factor = STEPS / most;
    const Vec scale = set1(factor), shift = set1(swk::MIDDLE - mean * factor);
    const int panels = (row.channels + PANEL - 1) / PANEL;
    for (int i = 0; i < row.pieces; i++)
        for (int p = 0; p < panels; p++, to += to_stride)
            for (int v = 0; v < PANEL; v += LANES) {
                const __m512i whole = _mm512_maskz_cvtps_epi32(ALL, fma(load(row.piece[i] + p * row.stride + v), scale, shift));
                _mm_storeu_si128((__m128i *)(to + v), _mm512_maskz_cvtepi32_epi8(ALL, whole));
            }
    return most / STEPS;
}

INLINE void normalise(const Row &row, u8 *to, long to_stride, float *scale) {
    const Statistics s = statistics(row);
    *scale = quantise(row, s.mean, to, to_stride) * s.inverse;
}
INLINE void take_row(const Row &row, u8 *to, long to_stride, float *scale) { *scale = quantise(row, 0.f, to, to_stride); }

// One row of [panels][stride / 32][32]: u = round(x * factor + shift).
INLINE void narrow(const bf16 *from, int panels, long stride, float factor, float shift, u8 *to) {
    const Vec scale = set1(factor), start = set1(shift);
    const __m512i upper = _mm512_set1_epi32(0xffff0000);
    for (int p = 0; p < panels; p++, from += stride, to += stride) {
        const __m512i x = _mm512_loadu_si512(from);
        const __m512i even = _mm512_maskz_cvtps_epi32(ALL, fma(_mm512_castsi512_ps(_mm512_maskz_slli_epi32(ALL, x, 16)), scale, start));
        const __m512i odd = _mm512_maskz_cvtps_epi32(ALL, fma(_mm512_castsi512_ps(_mm512_and_si512(x, upper)), scale, start));
        _mm256_storeu_si256((__m256i *)to, _mm512_maskz_cvtepi32_epi16(ALL, _mm512_or_si512(even, _mm512_maskz_slli_epi32(ALL, odd, 8))));
    }
}

INLINE float largest_size(const bf16 *from, int panels, long stride) {
    const __m512i size = _mm512_set1_epi16(0x7fff);
    __m512i most = _mm512_setzero_si512();
    for (int p = 0; p < panels; p++, from += stride) most = _mm512_max_epu16(most, _mm512_and_si512(_mm512_loadu_si512(from), size));
    const __m512i low = _mm512_maskz_slli_epi32(ALL, most, 16), high = _mm512_and_si512(most, _mm512_set1_epi32(0xffff0000));
    return as_float(_mm512_reduce_max_epu32(_mm512_maskz_max_epu32(ALL, low, high)));
}

void copy_attended(const swk::Block &block, swk::Tile &tile, int from, int to) {
    const int panels = block.heads.groups * block.heads.panels;
    const long panel = (long)tile.rows * PANEL;
    for (int r = from; r < to; r++) {
        const bf16 *row = (const bf16 *)tile.attended + r * PANEL;
        const float most = not_tiny(largest_size(row, panels, panel));
        narrow(row, panels, panel, STEPS / most, swk::MIDDLE, (u8 *)tile.projected + r * PANEL);
        tile.copied_scale[r] = most / STEPS;
    }
}

void copy_hidden(swk::Tile &tile, int panels, int from, int to) {
    const long panel = (long)tile.rows * PANEL;
    float *scale = tile.copied_scale;
    for (int p = 0; p < panels; p += swk::HIDDEN_PANELS, scale += tile.rows)
        for (int r = from; r < to; r++) {
            const int count = smaller_of(panels - p, swk::HIDDEN_PANELS);
            const bf16 *row = (const bf16 *)tile.hidden + p * panel + r * PANEL;
            const float range = largest_size(row, count, panel) + swk::GELU_OFFSET, factor = 255.f / range;
            narrow(row, count, panel, factor, swk::GELU_OFFSET * factor, (u8 *)tile.contracted + p * panel + r * PANEL);
            scale[r] = range / 255.f;
        }
}

}  // namespace
#endif
