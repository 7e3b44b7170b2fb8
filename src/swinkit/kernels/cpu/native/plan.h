// How a network's run is cut into tiles, and the scratch that this takes. Nothing is allocated once the threads run.
#pragma once
#include "model.h"

namespace swk {

constexpr int TILE_ROWS = 112;  // rows of a tile, about: a multiple of the kernel's, small enough for the second cache

template <class N> N ceil_div(N a, N b) { return (a + b - 1) / b; }

struct Plan {
    Windows windows;
    int per_tile;
    bool shared;  // all windows make one tile, whose heads and panels the threads share
    int hidden;   // panels of the MLP at a time
};

Plan plan_block(const Block &, const Grid &, const int *shift, int threads);
Tile lay_out_tile(Arena &, const Block &, const Kernels &, const Plan &);

Grid first_grid(const swk_net &, const swk_job &);
Grid halved(const Grid &, int stride);
int rows_at_once(long tokens, int threads);

// Bytes of a run's maps (there are two), of what its threads share, and of each thread's own scratch; and how many loops they share.
struct Needs {
    size_t map = 0, shared = 0, thread = 0;
    int loops = 0;
};

Needs needs_of(const swk_net &, const swk_job &);

}  // namespace swk
