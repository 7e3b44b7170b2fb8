// Packed weights and the layout of everything the kernels touch.
//
// Channels come in panels of 32: one panel is two AVX-512 vectors, one head of the published models, and the unit in which a matrix
// product writes its result. A tile of R token rows lies in memory as [panel][R][32], so that the result of one product is the operand
// of the next without packing, and a kernel walks down a panel with one constant stride. Weights lie as [column panel][depth][32]; for
// bfloat16 as [column panel][depth / 2][32][2], the pairs that its dot product takes, and for int8 as [column panel][depth / 4][32][4]. Padded channels hold zeros everywhere.
#pragma once
#include <cstddef>
#include <cstdint>

#include "memory.h"
#include "swinkit_cpu.h"

namespace swk {

constexpr int PANEL = 32;

inline int panels_of(int channels) { return (channels + PANEL - 1) / PANEL; }

using bf16 = uint16_t;
using u8 = uint8_t;

// int8: activations are u = round(x / s) + 128, with a scale s for each row of a tile. Those after GELU, none of which is below -0.171, are
// u = round((x + 0.171) / s): all 256 steps for the range that there is, and the 0.171 is a constant that the bias takes.
constexpr int MIDDLE = 128;
constexpr float GELU_OFFSET = 0.171f;

struct Linear {
    Buffer weight;  // float, bf16 or int8
    Buffer bias;    // float [panels * 32]
    Buffer scale;   // float [panels * 32], int8 only: what a step of each output's weights is worth
    Buffer start;   // int [panels * 32], int8 only: where the sums begin, so that the middle of the activations counts as zero
    int panels = 0, depth = 0;
};

struct Norm {
    Buffer weight, bias;  // float [panels * 32]; empty where they are folded into the next linear layer
};

// How heads lie in panels: small heads share one, large heads take several.
struct Heads {
    int count, dim;
    int per_group;  // heads that share a panel
    int panels;     // panels of a group
    int groups;
};

struct WindowShape {
    int window_h, window_w, tokens, keys;  // keys: tokens rounded up to a panel
};

struct Block : WindowShape {
    int version, channels;
    Heads heads;
    int hidden_panels;
    Linear qkv, proj, fc1, fc2;  // qkv columns: for each group its q panels, its k panels, its v panels
    Norm norm1, norm2;           // version 2 only
    Buffer padded_key, padded_value;  // float [groups * panels * 32]: k and v of a token that fills up a window
    Buffer position;             // float [heads][tokens][keys], times log2 e; padded keys hold -1e30
    Buffer scale;                // float [heads], times log2 e; version 2 only
};

struct Embed {
    int in_chans, patch_h, patch_w, channels;
    Linear project;
    Norm norm;
    bool normed;
};

struct Merge {
    int version, channels;  // channels of the map that comes in
    Linear reduce;
    Norm norm;  // version 2 only
};

struct Head {
    int channels, classes;
    Norm norm;      // for features; the classifier has it folded in
    Linear linear;  // no panels: the pooled features are the result
};

}  // namespace swk
