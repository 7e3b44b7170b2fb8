#include <cmath>

#include "pack.h"

namespace swk {
namespace {

// The largest size of a column, or NaN if it has one or an infinity in it.
float largest_of(const float *column, int depth) {
    float most = 0;
    for (int k = 0; k < depth; k++) {
        const float size = std::fabs(column[(size_t)k * PANEL]);
        if (!std::isfinite(size)) return NAN;
        most = size > most ? size : most;
    }
    return most;
}

}  // namespace

Linear to_int8(const Linear &from, Activations activations) {
    Linear to;
    const size_t columns = (size_t)from.panels * PANEL;
    to.panels = from.panels, to.depth = from.depth;
    to.weight = Buffer(columns * from.depth);
    to.bias = Buffer(columns * sizeof(float));
    to.scale = Buffer(columns * sizeof(float));
    to.start = Buffer(columns * sizeof(int));
    for (size_t n = 0; n < columns; n++) {
        const float *column = from.weight.as<float>() + n / PANEL * PANEL * from.depth + n % PANEL;
        int8_t *packed = to.weight.as<int8_t>() + n / PANEL * PANEL * from.depth + n % PANEL * 4;
        const float most = largest_of(column, from.depth), factor = most > 0 ? 127.f / most : 0.f;
        long total = 0;
        for (int k = 0; k < from.depth && factor > 0; k++) {
            const int8_t whole = (int8_t)std::lrintf(std::fmax(-127.f, std::fmin(127.f, column[(size_t)k * PANEL] * factor)));
            packed[k / 4 * 4 * PANEL + k % 4] = whole;
            total += whole;
        }
        const float scale = to.scale.as<float>()[n] = most / 127.f;
        to.bias.as<float>()[n] = from.bias.as<float>()[n];
        if (activations == Activations::gelu) to.bias.as<float>()[n] -= GELU_OFFSET * scale * (float)total;
        else to.start.as<int>()[n] = (int)(-MIDDLE * total);
    }
    return to;
}

}  // namespace swk
