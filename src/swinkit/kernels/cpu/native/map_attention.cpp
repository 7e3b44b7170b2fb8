// Attention over a whole map: the C interface, and how threads share the windows.
#include <cstring>

#include "share.h"

namespace swk {
namespace {

constexpr float LOG2_E = 1.44269504088896f;
constexpr float NEVER = -1e30f;               // the bias of a key that is not there
constexpr int MOST_PARTS = 32;                // into which the windows are divided for the backward pass,
constexpr size_t LARGEST_PARTS = 16u << 20;   // and floats of their gradients of the bias, together

int rounded_up(int count, int to) { return (count + to - 1) / to * to; }

size_t bias_size(const swk_attention &job) {
    const int tokens = job.window_h * job.window_w;
    return (size_t)job.heads * tokens * rounded_up(tokens, PANEL);
}

Attention prepared(const swk_attention &job) {
    const int tokens = job.window_h * job.window_w;
    const int down = (job.height + job.window_h - 1) / job.window_h, across = (job.width + job.window_w - 1) / job.window_w;
    const Windows windows{{job.batch, job.height, job.width, 0}, across, down, job.shift_h, job.shift_w, (long)job.batch * down * across};
    return {job, {job.window_h, job.window_w, tokens, rounded_up(tokens, PANEL)}, windows, panels_of(job.dim), nullptr};
}

void pack_bias(Attention &a, float *to) {
    a.bias = to;
    for (long row = 0; row < (long)a.job.heads * a.shape.tokens; row++, to += a.shape.keys)
        for (int t = 0; t < a.shape.keys; t++) to[t] = t < a.shape.tokens ? a.job.bias[row * a.shape.tokens + t] * LOG2_E : NEVER;
}

Crew crew_of(const swk_attention &job) { return {job.threads, job.parallel}; }

void forward(const Kernels &kernels, const swk_attention &job) {
    Attention a = prepared(job);
    const Crew crew = crew_of(job);
    float *bias = nullptr;
    const Workspace space(crew.threads, kernels.map_scratch(a, false), [&](Arena &arena) { bias = arena.take<float>(bias_size(job)); });
    pack_bias(a, bias);
    const int groups = a.windows.count < 8L * job.threads ? job.heads : 1, each = job.heads / groups;
    share(crew, a.windows.count * groups, space, [&](long i, char *scratch) {
        const int head = (int)(i % groups) * each;
        kernels.map_forward(a, i / groups, head, head + each, scratch);
    });
}

// The gradients of bias, padding and scale are summed in parts that depend on the sizes only, so that they do not depend on the threads.
struct Parts {
    explicit Parts(const Attention &a) : heads(a.job.heads), bias_size((long)heads * a.shape.tokens * a.shape.keys), pad_size(3L * heads * a.job.dim) {
        const long fitting = (long)(LARGEST_PARTS / bias_size), most = fitting < 1 ? 1 : fitting < MOST_PARTS ? fitting : MOST_PARTS;
        const long pairs = (a.windows.count + 1) / 2;  // a part for each window would be summed up for longer than it is computed
        count = pairs < most ? pairs : most;
        groups = count < MOST_PARTS ? heads : 1;
        size = bias_size + pad_size + heads;
    }
    AttentionGradients of(long part, bool scale) const {
        float *at = memory + part * size;
        return {at, at + bias_size, scale ? at + bias_size + pad_size : nullptr};
    }
    void sum(long at, long wanted, float *to) const {
        std::memcpy(to, memory + at, sizeof(float) * wanted);
        for (long part = 1; part < count; part++)
            for (long i = 0; i < wanted; i++) to[i] += memory[part * size + at + i];
    }
    int heads, groups;
    long bias_size, pad_size, count, size;
    float *memory = nullptr;
};

void add_up(const Attention &a, const Parts &parts, const Workspace &space) {
    const swk_attention &job = a.job;
    const int tokens = a.shape.tokens, keys = a.shape.keys;
    share(crew_of(job), (long)job.heads * tokens, space, [&](long row, char *) { parts.sum(row * keys, tokens, job.bias_grad + row * tokens); });
    parts.sum(parts.bias_size, parts.pad_size, job.pad_grad);
    if (job.scale_grad) parts.sum(parts.bias_size + parts.pad_size, parts.heads, job.scale_grad);
}

void backward(const Kernels &kernels, const swk_attention &job) {
    Attention a = prepared(job);
    Parts parts(a);
    const Crew crew = crew_of(job);
    float *bias = nullptr;
    const Workspace space(crew.threads, kernels.map_scratch(a, true), [&](Arena &arena) {
        bias = arena.take<float>(bias_size(job));
        parts.memory = arena.take<float>(parts.size * parts.count);
    });
    pack_bias(a, bias);
    std::memset(parts.memory, 0, sizeof(float) * parts.size * parts.count);
    const int groups = parts.groups, each = job.heads / groups;
    share(crew, parts.count * groups, space, [&](long i, char *scratch) {
        const long part = i / groups, first = a.windows.count * part / parts.count, last = a.windows.count * (part + 1) / parts.count;
        const int head = (int)(i % groups) * each;
        const AttentionGradients grads = parts.of(part, job.scale_grad);
        for (long window = first; window < last; window++) kernels.map_backward(a, window, head, head + each, grads, scratch);
    });
    add_up(a, parts, space);
}

bool fits(const swk_attention &job) {
    for (int size : {job.batch, job.height, job.width, job.heads, job.dim, job.window_h, job.window_w, job.threads})
        if (size < 1) return false;
    return job.shift_h >= 0 && job.shift_w >= 0 && job.shift_h < job.window_h && job.shift_w < job.window_w;
}

}  // namespace
}  // namespace swk

int swk_attention_forward(int isa, int dtype, const swk_attention *job) { return swk::call(isa, dtype, *job, swk::fits(*job), swk::forward); }

int swk_attention_backward(int isa, int dtype, const swk_attention *job) { return swk::call(isa, dtype, *job, swk::fits(*job), swk::backward); }
