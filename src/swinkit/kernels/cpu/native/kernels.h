// What an instruction set provides, for one element type: the steps of a block on a tile of windows, and the maps around the blocks.
#pragma once
#include "net.h"

namespace swk {

struct Grid {
    int batch, height, width;
    int stride;  // floats from one token of a map to the next: its channels, padded
    long tokens() const { return (long)batch * height * width; }
};

// Where the windows of a block lie on a map.
struct Windows {
    Grid grid;
    int across, down;      // windows along the width and the height
    int shift_h, shift_w;
    long count;
};

// A window of a tile: `real` tokens of the map, which are the rows from `first` on. `place` tells where in the window each of them is;
// the other places are padding. `seam` says whether the window lies on the seam of the shift below (2) and to the right (1).
struct Window {
    int first, real, seam;
    const int *place;
};

// A run of windows on its way through a block. The operands are of the element type, sums are float.
struct Tile {
    int rows, windows;
    int sharing;      // threads that share this tile's panels
    float **row;      // the rows of the map
    int *places;
    Window *window;
    void *operand;    // [channel panel][rows][32]: what the next linear layer takes
    void *attended;   // [group panel][rows][32]
    void *hidden;     // [hidden panel][rows][32]
    void *projected, *contracted;  // what proj and fc2 take: `attended` and `hidden`, or their int8 copies, which share one place
    float *scale;         // int8: of the operand's rows,
    float *copied_scale;  // and of the copy's: [runs of HIDDEN_PANELS][rows]
    float *sum;       // [channel panel][rows][32]: the residual stream (version 1), a branch (version 2)
    float *stream;    // version 2: the residual stream between the branches
};

// Hidden panels of the MLP at a time, so that a tile's stay in the second cache. In int8 so many have one scale for each row.
constexpr int HIDDEN_PANELS = 24;

// Attention over a whole map, for training.
struct Attention {
    swk_attention job;
    WindowShape shape;
    Windows windows;
    int panels;         // of one head
    const float *bias;  // [heads][tokens][keys], times log2 e; padded keys hold -1e30
};

// What some windows add to the gradients that all of them share.
struct AttentionGradients {
    float *bias;   // [heads][tokens][keys]
    float *pad;    // [3][heads][dim]
    float *scale;  // [heads]
};

using LinearJob = swk_linear;
using NormJob = swk_norm;

// Some rows of a linear layer on their way back, packed: `room` rows from one panel to the next.
struct Chunk {
    long first, room;
    int rows;
    void *grad, *grad_pairs, *x_pairs;
};

struct Kernels {
    size_t element;
    size_t factor;  // bytes of what a linear layer of a block takes

    size_t (*block_scratch)(const Block &, int rows);
    void (*gather)(const Block &, const Windows &, long first, int count, float *map, Tile &);
    void (*enter)(const Block &, Tile &, int from, int to);                            // rows
    void (*attend)(const Block &, Tile &, const Windows &, int from, int to, char *);  // groups of heads
    void (*copy_attended)(const Block &, Tile &, int from, int to);                    // rows; null unless int8
    void (*project)(const Block &, Tile &, int from, int to);                          // channel panels
    void (*between)(const Block &, Tile &, int from, int to);                          // rows
    void (*expand)(const Block &, Tile &, int first, int from, int to);                // hidden panels; `first` is the chunk's
    void (*copy_hidden)(Tile &, int panels, int from, int to);                         // rows; null unless int8
    void (*contract)(const Block &, Tile &, int first, int last, int from, int to);    // channel panels, over hidden panels
    void (*leave)(const Block &, Tile &, int from, int to);                            // rows

    size_t (*rows_scratch)(int rows, int depth_panels, int out_panels);
    void (*embed)(const Embed &, const swk_job &, const Grid &, long first, int rows, float *map, char *);
    void (*merge)(const Merge &, const Grid &in, const float *map, long first, int rows, float *out, char *);
    void (*features)(const Head &, const Grid &, const float *map, long first, int rows, float *out, char *);
    void (*pool)(const Head &, const Grid &, const float *map, int image, void *operand, int images, float *out, char *);
    void (*classify)(const Head &, const void *operand, int images, int panel, float *out, char *);

    size_t (*map_scratch)(const Attention &, bool backward);
    void (*map_forward)(const Attention &, long window, int from, int to, char *);  // heads
    void (*map_backward)(const Attention &, long window, int from, int to, const AttentionGradients &, char *);

    size_t (*linear_scratch)(const LinearJob &, int rows);
    void (*pack_outputs)(const LinearJob &, int panel, void *out, char *);
    void (*pack_inputs)(const LinearJob &, int panel, void *out, char *);
    void (*linear_rows)(const LinearJob &, long first, int rows, const void *packed, const float *bias, char *);
    void (*linear_pack)(const LinearJob &, const Chunk &, int from, int to, char *);                                // rows
    void (*linear_input_grad)(const LinearJob &, const Chunk &, int from, int to, const void *packed, char *);      // rows
    void (*linear_weight_grad)(const LinearJob &, const Chunk &, int panel, int from, int to);                      // panels of inputs

    void (*norm_rows)(const NormJob &, long first, int rows);
    void (*norm_rows_back)(const NormJob &, long first, int rows, float *sums);

    void (*multiply)(const void *operand, int rows, const void *weight, int depth, float *out);  // one panel, for measuring
};

// Null where the library was built without it.
const Kernels *kernels(int isa, int dtype);

extern const Kernels *const baseline_float;
extern const Kernels *const avx2_float;
extern const Kernels *const avx512_float;
extern const Kernels *const avx512_bfloat16;
extern const Kernels *const avx512_int8;

}  // namespace swk
