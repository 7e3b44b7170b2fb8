#include "simd_avx512.h"
//
#include "table.h"

static constexpr swk::Kernels table = table_of<float>();
const swk::Kernels *const swk::avx512_float = &table;
