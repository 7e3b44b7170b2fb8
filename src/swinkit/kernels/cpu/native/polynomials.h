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

// x * Phi(x). Phi(x) - 1/2 is odd: y * P(y * y) for y = x within +-BOUND, beyond which Phi is 0 or 1 to this accuracy. A NaN comes out
// as NaN, through the last product.
template <> struct Gelu<float> {  // 6e-7, of which 6e-8 the fit; in 2 * (y / BOUND)^2 - 1, where a high degree loses no accuracy
    static constexpr float BOUND = 5.4f;
    static constexpr float C[15] = {1.309281141e-01f,  -6.532798707e-02f, 4.849940166e-02f,  -3.920932487e-02f, 3.212102875e-02f,
                                    -2.572182752e-02f, 1.960878633e-02f,  -1.406483073e-02f, 9.786760435e-03f,  -6.515192334e-03f,
                                    3.408039222e-03f,  -1.373298466e-03f, 1.099292655e-03f,  -9.620144265e-04f, 3.156366583e-04f};
    static INLINE Vec variable(Vec square) { return fma(square, set1(2 / (BOUND * BOUND)), set1(-1.f)); }
};
template <> struct Gelu<bf16> {  // 1.9e-4 for |x| < 10
    static constexpr float BOUND = 4.f;
    static constexpr float C[7] = {3.978833258e-01f, -6.457310170e-02f, 8.772384375e-03f, -8.140147547e-04f,
                                   4.795545829e-05f, -1.598599852e-06f, 2.278140165e-08f};
    static INLINE Vec variable(Vec square) { return square; }
};

template <class T> INLINE Vec phi(Vec x) {
    constexpr int DEGREE = sizeof(Gelu<T>::C) / sizeof(float) - 1;
    const Vec y = within(x, Gelu<T>::BOUND);
    return fma(y, polynomial<DEGREE>(Gelu<T>::variable(y * y), Gelu<T>::C), set1(.5f));
}

template <class T> INLINE Vec gelu(Vec x) { return x * phi<T>(x); }

template <class T> struct Exp2;

// 2^f on [-1/2, 1/2].
template <> struct Exp2<float> {  // 2e-7
    static constexpr float C[6] = {1.000000072e+00f, 6.931469670e-01f, 2.402211973e-01f, 5.550713304e-02f, 9.675541257e-03f, 1.327646228e-03f};
};
template <> struct Exp2<bf16> {  // 1e-4
    static constexpr float C[4] = {9.999280743e-01f, 6.932610011e-01f, 2.426111157e-01f, 5.517158427e-02f};
};

// 2^x for x <= 0.
template <class T> INLINE Vec exp2(Vec x) {
    constexpr int DEGREE = sizeof(Exp2<T>::C) / sizeof(float) - 1;
    x = scalable(x);
    const Vec whole = round_whole(x);
    return times_power_of_two(polynomial<DEGREE>(x - whole, Exp2<T>::C), whole);
}

template <class T> struct GeluSlope;

// The derivative of GELU, Phi(x) + x * exp(-x^2 / 2) / sqrt(2 pi). Less 1/2 it is odd too, and 0 or 1 beyond +-BOUND; a NaN stays one.
template <> struct GeluSlope<float> {  // 3e-7
    static constexpr float BOUND = 5.8f;
    static constexpr float C[18] = {1.219987749e-01f,  -6.165747107e-02f, 4.863595464e-02f,  -4.619703695e-02f, 5.016049556e-02f,  -5.771541711e-02f,
                                    6.508759827e-02f,  -6.967924099e-02f, 6.976230361e-02f,  -6.029717769e-02f, 4.373252985e-02f,  -3.657137672e-02f,
                                    3.496822710e-02f,  -1.785237133e-02f, 3.649560309e-04f,  -2.943054758e-03f, 7.334800513e-03f,  -2.925583114e-03f};
    static INLINE Vec variable(Vec square) { return fma(square, set1(2 / (BOUND * BOUND)), set1(-1.f)); }
};
template <> struct GeluSlope<bf16> {  // 1.5e-4
    static constexpr float BOUND = 4.5f;
    static constexpr float C[10] = {7.976261391e-01f,  -2.649256748e-01f, 5.860930518e-02f,  -8.815861968e-03f, 9.405429947e-04f,
                                    -7.122213473e-05f, 3.721950387e-06f,  -1.268061180e-07f, 2.521338501e-09f,  -2.210823874e-11f};
    static INLINE Vec variable(Vec square) { return square; }
};

template <class T> INLINE Vec gelu_slope(Vec x) {
    using G = GeluSlope<T>;
    const Vec y = at_least(at_most(x, G::BOUND), -G::BOUND);
    return fma(y, polynomial<sizeof(G::C) / sizeof(float) - 1>(G::variable(y * y), G::C), set1(.5f));
}

}  // namespace
