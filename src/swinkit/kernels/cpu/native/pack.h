// From a model's weights to packed ones.
#pragma once
#include "net.h"

namespace swk {

// What a linear layer takes: anything, or what GELU makes, which is hardly negative.
enum class Activations { any, gelu };

// Weights of float32 [column panel][depth][32] as int8: symmetric, with a scale per output.
Linear to_int8(const Linear &, Activations);

Block pack_block(int dtype, const swk_block_weights &);
Embed pack_embed(int dtype, int in_chans, int patch_h, int patch_w, int channels, const float *weight, const float *bias,
                 const float *norm_weight, const float *norm_bias);
Merge pack_merge(int dtype, int version, int channels, const float *norm_weight, const float *norm_bias, const float *weight);
Head pack_head(int dtype, int channels, int classes, const float *norm_weight, const float *norm_bias, const float *weight, const float *bias);

size_t bytes_of(const Block &);
size_t bytes_of(const Embed &);
size_t bytes_of(const Merge &);
size_t bytes_of(const Head &);

}  // namespace swk
