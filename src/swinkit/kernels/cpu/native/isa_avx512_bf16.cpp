#define SWK_BF16
#include "simd_avx512.h"
//
#include "table.h"

static constexpr swk::Kernels table = table_of<bf16>();
const swk::Kernels *const swk::avx512_bfloat16 = &table;
