// Attention over a whole map: the C interface, and how threads share the windows.
#include <atomic>
#include <vector>

#include "kernels.h"
#include "team.h"

namespace swk {
namespace {

constexpr float LOG2_E = 1.44269504088896f;
constexpr float NEVER = -1e30f;               // the bias of a key that is not there
constexpr int MOST_PARTS = 32;                // into which the windows are divided for the backward pass,
constexpr size_t LARGEST_PARTS = 16u << 20;   // and floats of their gradients of the bias, together

int rounded_up(int count, int to) { return (count + to - 1) / to * to; }

Attention prepared(const swk_attention &job, Buffer &bias) {
    const int tokens = job.window_h * job.window_w, keys = rounded_up(tokens, PANEL);
    const int down = (job.height + job.window_h - 1) / job.window_h, across = (job.width + job.window_w - 1) / job.window_w;
    bias = Buffer(sizeof(float) * job.heads * tokens * keys, true);
    for (long row = 0; row < (long)job.heads * tokens; row++) {
        float *to = bias.as<float>() + row * keys;
        for (int t = 0; t < keys; t++) to[t] = t < tokens ? job.bias[row * tokens + t] * LOG2_E : NEVER;
    }
    const Windows windows{{job.batch, job.height, job.width, 0}, across, down, job.shift_h, job.shift_w, (long)job.batch * down * across};
    return {job, {job.window_h, job.window_w, tokens, keys}, windows, panels_of(job.dim), bias.as<float>()};
}

// Calls work(task, scratch) for each task, whichever thread comes first.
template <class Work> struct Shared {
    const Work &work;
    long tasks;
    char *scratch;
    size_t each;  // bytes of scratch for a thread
    std::atomic<long> next{0};
    std::atomic<int> thread{0};

    void go() {
        char *const own = scratch + each * thread.fetch_add(1, std::memory_order_relaxed);
        for (long i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) work(i, own);
    }
};

template <class Work> void share(const swk_attention &job, long tasks, size_t scratch, const Work &work) {
    const int threads = (int)(job.threads < tasks ? job.threads : tasks);
    const size_t each = (scratch + 4095) / 4096 * 4096 + 2 * ALIGNMENT;
    Buffer memory(each * threads, true);
    Shared<Work> shared{work, tasks, memory.as<char>(), each};
    if (threads == 1) shared.go();
    else if (job.parallel) job.parallel([](void *it) { static_cast<Shared<Work> *>(it)->go(); }, &shared, (unsigned)threads, 0);
    else run_together(threads, [](void *it, int, int) { static_cast<Shared<Work> *>(it)->go(); }, &shared);
    open_and_fence(memory.as<char>(), memory.bytes(), 0);
}

void forward(const Kernels &kernels, const swk_attention &job) {
    Buffer bias;
    const Attention a = prepared(job, bias);
    const int groups = a.windows.count < 8L * job.threads ? job.heads : 1, each = job.heads / groups;
    share(job, a.windows.count * groups, kernels.map_scratch(a, false), [&](long i, char *scratch) {
        const int head = (int)(i % groups) * each;
        kernels.map_forward(a, i / groups, head, head + each, scratch);
    });
}

// The gradients of bias, padding and scale are summed in parts that depend on the sizes only, so that they do not depend on the threads.
struct Parts {
    explicit Parts(const Attention &a) : heads(a.job.heads), bias_size((long)heads * a.shape.tokens * a.shape.keys), pad_size(3L * heads * a.job.dim) {
        const long fitting = (long)(LARGEST_PARTS / bias_size), most = fitting < 1 ? 1 : fitting < MOST_PARTS ? fitting : MOST_PARTS;
        count = a.windows.count < most ? a.windows.count : most;
        groups = count < MOST_PARTS / 2 ? heads : 1;
        size = bias_size + pad_size + heads;
        memory = Buffer(sizeof(float) * size * count);
    }
    AttentionGradients of(long part, bool scale) const {
        float *at = memory.as<float>() + part * size;
        return {at, at + bias_size, scale ? at + bias_size + pad_size : nullptr};
    }
    float sum(long at) const {
        float total = 0;
        for (long part = 0; part < count; part++) total += memory.as<float>()[part * size + at];
        return total;
    }
    int heads, groups;
    long bias_size, pad_size, count, size;
    Buffer memory;
};

void add_up(const Attention &a, const Parts &parts) {
    const swk_attention &job = a.job;
    const int tokens = a.shape.tokens, keys = a.shape.keys;
    share(job, (long)job.heads * tokens, 0, [&](long row, char *) {
        for (int t = 0; t < tokens; t++) job.bias_grad[row * tokens + t] = parts.sum(row * keys + t);
    });
    for (long i = 0; i < parts.pad_size; i++) job.pad_grad[i] = parts.sum(parts.bias_size + i);
    for (long i = 0; job.scale_grad && i < parts.heads; i++) job.scale_grad[i] = parts.sum(parts.bias_size + parts.pad_size + i);
}

void backward(const Kernels &kernels, const swk_attention &job) {
    Buffer bias;
    const Attention a = prepared(job, bias);
    const Parts parts(a);
    const int groups = parts.groups, each = job.heads / groups;
    share(job, parts.count * groups, kernels.map_scratch(a, true), [&](long i, char *scratch) {
        const long part = i / groups, first = a.windows.count * part / parts.count, last = a.windows.count * (part + 1) / parts.count;
        const int head = (int)(i % groups) * each;
        const AttentionGradients grads = parts.of(part, job.scale_grad);
        for (long window = first; window < last; window++) kernels.map_backward(a, window, head, head + each, grads, scratch);
    });
    add_up(a, parts);
}

int attend(int isa, int dtype, const swk_attention &job, void (*work)(const Kernels &, const swk_attention &)) {
    const Kernels *known = dtype == SWK_INT8 ? nullptr : kernels(isa, dtype);
    const int sizes[] = {job.batch, job.height, job.width, job.heads, job.dim, job.window_h, job.window_w, job.threads};
    for (int size : sizes)
        if (size < 1) return SWK_BAD_ARGUMENT;
    if (!known || job.shift_h < 0 || job.shift_w < 0 || job.shift_h >= job.window_h || job.shift_w >= job.window_w) return SWK_BAD_ARGUMENT;
    try {
        work(*known, job);
    } catch (...) {
        return SWK_NO_MEMORY;
    }
    return SWK_OK;
}

}  // namespace
}  // namespace swk

int swk_attention_forward(int isa, int dtype, const swk_attention *job) { return swk::attend(isa, dtype, *job, swk::forward); }

int swk_attention_backward(int isa, int dtype, const swk_attention *job) { return swk::attend(isa, dtype, *job, swk::backward); }
