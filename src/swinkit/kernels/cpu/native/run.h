#pragma once
#include "model.h"

namespace swk {

// Throws std::bad_alloc.
void run(const swk_net &, const swk_job &);

}  // namespace swk
