#include "pack.h"

#include <cmath>
#include <vector>

namespace swk {
namespace {

constexpr float LOG2_E = 1.44269504088896f;
constexpr float NEVER = -1e30f;  // the bias of a key that is not there

bf16 to_bf16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return (bf16)((bits >> 16) | 0x40);  // NaN stays one
    return (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Which channel of the model's weight a packed one holds; -1: none, zeros.
using Order = std::vector<int>;

Order in_order(int channels, int repeats = 1) {
    Order order;
    const int padded = panels_of(channels) * PANEL;
    for (int repeat = 0; repeat < repeats; repeat++)
        for (int c = 0; c < padded; c++) order.push_back(c < channels ? repeat * channels + c : -1);
    return order;
}

struct Source {
    const float *weight;                 // (outputs, inputs)
    const float *bias = nullptr;         // (outputs)
    int inputs = 0;
    const float *norm_weight = nullptr;  // (inputs) of a layer norm before it
    const float *norm_bias = nullptr;
    std::vector<float> factor{};         // per packed output
};

// The layer norm's affine part is folded in: W (g x + b) + c = (W g) x + (W b + c).
Linear pack_linear(int dtype, const Source &from, const Order &outputs, const Order &inputs, Activations activations = Activations::any) {
    if (dtype == SWK_INT8) return to_int8(pack_linear(SWK_FLOAT32, from, outputs, inputs), activations);
    Linear linear;
    linear.panels = (int)outputs.size() / PANEL;
    linear.depth = (int)inputs.size();
    linear.weight = Buffer(outputs.size() * inputs.size() * (dtype == SWK_BFLOAT16 ? sizeof(bf16) : sizeof(float)));
    linear.bias = Buffer(outputs.size() * sizeof(float));
    for (size_t n = 0; n < outputs.size(); n++) {
        if (outputs[n] < 0) continue;
        const float *row = from.weight + (size_t)outputs[n] * from.inputs, factor = from.factor.empty() ? 1.f : from.factor[n];
        const size_t base = n / PANEL * PANEL * inputs.size(), column = n % PANEL;
        double bias = from.bias ? from.bias[outputs[n]] : 0.;
        for (size_t k = 0; k < inputs.size(); k++) {
            if (inputs[k] < 0) continue;
            const float value = row[inputs[k]] * (from.norm_weight ? from.norm_weight[inputs[k]] : 1.f) * factor;
            if (from.norm_bias) bias += (double)row[inputs[k]] * from.norm_bias[inputs[k]];
            if (dtype == SWK_BFLOAT16) linear.weight.as<bf16>()[base + k / 2 * 2 * PANEL + column * 2 + k % 2] = to_bf16(value);
            else linear.weight.as<float>()[base + k * PANEL + column] = value;
        }
        linear.bias.as<float>()[n] = (float)(bias * factor);
    }
    return linear;
}

// What patch embedding and classifier compute in: few operations, and the ends of the network, where int8 costs the most accuracy.
int around(int dtype) { return dtype == SWK_INT8 ? SWK_BFLOAT16 : dtype; }

Buffer padded(const float *values, int channels) {
    Buffer buffer((size_t)panels_of(channels) * PANEL * sizeof(float));
    if (values) std::memcpy(buffer.as<float>(), values, channels * sizeof(float));
    return buffer;
}

Norm pack_norm(const float *weight, const float *bias, int channels) { return {padded(weight, channels), padded(bias, channels)}; }

Heads layout_of(int heads, int dim) {
    Heads h{heads, dim, 1, panels_of(dim), heads};
    if (dim == 8 || dim == 16) {
        h.per_group = PANEL / dim;
        h.groups = (heads + h.per_group - 1) / h.per_group;
    }
    return h;
}

// The head and channel of a column of the groups; false where there is none.
bool find(const Heads &heads, int column, int &head, int &d) {
    const int width = heads.panels * PANEL, within = column % width;
    head = column / width * heads.per_group + (heads.per_group > 1 ? within / heads.dim : 0);
    d = heads.per_group > 1 ? within % heads.dim : within;
    return head < heads.count && d < heads.dim;
}

Order group_order(const Heads &heads) {
    Order order(heads.groups * heads.panels * PANEL, -1);
    for (size_t c = 0; c < order.size(); c++) {
        int head, d;
        if (find(heads, (int)c, head, d)) order[c] = head * heads.dim + d;
    }
    return order;
}

// q, k and v of a group next to each other; queries carry version 1's scale.
Order qkv_order(const Block &block, const float *scale, std::vector<float> &factor) {
    const Order groups = group_order(block.heads);
    const int width = block.heads.panels * PANEL;
    Order order;
    for (int group = 0; group < block.heads.groups; group++)
        for (int part = 0; part < 3; part++)
            for (int c = 0; c < width; c++) {
                const int channel = groups[group * width + c];
                order.push_back(channel < 0 ? -1 : part * block.channels + channel);
                const bool scaled = block.version == 1 && part == 0 && channel >= 0;
                factor.push_back(scaled ? scale[channel / block.heads.dim] * LOG2_E : 1.f);
            }
    return order;
}

// k or v of a padded token, which is what the projection makes of zeros: its bias.
Buffer padding_of(const Block &block, const float *bias) {
    const Order groups = group_order(block.heads);
    Buffer buffer(groups.size() * sizeof(float));
    for (size_t c = 0; c < groups.size(); c++)
        if (bias && groups[c] >= 0) buffer.as<float>()[c] = bias[groups[c]];
    return buffer;
}

// Version 2 gives keys the length 1.
void to_unit(const Block &block, float *key) {
    const Order groups = group_order(block.heads);
    std::vector<double> squares(block.heads.count);
    for (size_t c = 0; c < groups.size(); c++)
        if (groups[c] >= 0) squares[groups[c] / block.heads.dim] += (double)key[c] * key[c];
    for (size_t c = 0; c < groups.size(); c++)
        if (groups[c] >= 0) key[c] = (float)(key[c] / std::fmax(std::sqrt(squares[groups[c] / block.heads.dim]), 1e-12));
}

Buffer pack_position(const Block &block, const float *position) {
    Buffer buffer((size_t)block.heads.count * block.tokens * block.keys * sizeof(float));
    for (size_t row = 0; row < (size_t)block.heads.count * block.tokens; row++)
        for (int j = 0; j < block.keys; j++)
            buffer.as<float>()[row * block.keys + j] = j < block.tokens ? position[row * block.tokens + j] * LOG2_E : NEVER;
    return buffer;
}

Source linear_source(const float *weight, const float *bias, int inputs, const float *norm_weight = nullptr, const float *norm_bias = nullptr) {
    return {weight, bias, inputs, norm_weight, norm_bias};
}

size_t bytes_of(const Linear &l) { return l.weight.bytes() + l.bias.bytes() + l.scale.bytes() + l.start.bytes(); }
size_t bytes_of(const Norm &n) { return n.weight.bytes() + n.bias.bytes(); }

}  // namespace

Block pack_block(int dtype, const swk_block_weights &w) {
    Block b{};
    b.version = w.version, b.channels = w.channels;
    b.window_h = w.window_h, b.window_w = w.window_w;
    b.tokens = w.window_h * w.window_w;
    b.keys = panels_of(b.tokens) * PANEL;
    b.heads = layout_of(w.heads, w.channels / w.heads);
    b.hidden_panels = panels_of(w.hidden);
    const bool first = w.version == 1;
    const Order channels = in_order(w.channels), hidden = in_order(w.hidden);

    Source qkv = linear_source(w.qkv_weight, w.qkv_bias, w.channels, first ? w.norm1_weight : nullptr, first ? w.norm1_bias : nullptr);
    const Order outputs = qkv_order(b, w.scale, qkv.factor);
    b.qkv = pack_linear(dtype, qkv, outputs, channels);
    b.proj = pack_linear(dtype, linear_source(w.proj_weight, w.proj_bias, w.channels), channels, group_order(b.heads));
    const Source fc1 = linear_source(w.fc1_weight, w.fc1_bias, w.channels, first ? w.norm2_weight : nullptr, first ? w.norm2_bias : nullptr);
    b.fc1 = pack_linear(dtype, fc1, hidden, channels);
    b.fc2 = pack_linear(dtype, linear_source(w.fc2_weight, w.fc2_bias, w.hidden), channels, hidden, Activations::gelu);

    b.padded_key = padding_of(b, w.qkv_bias ? w.qkv_bias + w.channels : nullptr);
    b.padded_value = padding_of(b, w.qkv_bias ? w.qkv_bias + 2 * w.channels : nullptr);
    b.position = pack_position(b, w.position);
    if (!first) {
        to_unit(b, b.padded_key.as<float>());
        b.norm1 = pack_norm(w.norm1_weight, w.norm1_bias, w.channels);
        b.norm2 = pack_norm(w.norm2_weight, w.norm2_bias, w.channels);
        b.scale = Buffer((size_t)b.heads.groups * b.heads.per_group * sizeof(float));
        for (int h = 0; h < w.heads; h++) b.scale.as<float>()[h] = w.scale[h] * LOG2_E;
    }
    return b;
}

Embed pack_embed(int dtype, int in_chans, int patch_h, int patch_w, int channels, const float *weight, const float *bias,
                 const float *norm_weight, const float *norm_bias) {
    Embed e{};
    e.in_chans = in_chans, e.patch_h = patch_h, e.patch_w = patch_w, e.channels = channels;
    const int pixels = in_chans * patch_h * patch_w;
    Order inputs = in_order(pixels);
    inputs.resize((pixels + 1) / 2 * 2);  // products of bfloat16 take pairs
    e.project = pack_linear(around(dtype), linear_source(weight, bias, pixels), in_order(channels), inputs);
    e.normed = norm_weight != nullptr;
    if (e.normed) e.norm = pack_norm(norm_weight, norm_bias, channels);
    return e;
}

Merge pack_merge(int dtype, int version, int channels, const float *norm_weight, const float *norm_bias, const float *weight) {
    Merge m{};
    m.version = version, m.channels = channels;
    const bool first = version == 1;
    const Source from = linear_source(weight, nullptr, 4 * channels, first ? norm_weight : nullptr, first ? norm_bias : nullptr);
    m.reduce = pack_linear(dtype, from, in_order(2 * channels), in_order(channels, 4));
    if (!first) m.norm = pack_norm(norm_weight, norm_bias, 2 * channels);
    return m;
}

Head pack_head(int dtype, int channels, int classes, const float *norm_weight, const float *norm_bias, const float *weight, const float *bias) {
    Head h{};
    h.channels = channels, h.classes = classes;
    h.norm = pack_norm(norm_weight, norm_bias, channels);
    if (classes) h.linear = pack_linear(around(dtype), linear_source(weight, bias, channels, norm_weight, norm_bias), in_order(classes), in_order(channels));
    return h;
}

size_t bytes_of(const Block &b) {
    return bytes_of(b.qkv) + bytes_of(b.proj) + bytes_of(b.fc1) + bytes_of(b.fc2) + bytes_of(b.norm1) + bytes_of(b.norm2) +
           b.padded_key.bytes() + b.padded_value.bytes() + b.position.bytes() + b.scale.bytes();
}
size_t bytes_of(const Embed &e) { return bytes_of(e.project) + bytes_of(e.norm); }
size_t bytes_of(const Merge &m) { return bytes_of(m.reduce) + bytes_of(m.norm); }
size_t bytes_of(const Head &h) { return bytes_of(h.norm) + bytes_of(h.linear); }

}  // namespace swk
