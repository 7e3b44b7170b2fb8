#define SWK_BF16
#include "simd_avx512.h"
//
#include "table.h"

const swk::Kernels *const swk::avx512_bfloat16 = &table_of<bf16>;
