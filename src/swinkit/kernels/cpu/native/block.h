// The steps of a block on a tile of windows.
#pragma once
#include "attention.h"
#include "norm.h"
#include "quantise.h"

namespace {

using swk::Block;
using swk::Tile;
using swk::Window;

INLINE void gather_window(const Block &block, const Windows &windows, long index, float *map, Tile &tile, Window &window) {
    int *place = tile.places + tile.rows;
    window.first = tile.rows;
    each_token(block, windows, index, [&](int where, long token) {
        tile.places[tile.rows] = where;
        tile.row[tile.rows++] = map + token * windows.grid.stride;
    });
    window.real = tile.rows - window.first;
    window.place = window.real == block.tokens ? nullptr : place;
    window.seam = seam_of(windows, index);
}

void gather(const Block &block, const Windows &windows, long first, int count, float *map, Tile &tile) {
    tile.rows = 0;
    tile.windows = count;
    for (int w = 0; w < count; w++) gather_window(block, windows, first + w, map, tile, tile.window[w]);
}

template <class T> void enter(const Block &block, Tile &tile, int from, int to) {
    const long panel = (long)tile.rows * PANEL;
    for (int r = from; r < to; r++) {
        T *out = (T *)tile.operand + r * PANEL;
        const Row row = row_of(tile.row[r], PANEL, block.channels);
        if (block.version == 1) normalise(row, out, panel, tile.scale + r);
        else take_row(row, out, panel, tile.scale + r);
    }
}

// k or v of a whole window: the tile's rows, or, where the window is padded, a copy with the padding's values between them.
template <class T>
INLINE const T *whole_window(const Block &block, const Tile &tile, const Window &window, const T *rows, const float *padding, T *copy) {
    if (!window.place) return rows + (long)window.first * PANEL;
    for (int p = 0; p < block.heads.panels; p++) {
        T *to = copy + (long)p * block.tokens * PANEL;
        const T *from = rows + ((long)p * tile.rows + window.first) * PANEL;
        for (int t = 0; t < block.tokens; t++) put(to + t * PANEL, padding + p * PANEL);
        for (int r = 0; r < window.real; r++)
            for (int d = 0; d < PANEL; d++) to[window.place[r] * PANEL + d] = from[r * PANEL + d];
    }
    return copy;
}

template <class T> struct HeadWork {
    const T *keys_from, *values;  // of the window: [panels][...][32]
    long key_panel, value_panel;  // from one panel to the next
    const unsigned char *side;
    const float *masks;
};

template <class T>
INLINE void attend_head(const Block &block, const Tile &tile, const Window &window, int head, const HeadWork<T> &work, AttentionScratch<T> &s) {
    const swk::Heads &heads = block.heads;
    const int within = head % heads.per_group * heads.dim, group = head / heads.per_group;
    const bool shared = heads.per_group > 1;
    const int depth = shared ? heads.dim : heads.panels * PANEL, panels = block.keys / PANEL;
    const int values = sizeof(T) == sizeof(float) ? block.tokens : (block.tokens + 1) / 2 * 2;
    for (int p = 0; p < heads.panels; p++)
        transpose_keys(work.keys_from + p * work.key_panel + within, block.tokens, block.keys, smaller_of(depth, PANEL), depth,
                       s.keys + (long)p * PANEL * PANEL, s.block);
    const float *bias = block.position.as<float>() + (long)head * block.tokens * block.keys;
    const long panel = (long)tile.rows * PANEL;
    for (int row = 0; row < window.real; row += s.chunk) {
        const int rows = smaller_of(s.chunk, window.real - row), first = window.first + row, token = window.place ? 0 : row;
        for (int p = 0; p < panels; p++) {
            Result to{Store::floats};
            to.out = s.scores + p * s.stride;
            product(s.q + (long)first * PANEL + within, rows, panel, s.keys + (long)p * depth * PANEL, depth, to);
        }
        const RowTables tables{bias + (long)token * block.keys, block.keys, window.place ? window.place + row : nullptr, work.masks,
                               work.side ? work.side + token : nullptr};
        const Scores<T> scores{s.scores, s.weights, s.stride, panels, s.inverse};
        panels == 2 ? softmax<T, 2>(scores, rows, tables) : softmax<T, 0>(scores, rows, tables);
        for (int p = 0; p < heads.panels; p++) {
            T *out = (T *)tile.attended + ((long)(group * heads.panels + p) * tile.rows + first) * PANEL;
            Result to{Store::scaled};
            to.out = shared ? s.narrow : out;
            to.aux = s.inverse;
            product(s.weights, rows, s.stride, work.values + p * work.value_panel, values, to);
            for (int r = 0; shared && r < rows; r++)
                for (int d = within; d < within + heads.dim; d++) out[r * PANEL + d] = s.narrow[r * PANEL + d];
        }
    }
}

// One group of heads in one window.
template <class T>
INLINE void attend_window(const Block &block, Tile &tile, const Window &window, int group, HeadWork<T> work, AttentionScratch<T> &s) {
    const swk::Heads &heads = block.heads;
    const int offset = group * heads.panels * PANEL;
    work.keys_from = whole_window(block, tile, window, s.k, block.padded_key.as<float>() + offset, s.window_k);
    const T *values = whole_window(block, tile, window, s.v, block.padded_value.as<float>() + offset, s.window_v);
    work.key_panel = (long)(window.place ? block.tokens : tile.rows) * PANEL;
    const bool pairs = sizeof(T) != sizeof(float);
    for (int p = 0; p < heads.panels; p++) {
        const T *packed = as_pairs(values + p * work.key_panel, block.tokens, s.values + (long)p * (block.tokens + 1) * PANEL);
        if (p == 0) work.values = packed;
    }
    work.value_panel = pairs ? (long)(block.tokens + 1) * PANEL : work.key_panel;
    for (int head = group * heads.per_group; head < smaller_of((group + 1) * heads.per_group, heads.count); head++)
        attend_head(block, tile, window, head, work, s);
}

// Heads that would fill up the last group: zeros, so that what scratch holds cannot meet the zeros of the weights as NaN.
template <class T> INLINE void clear_absent(const Block &block, Tile &tile, int group) {
    const swk::Heads &heads = block.heads;
    const int absent = (group + 1) * heads.per_group - heads.count;
    for (int r = 0; absent > 0 && r < tile.rows; r++)
        for (int d = (heads.per_group - absent) * heads.dim; d < PANEL; d++)
            ((T *)tile.attended)[((long)group * tile.rows + r) * PANEL + d] = (T)0;
}

template <class T, class Q> void attend(const Block &block, Tile &tile, const Windows &windows, int from, int to, char *scratch) {
    swk::Arena arena{scratch};
    AttentionScratch<T> s = lay_out<T>(arena, block, tile.rows, tile.windows);
    unsigned char *sides = arena.take<unsigned char>((size_t)tile.windows * block.tokens);
    for (int w = 0; w < tile.windows; w++)
        if (tile.window[w].seam)
            fill_masks(block, windows, tile.window[w].seam, sides + (long)w * block.tokens, s.masks + (long)w * 4 * block.keys);
    for (int group = from; group < to; group++) {
        project_group<T, Q>(block, tile, group, s);
        for (int w = 0; w < tile.windows; w++) {
            const bool seam = tile.window[w].seam;
            HeadWork<T> work{};
            work.side = seam ? sides + (long)w * block.tokens : nullptr;
            work.masks = s.masks + (long)w * 4 * block.keys;
            attend_window(block, tile, tile.window[w], group, work, s);
        }
        clear_absent<T>(block, tile, group);
    }
}

template <class T> size_t block_scratch(const Block &block, int rows) {
    swk::Arena arena;
    const int windows = (rows + block.tokens - 1) / block.tokens;
    lay_out<T>(arena, block, rows, windows);
    arena.take<unsigned char>((size_t)windows * block.tokens);
    return arena.used;
}

template <class T> void project(const Block &block, Tile &tile, int from, int to) {
    const long panel = (long)tile.rows * PANEL;
    for (int p = from; p < to; p++) {
        Result result{block.version == 1 ? Store::residual : Store::floats};
        result.out = tile.sum + p * panel;
        result.rows = tile.row;
        result.offset = p * PANEL;
        result.row_scale = tile.copied_scale;
        layer(block.proj, p, tile.sharing, (const T *)tile.projected, tile.rows, panel, result);
    }
}

template <class T> void between(const Block &block, Tile &tile, int from, int to) {
    const long panel = (long)tile.rows * PANEL;
    for (int r = from; r < to; r++) {
        T *out = (T *)tile.operand + r * PANEL;
        const Row branch = row_of(tile.sum + r * PANEL, panel, block.channels);
        if (block.version == 1) {
            normalise(branch, out, panel, tile.scale + r);
        } else {
            normalise_onto(branch, block.norm1, tile.row[r], PANEL, tile.stream + r * PANEL, panel);
            take_row(row_of(tile.stream + r * PANEL, panel, block.channels), out, panel, tile.scale + r);
        }
    }
}

template <class T> void expand(const Block &block, Tile &tile, int first, int from, int to) {
    const long panel = (long)tile.rows * PANEL;
    for (int p = from; p < to; p++) {
        Result result{Store::gelu};
        result.out = (typename Made<T>::Type *)tile.hidden + (p - first) * panel;
        result.row_scale = tile.scale;
        layer(block.fc1, p, tile.sharing, (const T *)tile.operand, tile.rows, panel, result);
    }
}

// Hidden panels are taken so many at a time, however many there are, so that sums have the same order in every tile.
template <class T> void contract(const Block &block, Tile &tile, int first, int last, int from, int to) {
    const long panel = (long)tile.rows * PANEL;
    const T *hidden = (const T *)tile.contracted;
    for (int p = from; p < to; p++) {
        const float *scale = tile.copied_scale;
        for (int at = first, count; at < last; at += count, scale += tile.rows) {
            count = smaller_of(last - at, swk::HIDDEN_PANELS);
            const bool begins = at == 0, ends = at + count == block.hidden_panels;
            Result result{block.version == 1 && ends ? Store::finish : block.version == 2 && begins ? Store::floats : Store::accumulate};
            result.out = tile.sum + p * panel;
            result.rows = tile.row;
            result.offset = p * PANEL;
            result.row_scale = scale;
            layer(block.fc2, p, tile.sharing, at * PANEL, count * PANEL, hidden + (at - first) * panel, tile.rows, panel, result);
        }
    }
}

// Version 2's second norm; version 1 is done by then.
void leave(const Block &block, Tile &tile, int from, int to) {
    const long panel = (long)tile.rows * PANEL;
    for (int r = from; r < to; r++)
        normalise_onto(row_of(tile.sum + r * PANEL, panel, block.channels), block.norm2, tile.stream + r * PANEL, panel, tile.row[r], PANEL);
}

}  // namespace
