#include "simd_avx512.h"
//
#include "table.h"

const swk::Kernels *const swk::avx512_float = &table_of<float>;
