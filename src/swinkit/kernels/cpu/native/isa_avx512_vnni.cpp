#define SWK_BF16
#define SWK_VNNI
#include "simd_avx512.h"
//
#include "table.h"

static constexpr swk::Kernels table = table_of<bf16, u8>(copy_attended, copy_hidden);
const swk::Kernels *const swk::avx512_int8 = &table;
