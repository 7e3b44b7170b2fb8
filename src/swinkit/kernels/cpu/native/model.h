// A whole network: its packed weights in order, and the scratch that its runs take turns with.
#pragma once
#include <vector>

#include "kernels.h"
#include "spares.h"

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

    mutable swk::Spares spares;
};
