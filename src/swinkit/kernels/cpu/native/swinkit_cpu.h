// The C interface of swinkit's CPU inference library: a Swin Transformer as packed weights, and one call that runs it.
//
// Nothing of PyTorch is linked or included, so one library serves every version of it. All tensors are float32 and contiguous;
// weights are copied while packing and may be freed afterwards. A function that can fail returns 0 or a pointer on success, and
// an error below or a null pointer otherwise.
//
//     B images | H W token grid | C channels | K heads | D channels per head | N tokens per window
#pragma once

#define SWK_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

typedef struct swk_net swk_net;

enum { SWK_OK = 0, SWK_NO_MEMORY = 1, SWK_BAD_ARGUMENT = 2 };
enum { SWK_FLOAT32 = 0, SWK_BFLOAT16 = 1, SWK_INT8 = 2 };  // int8: linear layers; attention, patch embedding and classifier in bfloat16
enum { SWK_BASELINE = 0, SWK_AVX2 = 1, SWK_AVX512 = 2, SWK_AVX512_BF16 = 3 };

// A block's weights, with the names of model.py. `position` (K, N, N) holds the relative position bias; `scale` (K) what the scores are
// multiplied by. A missing bias is null.
typedef struct {
    int version;      // 1: norms before the branches. 2: cosine attention and norms after them
    int channels, heads, hidden;
    int window_h, window_w;
    const float *norm1_weight, *norm1_bias, *qkv_weight, *qkv_bias, *proj_weight, *proj_bias;
    const float *norm2_weight, *norm2_bias, *fc1_weight, *fc1_bias, *fc2_weight, *fc2_bias;
    const float *position, *scale;
} swk_block_weights;

// What to run: (B, in_chans, height, width) pixels in, any of the outputs out (null: not wanted).
typedef struct {
    const float *pixels;
    int batch, height, width;
    int floors;             // patches that the image fills only in part are left out (1) or padded with zeros (0)
    const float *position;  // (H, W, C) absolute position embedding of this token grid, or null
    const int *shifts;      // one (h, w) pair per block: how far its windows move
    float *const *maps;     // one per stage, each (B, H, W, C) or null: the map before merging
    float *features;        // (B, H, W, C) after the last norm
    float *pooled;          // (B, C)
    float *logits;          // (B, classes)
    int threads;
} swk_job;

// Window attention over a whole map: the function `window_attention` of model.py and its gradients. `qkv`, `out` and their gradients are of
// the given dtype, all else is float32; all contiguous.
typedef struct {
    int batch, height, width, heads, dim;
    int window_h, window_w, shift_h, shift_w;
    int cosine;          // queries and keys of length 1 (version 2)
    const void *qkv;     // (B, H, W, 3, K, D)
    const float *bias;   // (K, N, N)
    const float *pad;    // (3, K, D): q, k and v of padding
    const float *scale;  // (K)
    void *out;           // (B, H, W, K, D); not looked at by the backward pass
    float *lse;          // (B, H, W, K): written by the forward pass, read by the backward pass; null if none follows
    const void *out_grad;
    void *qkv_grad;
    float *bias_grad, *pad_grad, *scale_grad;
    int threads;
    // Runs work(context) in this many threads and returns when all are done, as OpenMP's GOMP_parallel does; null: the library's own threads.
    // Threads of a second pool would compete with those of the caller's, which go on spinning for a while after each of its own operations.
    void (*parallel)(void (*work)(void *), void *context, unsigned threads, unsigned flags);
} swk_attention;

// A linear layer, y = x W^T + b, on rows of a batch, and its gradients; all contiguous. x, y and their gradients are of the given dtype unless
// said to be wide, which is float32; all else is float32.
typedef struct {
    long rows;
    int inputs, outputs;
    int gelu;             // x goes through GELU first; x_grad is that of x itself
    int x_wide;           // not with gelu
    float norm_epsilon;
    const float *norm_weight, *norm_bias;  // (inputs): x goes through LayerNorm first, and x_grad is that of what comes out; or null
    const void *x;        // (rows, inputs)
    const float *weight;  // (outputs, inputs)
    const float *bias;    // (outputs), or null
    const void *residual; // (rows, outputs): added to y, or null; of the given dtype
    void *y;              // (rows, outputs)
    int y_grad_wide, x_grad_wide;
    const void *y_grad;
    void *x_grad;         // the gradients that are wanted; the others null
    float *weight_grad, *bias_grad;
    int threads;
    void (*parallel)(void (*work)(void *), void *context, unsigned threads, unsigned flags);  // as above
} swk_linear;

// LayerNorm over the channels of each row and its gradients; all contiguous. x, y and their gradients are of the given dtype, all else is float32.
typedef struct {
    long rows;
    int channels;         // a multiple of 32
    float epsilon;
    const void *x;        // (rows, channels)
    const float *weight;  // (channels)
    const float *bias;    // (channels); not looked at by the backward pass
    void *y;              // (rows, channels)
    const void *y_grad;
    const void *passed;   // (rows, channels): added to x_grad, as the gradient that came along beside the norm; or null
    void *x_grad;
    float *weight_grad, *bias_grad;
    int threads;
    void (*parallel)(void (*work)(void *), void *context, unsigned threads, unsigned flags);  // as above
} swk_norm;

// Changes with this file, so that Python does not call a library of another.
#define SWK_VERSION 7
SWK_API int swk_version(void);

SWK_API int swk_isa(void);                  // the best instruction set that this machine and this library share
SWK_API const char *swk_isa_name(int isa);  // null for one that the library was built without
SWK_API int swk_has(int isa, int dtype);

SWK_API swk_net *swk_new(int isa, int dtype);
SWK_API int swk_embed(swk_net *, int in_chans, int patch_h, int patch_w, int channels, const float *weight, const float *bias,
              const float *norm_weight, const float *norm_bias);
SWK_API int swk_block(swk_net *, const swk_block_weights *);
SWK_API int swk_merge(swk_net *, int version, int channels, const float *norm_weight, const float *norm_bias, const float *reduction_weight);
SWK_API int swk_head(swk_net *, int channels, int classes, const float *norm_weight, const float *norm_bias, const float *weight,
             const float *bias);
SWK_API long swk_bytes(const swk_net *);  // memory of the packed weights
SWK_API void swk_free(swk_net *);

SWK_API int swk_run(const swk_net *, const swk_job *);

SWK_API int swk_attention_forward(int isa, int dtype, const swk_attention *);
SWK_API int swk_attention_backward(int isa, int dtype, const swk_attention *);
SWK_API int swk_linear_forward(int isa, int dtype, const swk_linear *);
SWK_API int swk_linear_backward(int isa, int dtype, const swk_linear *);
SWK_API int swk_norm_forward(int isa, int dtype, const swk_norm *);
SWK_API int swk_norm_backward(int isa, int dtype, const swk_norm *);

// GFLOP/s of the matrix kernel alone on (rows, depth) x (depth, columns), weights in cache: the bound for everything else.
SWK_API double swk_gemm_rate(int isa, int dtype, int rows, int depth, int columns, double seconds, int threads);

#ifdef __cplusplus
}
#endif
