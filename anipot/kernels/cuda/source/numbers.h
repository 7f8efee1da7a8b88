// The numbers that AEVs are computed with: plain ones, or with ANIPOT_DUAL dual ones (a + b eps, eps^2 = 0), which carry
// a derivative along. A backward pass over dual numbers is a double backward pass, with no formula written twice.
#pragma once

#include "common.h"

#ifdef ANIPOT_DUAL

struct __align__(2 * sizeof(real)) Dual {
    real a, b;
};
typedef Dual number;

DEVICE Dual operator+(Dual x, Dual y) { return {x.a + y.a, x.b + y.b}; }
DEVICE Dual operator-(Dual x, Dual y) { return {x.a - y.a, x.b - y.b}; }
DEVICE Dual operator*(Dual x, Dual y) { return {x.a * y.a, x.a * y.b + x.b * y.a}; }
DEVICE Dual operator*(Dual x, real s) { return {x.a * s, x.b * s}; }
DEVICE Dual operator+(Dual x, real s) { return {x.a + s, x.b}; }
DEVICE Dual inverse(Dual x) {
    const real q = 1 / x.a;
    return {q, -q * q * x.b};
}
DEVICE Dual exp_of(Dual x) {
    const real e = exp_of(x.a);
    return {e, e * x.b};
}
DEVICE Dual sqrt_of(Dual x) {
    const real r = sqrt_of(x.a);
    return {r, x.b / (r + r)};
}
// Zero below the limit, and its derivative there too.
DEVICE Dual at_least(Dual x, real limit) { return {max_of(x.a, limit), x.a < limit ? (real)0 : x.b}; }
DEVICE real value_of(Dual x) { return x.a; }
DEVICE real result_of(Dual x) { return x.b; }
DEVICE number number_of(real x) { return {x, 0}; }

// sin(pi x) and cos(pi x)
DEVICE void sincospi_of(Dual x, Dual& s, Dual& c) {
    sincospi_of(x.a, s.a, c.a);
    s.b = (real)PI * c.a * x.b;
    c.b = -(real)PI * s.a * x.b;
}

#else

typedef real number;

DEVICE real inverse(real x) { return 1 / x; }
DEVICE real at_least(real x, real limit) { return max_of(x, limit); }
DEVICE real value_of(real x) { return x; }
DEVICE real result_of(real x) { return x; }
DEVICE number number_of(real x) { return x; }

#endif

// base^n for 0 <= n
DEVICE real integer_power(real base, int n) {
    real result = 1;
    for (; n > 0; n >>= 1) {
        if (n & 1) result *= base;
        base *= base;
    }
    return result;
}

struct Exponent {
    real value;
    int integer;  // the same, or 0 where the value is not a small integer
};
DEVICE Exponent exponent_of(double value) {
    const int whole = value <= 64 ? (int)value : 0;
    return {(real)value, whole == value ? whole : 0};
}

// base^(zeta - 1) for 0 <= base
DEVICE real power_below(real base, Exponent zeta) {
    if (zeta.integer) return integer_power(base, zeta.integer - 1);
    return exp_of(log_of(max_of(base, (real)1e-30)) * (zeta.value - 1));
}

// base^zeta and base^(zeta - 1)
#ifdef ANIPOT_DUAL
DEVICE void powers(Dual base, Exponent zeta, Dual& power, Dual& below) {
    if (zeta.integer == 1) {
        power = base;
        below = {1, 0};
        return;
    }
    const real two_below = power_below(base.a, {zeta.value - 1, zeta.integer ? zeta.integer - 1 : 0});
    below.a = two_below * base.a;
    power.a = below.a * base.a;
    power.b = zeta.value * below.a * base.b;
    below.b = (zeta.value - 1) * two_below * base.b;
}
#else
DEVICE void powers(real base, Exponent zeta, real& power, real& below) {
    below = power_below(base, zeta);
    power = below * base;
}
#endif
