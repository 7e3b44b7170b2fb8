// The training part of native_check.cpp: attention over a map, linear layers and LayerNorm, forward and backward, on exactly sized buffers.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <vector>

#include "swinkit_cpu.h"

namespace {

std::mt19937 random_bits(11);

// A heap block of exactly `count` elements, in float or bfloat16.
struct Values {
    Values(size_t count, bool half, bool filled = true) : count(count), half(half), bytes(new char[count * (half ? 2 : 4)]) {
        std::normal_distribution<float> normal(0.f, 0.5f);
        for (size_t i = 0; i < count; i++) set(i, filled ? normal(random_bits) : NAN);
    }
    void set(size_t i, float value) {
        if (!half) {
            reinterpret_cast<float *>(bytes.get())[i] = value;
            return;
        }
        union { float number; uint32_t bits; } both{value};
        reinterpret_cast<uint16_t *>(bytes.get())[i] = (uint16_t)(both.bits >> 16);
    }
    float get(size_t i) const {
        if (!half) return reinterpret_cast<float *>(bytes.get())[i];
        union { uint32_t bits; float number; } both{(uint32_t)reinterpret_cast<uint16_t *>(bytes.get())[i] << 16};
        return both.number;
    }
    double size() const {
        double total = 0;
        for (size_t i = 0; i < count; i++) total += std::fabs(get(i));
        return total / count;
    }
    template <class T = float> T *as() const { return reinterpret_cast<T *>(bytes.get()); }
    size_t count;
    bool half;
    std::unique_ptr<char[]> bytes;
};

struct MapShape {
    int batch, height, width, heads, dim, window_h, window_w, shift_h, shift_w, cosine, threads;
};

double check(const MapShape &s, int isa, int dtype) {
    const bool half = dtype == SWK_BFLOAT16;
    const size_t tokens = s.window_h * s.window_w, map = (size_t)s.batch * s.height * s.width, all = map * s.heads * s.dim;
    random_bits.seed(11);
    Values qkv(3 * all, half), bias(s.heads * tokens * tokens, false), pad(3 * s.heads * s.dim, false), scale(s.heads, false);
    Values out_grad(all, half), out(all, half, false), lse(map * s.heads, false, false), qkv_grad(3 * all, half, false);
    Values bias_grad(bias.count, false, false), pad_grad(pad.count, false, false), scale_grad(s.heads, false, false);
    swk_attention job{s.batch, s.height, s.width, s.heads, s.dim, s.window_h, s.window_w, s.shift_h, s.shift_w, s.cosine,
                      qkv.as<void>(), bias.as(), pad.as(), scale.as(), out.as<void>(), lse.as(), out_grad.as<void>(), qkv_grad.as<void>(),
                      bias_grad.as(), pad_grad.as(), scale_grad.as(), s.threads, nullptr};
    if (swk_attention_forward(isa, dtype, &job) || swk_attention_backward(isa, dtype, &job)) return NAN;
    return out.size() + lse.size() + qkv_grad.size() + bias_grad.size() + pad_grad.size() + scale_grad.size();
}

struct LayerShape {
    int rows, inputs, outputs, gelu, x_wide, y_grad_wide, threads, normed = 0;
};

double check(const LayerShape &s, int isa, int dtype) {
    const bool half = dtype == SWK_BFLOAT16;
    random_bits.seed(11);
    Values x((size_t)s.rows * s.inputs, half && !s.x_wide), weight((size_t)s.outputs * s.inputs, false), bias(s.outputs, false);
    Values y((size_t)s.rows * s.outputs, half, false), y_grad(y.count, half && !s.y_grad_wide), x_grad(x.count, half && !s.x_wide, false);
    Values weight_grad(weight.count, false, false), bias_grad(s.outputs, false, false), norm_weight(s.inputs, false), norm_bias(s.inputs, false);
    Values residual(y.count, half);
    swk_linear job{s.rows, s.inputs, s.outputs, s.gelu, half && s.x_wide, 1e-5f, s.normed ? norm_weight.as() : nullptr, norm_bias.as(), x.as<void>(), weight.as(), bias.as(),
                   s.x_wide ? nullptr : residual.as<void>(), y.as<void>(), half && s.y_grad_wide, half && s.x_wide, y_grad.as<void>(), x_grad.as<void>(), weight_grad.as(), bias_grad.as(), s.threads, nullptr};
    if (swk_linear_forward(isa, dtype, &job) || swk_linear_backward(isa, dtype, &job)) return NAN;
    return y.size() + x_grad.size() + weight_grad.size() + bias_grad.size();
}

struct NormShape {
    int rows, channels, threads;
};

double check(const NormShape &s, int isa, int dtype) {
    const bool half = dtype == SWK_BFLOAT16;
    random_bits.seed(11);
    Values x((size_t)s.rows * s.channels, half), weight(s.channels, false), bias(s.channels, false), y(x.count, half, false);
    Values y_grad(x.count, half), x_grad(x.count, half, false), weight_grad(s.channels, false, false), bias_grad(s.channels, false, false);
    Values passed(x.count, half);
    swk_norm job{s.rows, s.channels, 1e-5f, x.as<void>(), weight.as(), bias.as(), y.as<void>(), y_grad.as<void>(),
                 s.threads > 1 ? passed.as<void>() : nullptr, x_grad.as<void>(), weight_grad.as(), bias_grad.as(), s.threads, nullptr};
    if (swk_norm_forward(isa, dtype, &job) || swk_norm_backward(isa, dtype, &job)) return NAN;
    return y.size() + x_grad.size() + weight_grad.size() + bias_grad.size();
}

const MapShape MAPS[] = {
    {2, 14, 14, 3, 32, 7, 7, 3, 3, 0, 2},  // whole windows
    {1, 9, 10, 2, 8, 7, 7, 3, 3, 0, 3},    // padding, small heads
    {2, 7, 11, 1, 40, 3, 5, 1, 0, 1, 2},   // cosine, two panels, one axis shifted
    {1, 30, 25, 2, 16, 24, 24, 12, 12, 1, 4},  // several runs of queries
    {1, 2, 3, 2, 24, 4, 4, 2, 2, 0, 1},    // a map smaller than its window
};
const LayerShape LAYERS[] = {
    {130, 96, 64, 0, 0, 0, 2}, {1, 33, 10, 0, 0, 0, 3}, {700, 20, 45, 0, 1, 0, 2}, {577, 64, 32, 1, 0, 1, 4}, {15, 35, 70, 1, 0, 0, 1},
    {577, 96, 70, 0, 0, 0, 3, 1}, {33, 64, 32, 0, 1, 1, 2, 1},
};
const NormShape NORMS[] = {{1, 32, 1}, {130, 96, 3}, {257, 1536, 2}};

}  // namespace

// Prints as native_check does; the shapes are counted from 100 on.
void check_training(const char *name, int isa, int dtype) {
    int shape = 100;
    for (const MapShape &s : MAPS) std::printf("%s %d %d %.6g\n", name, dtype, shape++, check(s, isa, dtype));
    for (const LayerShape &s : LAYERS) std::printf("%s %d %d %.6g\n", name, dtype, shape++, check(s, isa, dtype));
    for (const NormShape &s : NORMS) std::printf("%s %d %d %.6g\n", name, dtype, shape++, check(s, isa, dtype));
}
