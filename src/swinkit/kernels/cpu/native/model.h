// A whole network: its packed weights in order, and the scratch that its runs take turns with.
#pragma once
#include <mutex>
#include <vector>

#include "kernels.h"

namespace swk {

struct Stage {
    std::vector<Block> blocks;
    std::vector<Merge> merge;  // none after the last stage
};

}  // namespace swk

struct swk_net {
    const swk::Kernels *kernels;
    int dtype;
    swk::Embed embed{};
    std::vector<swk::Stage> stages;
    std::vector<swk::Head> head;  // none in a backbone
    size_t bytes = 0;

    // Scratch of finished runs, for the next ones.
    static constexpr size_t SPARES = 4, LARGEST_SPARE = (size_t)256 << 20;
    mutable std::mutex spare_lock;
    mutable std::vector<swk::Buffer> spare;
};
