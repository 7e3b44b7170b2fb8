// Runs networks of awkward sizes through the library on exactly sized buffers, for tools that watch memory: AddressSanitizer,
// UndefinedBehaviorSanitizer, valgrind. Prints the mean size of each network's logits, which is the same on every machine, or "nan".
//
//     native_check [instruction set ...]
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "swinkit_cpu.h"

void check_training(const char *name, int isa, int dtype);  // native_check_training.cpp

namespace {

std::mt19937 random_bits(7);

// A heap block of exactly this size, so that one float too many is seen.
std::unique_ptr<float[]> floats(size_t count) {
    std::unique_ptr<float[]> values(new float[count]);
    std::normal_distribution<float> normal(0.f, 0.3f);
    for (size_t i = 0; i < count; i++) values[i] = normal(random_bits);
    return values;
}

struct Shape {
    int version, in_chans, patch, channels, heads, window_h, window_w, classes, hidden_times, batch, height, width, threads, floors;
};

swk_net *build(const Shape &s, int isa, int dtype, int stages) {
    swk_net *net = swk_new(isa, dtype);
    int channels = s.channels, heads = s.heads;
    const auto vector = [](int n) { return floats(n); };
    {
        auto weight = vector(channels * s.in_chans * s.patch * s.patch), bias = vector(channels), g = vector(channels), b = vector(channels);
        swk_embed(net, s.in_chans, s.patch, s.patch, channels, weight.get(), bias.get(), g.get(), b.get());
    }
    for (int stage = 0; stage < stages; stage++) {
        for (int i = 0; i < 2; i++) {
            const int hidden = channels * s.hidden_times, tokens = s.window_h * s.window_w;
            auto n1w = vector(channels), n1b = vector(channels), n2w = vector(channels), n2b = vector(channels);
            auto qkv = vector(3 * channels * channels), qkvb = vector(3 * channels), proj = vector(channels * channels), projb = vector(channels);
            auto fc1 = vector(hidden * channels), fc1b = vector(hidden), fc2 = vector(hidden * channels), fc2b = vector(channels);
            auto position = vector(heads * tokens * tokens), scale = vector(heads);
            swk_block_weights w{s.version, channels, heads, hidden, s.window_h, s.window_w, n1w.get(), n1b.get(), qkv.get(), qkvb.get(),
                                proj.get(), projb.get(), n2w.get(), n2b.get(), fc1.get(), fc1b.get(), fc2.get(), fc2b.get(),
                                position.get(), scale.get()};
            swk_block(net, &w);
        }
        if (stage + 1 == stages) break;
        auto g = vector(s.version == 1 ? 4 * channels : 2 * channels), b = vector(s.version == 1 ? 4 * channels : 2 * channels);
        auto weight = vector(8 * channels * channels);
        swk_merge(net, s.version, channels, g.get(), b.get(), weight.get());
        channels *= 2, heads *= 2;
    }
    auto g = vector(channels), b = vector(channels), weight = vector(s.classes * channels), bias = vector(s.classes);
    swk_head(net, channels, s.classes, g.get(), b.get(), weight.get(), bias.get());
    return net;
}

bool finite(const float *values, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!std::isfinite(values[i])) return false;
    return true;
}

double check(const Shape &s, int isa, int dtype) {
    random_bits.seed(7);
    const int stages = 2, h = s.height, w = s.width, last = s.channels * 2;
    swk_net *net = build(s, isa, dtype, stages);
    const int rows = s.floors ? h / s.patch : (h + s.patch - 1) / s.patch, columns = s.floors ? w / s.patch : (w + s.patch - 1) / s.patch;
    const int rows2 = (rows + 1) / 2, columns2 = (columns + 1) / 2, padded = (s.channels + 31) / 32 * 32;
    auto pixels = floats((size_t)s.batch * s.in_chans * h * w), position = floats((size_t)rows * columns * padded);
    for (int t = 0; t < rows * columns; t++)
        for (int c = s.channels; c < padded; c++) position[t * padded + c] = 0;
    const size_t first = (size_t)s.batch * rows * columns * s.channels, second = (size_t)s.batch * rows2 * columns2 * last;
    std::unique_ptr<float[]> map1(new float[first]), map2(new float[second]), features(new float[second]);
    std::unique_ptr<float[]> pooled(new float[s.batch * last]), logits(new float[s.batch * s.classes]);
    float *maps[] = {map1.get(), map2.get()};
    const int sh = s.window_h / 2, sw = s.window_w / 2, shifts[] = {0, 0, sh, sw, 0, 0, sh, sw};
    const swk_job job{pixels.get(), s.batch, h, w, s.floors, position.get(), shifts, maps, features.get(), pooled.get(), logits.get(), s.threads};
    bool good = true;
    for (int repeat = 0; repeat < 2; repeat++)  // the second takes the first one's scratch
        good = good && swk_run(net, &job) == SWK_OK && finite(map1.get(), first) && finite(map2.get(), second) &&
               finite(features.get(), second) && finite(pooled.get(), s.batch * last) && finite(logits.get(), s.batch * s.classes);
    swk_free(net);
    double total = 0;
    for (int i = 0; i < s.batch * s.classes; i++) total += std::fabs(logits[i]);
    return good ? total / (s.batch * s.classes) : NAN;
}

const Shape SHAPES[] = {
    {1, 3, 4, 32, 1, 7, 7, 10, 4, 2, 56, 44, 1, 0},   // a multiple of nothing
    {1, 1, 2, 48, 2, 3, 5, 33, 2, 3, 29, 31, 3, 0},   // head dimension 24, odd maps
    {2, 3, 4, 32, 4, 4, 4, 5, 4, 1, 37, 61, 2, 1},    // head dimension 8, floored patches
    {2, 2, 3, 24, 3, 7, 2, 1, 3, 2, 25, 18, 4, 0},    // heads that do not fill a panel, pixels that make no pairs
    {1, 3, 4, 64, 1, 12, 12, 65, 1, 1, 60, 52, 2, 0},  // head dimension 64, many keys
    {1, 3, 2, 40, 1, 20, 20, 3, 1, 1, 41, 23, 1, 0},  // several runs of queries
    {1, 3, 8, 32, 2, 1, 1, 3, 4, 1, 8, 8, 2, 0},      // one token
};

}  // namespace

int main(int count, char **names) {
    for (int isa = 0; isa <= swk_isa(); isa++) {
        const char *name = swk_isa_name(isa);
        bool wanted = name && count == 1;
        for (int i = 1; name && i < count; i++) wanted = wanted || !std::strcmp(names[i], name);
        for (int dtype = SWK_FLOAT32; wanted && dtype <= SWK_INT8; dtype++) {
            if (!swk_has(isa, dtype)) continue;
            for (const Shape &shape : SHAPES)
                std::printf("%s %d %d %.6g\n", name, dtype, (int)(&shape - SHAPES), check(shape, isa, dtype));
            if (dtype != SWK_INT8) check_training(name, isa, dtype);
        }
    }
}
