#include "simd_avx2.h"
//
#include "table.h"

const swk::Kernels *const swk::avx2_float = &table_of<float>;
