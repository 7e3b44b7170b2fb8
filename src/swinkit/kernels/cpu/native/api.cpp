#include <chrono>
#include <new>

#include "model.h"
#include "pack.h"
#include "run.h"
#include "team.h"

namespace {

// Nothing may be thrown through a C interface; all that can be thrown here is a lack of memory.
template <class Work> int guarded(Work work) {
    try {
        return work();
    } catch (...) {
        return SWK_NO_MEMORY;
    }
}

struct GemmRate {
    const swk::Kernels *kernels;
    int rows, depth, columns;
    double seconds;
    double rate[256];
};

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void measure(void *context, int index, int) {
    GemmRate &m = *static_cast<GemmRate *>(context);
    const size_t element = m.kernels->factor, panels = m.columns / swk::PANEL;
    swk::Buffer operand(m.rows * m.depth * element), weight(m.depth * m.columns * element), out(m.rows * swk::PANEL * sizeof(float));
    const double start = now();
    double spent = 0;
    long products = 0;
    do {
        for (size_t p = 0; p < panels; p++, products++)
            m.kernels->multiply(operand.as<char>(), m.rows, weight.as<char>() + p * m.depth * swk::PANEL * element, m.depth, out.as<float>());
        spent = now() - start;
    } while (spent < m.seconds);
    m.rate[index] = 2. * m.rows * m.depth * swk::PANEL * products / spent * 1e-9;
}

}  // namespace

swk_net *swk_new(int isa, int dtype) {
    const swk::Kernels *kernels = swk::kernels(isa, dtype);
    if (!kernels) return nullptr;
    swk_net *net = new (std::nothrow) swk_net;
    if (net) net->kernels = kernels, net->dtype = dtype;
    return net;
}

int swk_embed(swk_net *net, int in_chans, int patch_h, int patch_w, int channels, const float *weight, const float *bias,
              const float *norm_weight, const float *norm_bias) {
    return guarded([&] {
        net->embed = swk::pack_embed(net->dtype, in_chans, patch_h, patch_w, channels, weight, bias, norm_weight, norm_bias);
        net->bytes += swk::bytes_of(net->embed);
        net->stages.emplace_back();
        return SWK_OK;
    });
}

int swk_block(swk_net *net, const swk_block_weights *weights) {
    if (net->stages.empty() || weights->heads < 1 || weights->channels % weights->heads) return SWK_BAD_ARGUMENT;
    return guarded([&] {
        auto &blocks = net->stages.back().blocks;
        blocks.push_back(swk::pack_block(net->dtype, *weights));
        net->bytes += swk::bytes_of(blocks.back());
        return SWK_OK;
    });
}

int swk_merge(swk_net *net, int version, int channels, const float *norm_weight, const float *norm_bias, const float *weight) {
    if (net->stages.empty()) return SWK_BAD_ARGUMENT;
    return guarded([&] {
        auto &merge = net->stages.back().merge;
        merge.push_back(swk::pack_merge(net->dtype, version, channels, norm_weight, norm_bias, weight));
        net->bytes += swk::bytes_of(merge.back());
        net->stages.emplace_back();
        return SWK_OK;
    });
}

int swk_head(swk_net *net, int channels, int classes, const float *norm_weight, const float *norm_bias, const float *weight, const float *bias) {
    return guarded([&] {
        net->head.push_back(swk::pack_head(net->dtype, channels, classes, norm_weight, norm_bias, weight, bias));
        net->bytes += swk::bytes_of(net->head.back());
        return SWK_OK;
    });
}

long swk_bytes(const swk_net *net) { return (long)net->bytes; }

void swk_free(swk_net *net) { delete net; }

int swk_run(const swk_net *net, const swk_job *job) {
    const bool classifies = !net->head.empty() && net->head.front().classes > 0;
    if (job->batch < 1 || job->height < 1 || job->width < 1 || job->threads < 1 || (job->logits && !classifies)) return SWK_BAD_ARGUMENT;
    return guarded([&] {
        swk::run(*net, *job);
        return SWK_OK;
    });
}

double swk_gemm_rate(int isa, int dtype, int rows, int depth, int columns, double seconds, int threads) {
    GemmRate m{swk::kernels(isa, dtype), rows, depth, columns, seconds, {}};
    if (!m.kernels || threads < 1 || threads > 256 || columns % swk::PANEL || depth % swk::PANEL) return 0;
    double total = 0;
    guarded([&] {
        swk::run_together(threads, measure, &m);
        for (double rate : m.rate) total += rate;
        return SWK_OK;
    });
    return total;
}
