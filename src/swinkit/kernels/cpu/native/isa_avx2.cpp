#include "simd_avx2.h"
//
#include "table.h"

static constexpr swk::Kernels table = table_of<float>();
const swk::Kernels *const swk::avx2_float = &table;
