// Linear layers of training: the C interface, and how threads share the rows.
#include <cstring>

#include "share.h"

namespace swk {
namespace {

constexpr int TILE = 112;                       // rows that a thread packs and multiplies at a time
constexpr long SHARE = 1 << 24;                 // products of a part of the weight's gradient, so that all threads end at about the same time
constexpr long CHUNK = 1 << 20, LEAST = 512;    // elements of the operands of a chunk of rows on the way back, and rows of it

long ceil_div(long a, long b) { return (a + b - 1) / b; }
long even(long count) { return (count + 1) / 2 * 2; }
Crew crew_of(const swk_linear &job) { return {job.threads, job.parallel}; }

// Bytes of a panel of the weight.
size_t panel_bytes(const Kernels &kernels, int depth) {
    return (kernels.element == sizeof(float) ? depth : even(depth)) * PANEL * kernels.element;
}

using Pack = decltype(Kernels::pack_outputs);

void pack(const Crew &crew, const swk_linear &job, Pack kernel, int channels, char *to, size_t panel, const Workspace &space) {
    share(crew, panels_of(channels), space, [&](long i, char *own) { kernel(job, (int)i, to + i * panel, own); });
}

void forward(const Kernels &kernels, const swk_linear &job) {
    const Crew crew = crew_of(job);
    // Tiles of one size, as many for each thread.
    const long tiles = ceil_div(ceil_div(job.rows, TILE), crew.threads) * crew.threads, tile = ceil_div(job.rows, tiles);
    const size_t panel = panel_bytes(kernels, job.inputs), columns = (size_t)panels_of(job.outputs) * PANEL;
    char *packed = nullptr;
    float *bias = nullptr;
    const Workspace space(crew.threads, kernels.linear_scratch(job, (int)tile), [&](Arena &arena) {
        packed = arena.take<char>(panel * panels_of(job.outputs));
        bias = arena.take<float>(columns);
    });
    pack(crew, job, kernels.pack_outputs, job.outputs, packed, panel, space);
    std::memset(bias, 0, sizeof(float) * columns);
    if (job.bias) std::memcpy(bias, job.bias, sizeof(float) * job.outputs);
    share(crew, ceil_div(job.rows, tile), space, [&](long i, char *own) {
        const long first = i * tile, rows = job.rows - first < tile ? job.rows - first : tile;
        kernels.linear_rows(job, first, (int)rows, packed, bias, own);
    });
}

// Rows of a chunk: as many as keep its operands in the last cache, since each chunk goes over the weight's gradient once.
long chunk_rows(const swk_linear &job) {
    const long fitting = CHUNK / (job.inputs + job.outputs), rows = (fitting < LEAST ? LEAST : fitting) / TILE * TILE;
    return rows < job.rows ? rows : job.rows;
}

// Panels of inputs whose products with a panel of outputs are such a part.
long panels_of_share(long rows) {
    const long panels = SHARE / (rows * PANEL * PANEL);
    return panels < 1 ? 1 : panels;
}

void backward(const Kernels &kernels, const swk_linear &job) {
    const Crew crew = crew_of(job);
    const long rows = chunk_rows(job), room = even(rows) + 2;  // panels that start in different cache sets
    const bool pairs = kernels.element != sizeof(float), weights = job.weight_grad || job.bias_grad;
    const size_t row = room * PANEL * kernels.element, panel = panel_bytes(kernels, job.outputs);
    char *packed = nullptr;
    Chunk chunk{0, room, 0, nullptr, nullptr, nullptr};
    const Workspace space(crew.threads, kernels.linear_scratch(job, TILE), [&](Arena &arena) {
        packed = arena.take<char>(job.x_grad ? panel * panels_of(job.inputs) : 0);
        chunk.grad = arena.take<char>(row * panels_of(job.outputs));
        chunk.grad_pairs = pairs ? arena.take<char>(row * panels_of(job.outputs)) : chunk.grad;
        chunk.x_pairs = arena.take<char>(row * panels_of(job.inputs));
    });
    if (job.x_grad) pack(crew, job, kernels.pack_inputs, job.inputs, packed, panel, space);
    for (; chunk.first < job.rows; chunk.first += rows) {
        chunk.rows = (int)(job.rows - chunk.first < rows ? job.rows - chunk.first : rows);
        const long tiles = ceil_div(chunk.rows, TILE), back = job.x_grad ? tiles : 0, panels = panels_of(job.inputs);
        const auto end = [&](long tile) { return (int)((tile + 1) * TILE < chunk.rows ? (tile + 1) * TILE : chunk.rows); };
        share(crew, tiles, space, [&](long i, char *own) { kernels.linear_pack(job, chunk, (int)i * TILE, end(i), own); });
        const long run = panels_of_share(chunk.rows), runs = ceil_div(panels, run);
        share(crew, back + (weights ? panels_of(job.outputs) * runs : 0), space, [&](long i, char *own) {
            const long part = i - back, first = part % runs * run;
            if (part < 0) kernels.linear_input_grad(job, chunk, (int)i * TILE, end(i), packed, own);
            else kernels.linear_weight_grad(job, chunk, (int)(part / runs), (int)first, (int)(first + run < panels ? first + run : panels));
        });
    }
}

bool fits(const swk_linear &job, int dtype) {
    const bool normed = job.norm_weight;
    return job.rows > 0 && job.inputs > 0 && job.outputs > 0 && job.threads > 0 && !(normed && (job.gelu || job.inputs % PANEL)) &&
           !(job.gelu && job.x_wide && dtype != SWK_FLOAT32);
}

}  // namespace
}  // namespace swk

int swk_linear_forward(int isa, int dtype, const swk_linear *job) { return swk::call(isa, dtype, *job, swk::fits(*job, dtype), swk::forward); }

int swk_linear_backward(int isa, int dtype, const swk_linear *job) { return swk::call(isa, dtype, *job, swk::fits(*job, dtype), swk::backward); }
