// The two kinds of numbers that the AEV is computed with: plain ones, and dual ones (a + b eps, eps^2 = 0), which carry
// a derivative along. A backward pass over dual numbers is a double backward pass, with no formula written twice.
#pragma once

#include "simd.h"

namespace ANIPOT_ISA {

template <class T_>
struct Real {
    typedef T_ T;
    static constexpr bool dual = false;
    Vec<T> a;
    static INLINE Real of(T s) { return {splat<T>(s)}; }
};

template <class T_>
struct Dual {
    typedef T_ T;
    static constexpr bool dual = true;
    Vec<T> a, b;
    static INLINE Dual of(T s) { return {splat<T>(s), Vec<T>{}}; }
};

#define REAL           \
    template <class T> \
    INLINE Real<T>
REAL operator+(Real<T> x, Real<T> y) { return {x.a + y.a}; }
REAL operator-(Real<T> x, Real<T> y) { return {x.a - y.a}; }
REAL operator*(Real<T> x, Real<T> y) { return {x.a * y.a}; }
REAL operator/(Real<T> x, Real<T> y) { return {x.a / y.a}; }
template <class T>
INLINE Real<T> operator*(Real<T> x, typename Real<T>::T s) {
    return {x.a * s};
}
template <class T>
INLINE Real<T> operator+(Real<T> x, typename Real<T>::T s) {
    return {x.a + s};
}
// Factors without a derivative.
template <class T>
INLINE Real<T> scaled(Real<T> x, Vec<T> s) {
    return {x.a * s};
}
REAL nexp(Real<T> x) { return {vexp(x.a)}; }
REAL nsqrt(Real<T> x) { return {vsqrt(x.a)}; }
template <class T>
INLINE void nsincos(Real<T> x, Real<T>& s, Real<T>& c) {
    vsincos<T>(x.a, s.a, c.a);
}
REAL nfirst(long count, Real<T> x, Real<T> y) { return {choose_first<T>(count, x.a, y.a)}; }
// Zero in all other lanes.
REAL nonly(Int<T> lanes, Real<T> x) { return {lanes ? x.a : Vec<T>{}}; }
// Zero where x < limit: the derivative there is zero too.
REAL at_least(Real<T> x, typename Real<T>::T limit) { return {vmax<T>(x.a, splat<T>(limit))}; }
REAL npermute(Real<T> x, Int<T> from) { return {permute<T>(x.a, from)}; }
#undef REAL

#define DUAL           \
    template <class T> \
    INLINE Dual<T>
DUAL operator+(Dual<T> x, Dual<T> y) { return {x.a + y.a, x.b + y.b}; }
DUAL operator-(Dual<T> x, Dual<T> y) { return {x.a - y.a, x.b - y.b}; }
DUAL operator*(Dual<T> x, Dual<T> y) { return {x.a * y.a, x.a * y.b + x.b * y.a}; }
DUAL operator/(Dual<T> x, Dual<T> y) {
    Vec<T> q = x.a / y.a;
    return {q, (x.b - q * y.b) / y.a};
}
template <class T>
INLINE Dual<T> operator*(Dual<T> x, typename Dual<T>::T s) {
    return {x.a * s, x.b * s};
}
template <class T>
INLINE Dual<T> operator+(Dual<T> x, typename Dual<T>::T s) {
    return {x.a + s, x.b};
}
template <class T>
INLINE Dual<T> scaled(Dual<T> x, Vec<T> s) {
    return {x.a * s, x.b * s};
}
DUAL nexp(Dual<T> x) {
    Vec<T> e = vexp(x.a);
    return {e, e * x.b};
}
DUAL nsqrt(Dual<T> x) {
    Vec<T> r = vsqrt(x.a);
    return {r, x.b / (r + r)};
}
template <class T>
INLINE void nsincos(Dual<T> x, Dual<T>& s, Dual<T>& c) {
    vsincos<T>(x.a, s.a, c.a);
    s.b = c.a * x.b;
    c.b = -s.a * x.b;
}
DUAL nfirst(long count, Dual<T> x, Dual<T> y) {
    return {choose_first<T>(count, x.a, y.a), choose_first<T>(count, x.b, y.b)};
}
DUAL nonly(Int<T> lanes, Dual<T> x) { return {lanes ? x.a : Vec<T>{}, lanes ? x.b : Vec<T>{}}; }
DUAL at_least(Dual<T> x, typename Dual<T>::T limit) {
    return {vmax<T>(x.a, splat<T>(limit)), x.a < splat<T>(limit) ? Vec<T>{} : x.b};
}
DUAL npermute(Dual<T> x, Int<T> from) { return {permute<T>(x.a, from), permute<T>(x.b, from)}; }
#undef DUAL

// Where arrays of numbers stand: values, and for dual numbers tangents beside them.
template <class N>
struct Array;
template <class T>
struct Array<Real<T>> {
    T* a;
    INLINE Array operator+(long i) const { return {a + i}; }
    INLINE Real<T> get(long i) const { return {load(a + i)}; }
    INLINE Real<T> get_splat(long i) const { return {splat<T>(a[i])}; }
    INLINE void put(long i, Real<T> x) const { store<T>(a + i, x.a); }
    INLINE void put_first(long i, Real<T> x, int count) const { store_first<T>(a + i, x.a, count); }
    INLINE void add_one(long i, Array from, long j) const { a[i] += from.a[j]; }
    INLINE void copy_one(long i, Array from, long j) const { a[i] = from.a[j]; }
    INLINE void clear_one(long i) const { a[i] = 0; }
};
template <class T>
struct Array<Dual<T>> {
    T *a, *b;
    INLINE Array operator+(long i) const { return {a + i, b + i}; }
    INLINE Dual<T> get(long i) const { return {load(a + i), load(b + i)}; }
    INLINE Dual<T> get_splat(long i) const { return {splat<T>(a[i]), splat<T>(b[i])}; }
    INLINE void put(long i, Dual<T> x) const {
        store<T>(a + i, x.a);
        store<T>(b + i, x.b);
    }
    INLINE void put_first(long i, Dual<T> x, int count) const {
        store_first<T>(a + i, x.a, count);
        store_first<T>(b + i, x.b, count);
    }
    INLINE void add_one(long i, Array from, long j) const {
        a[i] += from.a[j];
        b[i] += from.b[j];
    }
    INLINE void copy_one(long i, Array from, long j) const {
        a[i] = from.a[j];
        b[i] = from.b[j];
    }
    INLINE void clear_one(long i) const { a[i] = b[i] = 0; }
};

// base^power and base^(power - 1) for 0 <= base, both with their derivatives if dual.
template <class T>
INLINE Vec<T> integer_power(Vec<T> base, int n) {
    if (n >= 30 && n <= 32) {  // Zeta of ANI-1x and what its derivatives need, without a loop
        const Vec<T> two = base * base, four = two * two, eight = four * four, sixteen = eight * eight;
        if (n == 32) return sixteen * sixteen;
        const Vec<T> thirty = (two * four) * (eight * sixteen);
        return n == 30 ? thirty : thirty * base;
    }
    Vec<T> result = splat<T>(1);
    for (; n > 0; n >>= 1) {
        if (n & 1) result *= base;
        if (n > 1) base *= base;
    }
    return result;
}
struct Exponent {
    double value;
    int integer;  // the same, or 0 where value is not a small integer
};
template <class T>
INLINE void powers(Vec<T> base, Exponent zeta, Vec<T>& p, Vec<T>& below) {
    if (zeta.integer) {
        below = integer_power<T>(base, zeta.integer - 1);
    } else {
        base = vmax<T>(base, splat<T>((T)1e-30));
        below = vexp(vlog(base) * (T)(zeta.value - 1));
    }
    p = below * base;
}
template <class T>
INLINE void npowers(Real<T> base, Exponent zeta, Real<T>& p, Real<T>& below) {
    powers<T>(base.a, zeta, p.a, below.a);
}
template <class T>
INLINE Real<T> npower(Real<T> base, Exponent zeta) {
    if (zeta.integer) return {integer_power<T>(base.a, zeta.integer)};
    return {vexp(vlog(vmax<T>(base.a, splat<T>((T)1e-30))) * (T)zeta.value)};
}
template <class T>
INLINE void npowers(Dual<T> base, Exponent zeta, Dual<T>& p, Dual<T>& below) {
    Vec<T> two_below;
    Exponent less = {zeta.value - 1, zeta.integer - 1};
    if (zeta.integer == 1) {
        p.a = base.a;
        below.a = splat<T>(1);
        two_below = Vec<T>{};
    } else if (zeta.integer) {
        powers<T>(base.a, less, below.a, two_below);
        p.a = below.a * base.a;
    } else {
        less.integer = 0;
        powers<T>(base.a, less, below.a, two_below);
        p.a = below.a * base.a;
    }
    p.b = below.a * base.b * (T)zeta.value;
    below.b = two_below * base.b * (T)(zeta.value - 1);
}

template <class T>
INLINE Dual<T> npower(Dual<T> base, Exponent zeta) {
    Dual<T> p, below;
    npowers(base, zeta, p, below);
    return p;
}

}  // namespace ANIPOT_ISA
