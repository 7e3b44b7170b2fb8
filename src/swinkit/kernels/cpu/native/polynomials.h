// GELU and exp2 as polynomials on vectors, to the accuracy that the element type is worth.
#pragma once
#include "element.h"

namespace {

template <int DEGREE> INLINE Vec polynomial(Vec x, const float (&c)[DEGREE + 1]) {
    Vec p = set1(c[DEGREE]);
#pragma GCC unroll 16
    for (int i = DEGREE - 1; i >= 0; i--) p = fma(p, x, set1(c[i]));
    return p;
}

template <class T> struct Gelu;

// x * Phi(x). Phi(x) - 1/2 is odd: y * P(y * y) for y = x within +-BOUND, beyond which Phi is 0 or 1 to this accuracy; P is fitted in
// the variable 2 * (y / BOUND)^2 - 1. A NaN comes out as NaN, through the last product.
template <> struct Gelu<float> {  // 1.3e-6
    static constexpr float BOUND = 5.2f;
    static constexpr float C[13] = {1.359499325e-01f,  -6.774340249e-02f, 5.003016776e-02f,  -3.994129683e-02f, 3.190725949e-02f,
                                    -2.459343034e-02f, 1.838718742e-02f,  -1.310327550e-02f, 7.557767088e-03f,  -3.505796088e-03f,
                                    2.853687622e-03f,  -2.503682293e-03f, 8.587334934e-04f};
};
template <> struct Gelu<bf16> {  // 1.9e-4
    static constexpr float BOUND = 4.f;
    static constexpr float C[7] = {1.759702178e-01f,  -8.442658228e-02f, 5.541013029e-02f, -3.546258158e-02f,
                                   2.409136269e-02f,  -1.655061230e-02f, 5.971697353e-03f};
};

template <class T> INLINE Vec gelu(Vec x) {
    constexpr float BOUND = Gelu<T>::BOUND;
    constexpr int DEGREE = sizeof(Gelu<T>::C) / sizeof(float) - 1;
    Vec y = at_least(at_most(x, BOUND), -BOUND);
    Vec t = fma(y * y, set1(2 / (BOUND * BOUND)), set1(-1.f));
    return x * fma(y, polynomial<DEGREE>(t, Gelu<T>::C), set1(.5f));
}

template <class T> struct Exp2;

// 2^f on [-1/2, 1/2].
template <> struct Exp2<float> {  // 2e-7
    static constexpr float C[6] = {1.000000072e+00f, 6.931469670e-01f, 2.402211973e-01f, 5.550713304e-02f, 9.675541257e-03f, 1.327646228e-03f};
};
template <> struct Exp2<bf16> {  // 1e-4
    static constexpr float C[4] = {9.999280743e-01f, 6.932610011e-01f, 2.426111157e-01f, 5.517158427e-02f};
};

// 2^x for x <= 0; below -126 it stays there, which no sum of softmax can tell from 0.
template <class T> INLINE Vec exp2(Vec x) {
    constexpr int DEGREE = sizeof(Exp2<T>::C) / sizeof(float) - 1;
    Vec whole = round_whole(at_least(x, -126.f));
    return times_power_of_two(polynomial<DEGREE>(at_least(x, -126.f) - whole, Exp2<T>::C), whole);
}

}  // namespace
