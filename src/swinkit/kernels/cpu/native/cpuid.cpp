// Which instruction set this machine and this library share. Each file of kernels is compiled for one; only what the machine has is called.
#include "kernels.h"

namespace swk {
#if defined(__x86_64__)
namespace {

bool has_vnni() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512vnni");
}

}  // namespace
#endif

const Kernels *kernels(int isa, int dtype) {
    const bool half = dtype != SWK_FLOAT32;
    switch (isa) {
    case SWK_BASELINE: return half ? nullptr : baseline_float;
#if defined(__x86_64__)
    case SWK_AVX2: return half ? nullptr : avx2_float;
    case SWK_AVX512: return half ? nullptr : avx512_float;
    case SWK_AVX512_BF16: return dtype == SWK_INT8 ? has_vnni() ? avx512_int8 : nullptr : half ? avx512_bfloat16 : avx512_float;
#endif
    default: return nullptr;
    }
}

}  // namespace swk

int swk_version(void) { return SWK_VERSION; }

int swk_isa(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (avx512 && __builtin_cpu_supports("avx512bf16")) return SWK_AVX512_BF16;
    if (avx512) return SWK_AVX512;
    if (avx2) return SWK_AVX2;
#endif
    return SWK_BASELINE;
}

const char *swk_isa_name(int isa) {
    static const char *const names[] = {"baseline", "avx2", "avx512", "avx512_bf16"};
    return isa < 0 || isa > SWK_AVX512_BF16 || !swk::kernels(isa, SWK_FLOAT32) ? nullptr : names[isa];
}

int swk_has(int isa, int dtype) { return swk::kernels(isa, dtype) != nullptr; }
