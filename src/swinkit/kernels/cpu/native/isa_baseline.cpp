#include "simd_generic.h"
//
#include "table.h"

const swk::Kernels *const swk::baseline_float = &table_of<float>;
