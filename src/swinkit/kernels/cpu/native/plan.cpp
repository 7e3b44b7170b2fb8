#include "plan.h"

namespace swk {
namespace {

constexpr int SHARED_ROWS = 4096;  // at most so many rows make one tile for all threads
constexpr double BALANCED = 0.8;   // the share of the threads' time that separate tiles must fill

template <class N> N smaller(N a, N b) { return a < b ? a : b; }
template <class N> N larger(N a, N b) { return a > b ? a : b; }
template <class N> void grow(N &size, N wanted) { size = wanted > size ? wanted : size; }

void grow_for_block(Needs &needs, const Kernels &kernels, const Block &block, const Plan &plan) {
    Arena tile;
    lay_out_tile(tile, block, kernels, plan);
    const size_t attention = kernels.block_scratch(block, plan.per_tile * block.tokens);
    if (plan.shared) grow(needs.shared, tile.used);
    grow(needs.thread, plan.shared ? attention : tile.used + attention);
}

void grow_for_head(Needs &needs, const Kernels &kernels, const Head &head, int images) {
    const size_t row = (size_t)panels_of(head.channels) * PANEL;
    Arena operand, lines, sums;
    operand.take<char>(images * row * kernels.element);
    lines.take<float>(row), lines.take<float>(row);
    sums.take<float>((size_t)images * PANEL);
    grow(needs.shared, operand.used);
    grow(needs.thread, lines.used);
    grow(needs.thread, sums.used);
}

}  // namespace

Plan plan_block(const Block &block, const Grid &grid, const int *shift, int threads) {
    Plan plan{};
    plan.windows = {grid, ceil_div(grid.width, block.window_w), ceil_div(grid.height, block.window_h), shift[0], shift[1], 0};
    const long count = plan.windows.count = (long)grid.batch * plan.windows.down * plan.windows.across;
    const long each = ceil_div(count, (long)threads);
    plan.shared = threads > 1 && count < BALANCED * (each * threads) && count * block.tokens <= SHARED_ROWS;
    const long fitting = ceil_div(TILE_ROWS, block.tokens + block.tokens / 2);
    plan.per_tile = (int)(plan.shared ? count : smaller(each, fitting));
    plan.hidden = plan.shared ? block.hidden_panels : smaller(block.hidden_panels, HIDDEN_PANELS);
    return plan;
}

Tile lay_out_tile(Arena &arena, const Block &block, const Kernels &kernels, const Plan &plan) {
    const size_t rows = (size_t)plan.per_tile * block.tokens, panels = panels_of(block.channels), panel = rows * PANEL;
    Tile tile{};
    tile.sharing = 1;
    tile.row = arena.take<float *>(rows);
    tile.places = arena.take<int>(rows);
    tile.window = arena.take<Window>(plan.per_tile);
    tile.operand = arena.take<char>(panels * panel * kernels.factor);
    tile.attended = arena.take<char>((size_t)block.heads.groups * block.heads.panels * panel * kernels.element);
    tile.hidden = arena.take<char>(plan.hidden * panel * kernels.element);
    tile.projected = tile.attended, tile.contracted = tile.hidden;
    if (kernels.copy_attended) {
        const size_t attended = (size_t)block.heads.groups * block.heads.panels;
        tile.projected = tile.contracted = arena.take<char>(larger(attended, (size_t)plan.hidden) * panel * kernels.factor);
    }
    tile.scale = arena.take<float>(rows);
    tile.copied_scale = arena.take<float>(ceil_div(plan.hidden, HIDDEN_PANELS) * rows);
    tile.sum = arena.take<float>(panels * panel);
    tile.stream = block.version == 2 ? arena.take<float>(panels * panel) : nullptr;
    return tile;
}

Grid first_grid(const swk_net &net, const swk_job &job) {
    const int h = net.embed.patch_h, w = net.embed.patch_w, stride = net.embed.project.panels * PANEL;
    if (job.floors) return {job.batch, job.height / h, job.width / w, stride};
    return {job.batch, ceil_div(job.height, h), ceil_div(job.width, w), stride};
}

Grid halved(const Grid &grid, int stride) { return {grid.batch, ceil_div(grid.height, 2), ceil_div(grid.width, 2), stride}; }

int rows_at_once(long tokens, int threads) { return (int)smaller<long>(TILE_ROWS, ceil_div(tokens, (long)threads)); }

Needs needs_of(const swk_net &net, const swk_job &job) {
    const Kernels &kernels = *net.kernels;
    Needs needs;
    Grid grid = first_grid(net, job);
    const int *shift = job.shifts;
    grow(needs.thread, kernels.rows_scratch(TILE_ROWS, panels_of(net.embed.project.depth), net.embed.project.panels));
    needs.loops = 1;
    for (const Stage &stage : net.stages) {
        grow(needs.map, (size_t)grid.tokens() * grid.stride * sizeof(float));
        for (const Block &block : stage.blocks) {
            grow_for_block(needs, kernels, block, plan_block(block, grid, shift, job.threads));
            shift += 2;
        }
        for (const Merge &merge : stage.merge) {
            grow(needs.thread, kernels.rows_scratch(TILE_ROWS, 4 * panels_of(merge.channels), merge.reduce.panels));
            grid = halved(grid, merge.reduce.panels * PANEL);
        }
        needs.loops += 9 * (int)stage.blocks.size() + 2;
    }
    for (const Head &head : net.head) grow_for_head(needs, kernels, head, job.batch);
    needs.loops += 3;
    return needs;
}

}  // namespace swk
