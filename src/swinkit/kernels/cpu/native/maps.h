// What surrounds the blocks: patch embedding, patch merging, the last norm, the average over the map and the classifier.
#pragma once
#include "gemm.h"
#include "kernels.h"
#include "norm.h"
#include "quantise.h"

namespace {

template <class T> struct RowsScratch {
    T *operand;    // [depth panel][rows][32]
    float *sum;    // [out panel][rows][32]
    float *line;   // [depth panel * 32]
    float *zeros;  // [depth panel * 32]
    float *scale;  // [rows]
    float **row;
};

template <class T> RowsScratch<T> lay_out_rows(swk::Arena &arena, int rows, int depth_panels, int out_panels) {
    RowsScratch<T> s;
    s.operand = arena.take<T>((size_t)depth_panels * rows * PANEL);
    s.sum = arena.take<float>((size_t)out_panels * rows * PANEL);
    s.line = arena.take<float>((size_t)(depth_panels + out_panels) * PANEL);
    s.zeros = arena.take<float>((size_t)depth_panels * PANEL);
    s.scale = arena.take<float>(rows);
    s.row = arena.take<float *>(rows);
    return s;
}

template <class T> size_t rows_scratch(int rows, int depth_panels, int out_panels) {
    swk::Arena arena;
    lay_out_rows<T>(arena, rows, depth_panels, out_panels);
    return arena.used;
}

// The pixels of one patch, in the order of the convolution's weight; what lies beyond the image is zero.
INLINE void read_patch(const swk::Embed &embed, const swk_job &job, int image, int y, int x, float *line) {
    const int height = smaller_of(embed.patch_h, job.height - y * embed.patch_h), width = smaller_of(embed.patch_w, job.width - x * embed.patch_w);
    const bool whole = height == embed.patch_h && width == embed.patch_w;
    if (!whole) __builtin_memset(line, 0, sizeof(float) * embed.in_chans * embed.patch_h * embed.patch_w);
    for (int c = 0; c < embed.in_chans; c++)
        for (int i = 0; i < height; i++) {
            const float *from =
                job.pixels + (((long)image * embed.in_chans + c) * job.height + y * embed.patch_h + i) * job.width + (long)x * embed.patch_w;
            float *to = line + (c * embed.patch_h + i) * embed.patch_w;
            if (width == 4) __builtin_memcpy(to, from, 4 * sizeof(float));
            else __builtin_memcpy(to, from, width * sizeof(float));
        }
}

template <class T> void embed(const swk::Embed &embed, const swk_job &job, const swk::Grid &grid, long first, int rows, float *map, char *scratch) {
    swk::Arena arena{scratch};
    const int panels = swk::panels_of(embed.project.depth), out = embed.project.panels;
    RowsScratch<T> s = lay_out_rows<T>(arena, rows, panels, out);
    const long panel = (long)rows * PANEL, per_image = (long)grid.height * grid.width;
    __builtin_memset(s.line, 0, sizeof(float) * panels * PANEL);
    for (int r = 0; r < rows; r++) {
        const long token = first + r;
        read_patch(embed, job, (int)(token / per_image), (int)(token % per_image / grid.width), (int)(token % grid.width), s.line);
        copy_row(s.line, PANEL, panels, s.operand + r * PANEL, panel);
    }
    for (int p = 0; p < out; p++) {
        Result result{Store::floats};
        result.out = s.sum + p * panel;
        layer(embed.project, p, 1, s.operand, rows, panel, result);
    }
    for (int r = 0; r < rows; r++) {
        const float *position = job.position ? job.position + (first + r) % per_image * grid.stride : nullptr;
        float *to = map + (first + r) * grid.stride;
        if (embed.normed) {
            normalise_onto(row_of(s.sum + r * PANEL, panel, embed.channels), embed.norm, position, PANEL, to, PANEL);
        } else {
            copy_row(s.sum + r * PANEL, panel, out, to, PANEL);
            for (int c = 0; position && c < grid.stride; c++) to[c] += position[c];
        }
    }
}

// The four tokens that become one, columns outside and rows inside as the originals have them; beyond the map are zeros.
INLINE Row neighbours(const swk::Grid &in, const float *map, const float *zeros, long token, int channels) {
    const int height = (in.height + 1) / 2, width = (in.width + 1) / 2;
    const int image = (int)(token / ((long)height * width)), y = (int)(token / width % height) * 2, x = (int)(token % width) * 2;
    Row row{{}, 4, PANEL, channels};
    for (int i = 0; i < 4; i++) {
        const int yy = y + i % 2, xx = x + i / 2;
        const bool there = yy < in.height && xx < in.width;
        row.piece[i] = there ? map + (((long)image * in.height + yy) * in.width + xx) * in.stride : zeros;
    }
    return row;
}

template <class T> void merge(const swk::Merge &merge, const swk::Grid &in, const float *map, long first, int rows, float *out, char *scratch) {
    swk::Arena arena{scratch};
    const int panels = swk::panels_of(merge.channels), columns = merge.reduce.panels;
    RowsScratch<T> s = lay_out_rows<T>(arena, rows, 4 * panels, columns);
    const long panel = (long)rows * PANEL, stride = (long)columns * PANEL;
    __builtin_memset(s.zeros, 0, sizeof(float) * panels * PANEL);
    for (int r = 0; r < rows; r++) {
        const Row row = neighbours(in, map, s.zeros, first + r, merge.channels);
        s.row[r] = out + (first + r) * stride;
        if (merge.version == 1) normalise(row, s.operand + r * PANEL, panel, s.scale + r);
        else take_row(row, s.operand + r * PANEL, panel, s.scale + r);
    }
    for (int p = 0; p < columns; p++) {
        Result result{merge.version == 1 ? Store::scatter : Store::floats};
        result.out = s.sum + p * panel;
        result.rows = s.row;
        result.offset = p * PANEL;
        result.row_scale = s.scale;
        layer(merge.reduce, p, 1, s.operand, rows, panel, result);
    }
    for (int r = 0; merge.version == 2 && r < rows; r++)
        normalise_onto(row_of(s.sum + r * PANEL, panel, 2 * merge.channels), merge.norm, nullptr, 0, s.row[r], PANEL);
}

void features(const swk::Head &head, const swk::Grid &grid, const float *map, long first, int rows, float *out, char *scratch) {
    swk::Arena arena{scratch};
    float *line = arena.take<float>(grid.stride);
    for (long token = first; token < first + rows; token++) {
        normalise_onto(row_of(map + token * grid.stride, PANEL, head.channels), head.norm, nullptr, 0, line, PANEL);
        __builtin_memcpy(out + token * head.channels, line, sizeof(float) * head.channels);
    }
}

// The average of an image's normalised tokens, as the classifier's operand (without the norm's weight) and as pooled features (with it).
template <class T>
void pool(const swk::Head &head, const swk::Grid &grid, const float *map, int image, void *operand, int images, float *out, char *scratch) {
    swk::Arena arena{scratch};
    const int panels = swk::panels_of(head.channels), width = panels * PANEL;
    float *total = arena.take<float>(width), *line = arena.take<float>(width);
    __builtin_memset(total, 0, sizeof(float) * width);
    const long tokens = (long)grid.height * grid.width;
    for (long t = 0; t < tokens; t++) {
        normalise(row_of(map + (image * tokens + t) * grid.stride, PANEL, head.channels), line, PANEL);
        for (int c = 0; c < width; c += LANES) store(total + c, load(total + c) + load(line + c));
    }
    const float *weight = head.norm.weight.as<float>(), *bias = head.norm.bias.as<float>();
    for (int c = 0; c < width; c++) total[c] /= tokens;
    if (operand) copy_row(total, PANEL, panels, (T *)operand + image * PANEL, (long)images * PANEL);
    for (int c = 0; out && c < head.channels; c++) out[(long)image * head.channels + c] = total[c] * weight[c] + bias[c];
}

template <class T> void classify(const swk::Head &head, const void *operand, int images, int panel, float *out, char *scratch) {
    swk::Arena arena{scratch};
    float *sums = arena.take<float>((size_t)images * PANEL);
    Result result{Store::floats};
    result.out = sums;
    layer(head.linear, panel, 1, (const T *)operand, images, (long)images * PANEL, result);
    const int columns = smaller_of(PANEL, head.classes - panel * PANEL);
    for (int i = 0; i < images; i++)
        __builtin_memcpy(out + (long)i * head.classes + panel * PANEL, sums + i * PANEL, sizeof(float) * columns);
}

template <class T> void multiply_panel(const void *operand, int rows, const void *weight, int depth, float *out) {
    alignas(64) static const float zeros[PANEL] = {};
    Result result{Store::floats};
    result.out = out;
    result.row_scale = result.column_scale = zeros, result.start = (const int *)zeros;
    product((const T *)operand, rows, (long)rows * PANEL, (const T *)weight, depth, result);
}

}  // namespace
