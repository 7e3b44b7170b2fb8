#include "simd_generic.h"
//
#include "table.h"

static constexpr swk::Kernels table = table_of<float>();
const swk::Kernels *const swk::baseline_float = &table;
