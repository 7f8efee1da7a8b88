// Atomic environment vectors of one atom: forward and backward, over plain or dual numbers.
//
// The equations stand in representation/aev.py. Triples of one pair of elements are laid out one after the other, and
// LANES of them are computed at once.
#pragma once

#include "memory.h"
#include "number.h"
#include "spec.h"

namespace ANIPOT_ISA {

// The constants of the AEV in the type of the computation, and padded to whole vectors.
template <class T>
struct AevTables {
    AevSpec spec;
    int num_radial, num_angular;        // terms of one element, and of one pair of elements
    int padded_radial, padded_angular;  // the same, in whole vectors
    Buffer<T> EtaR, ShfR;               // padded_radial each
    Buffer<T> EtaA, ShfA, cos_ShfZ, sin_ShfZ;
    Buffer<Exponent> Zeta;

    explicit AevTables(const AevSpec& s) : spec(s) {
        num_radial = s.num_EtaR * s.num_ShfR;
        num_angular = s.num_EtaA * s.num_Zeta * s.num_ShfA * s.num_ShfZ;
        padded_radial = (int)padded<T>(num_radial);
        padded_angular = (int)padded<T>(num_angular);
        EtaR.resize(padded_radial);
        ShfR.resize(padded_radial);
        for (int i = 0; i < num_radial; i++) {
            EtaR[i] = (T)s.EtaR[i / s.num_ShfR];
            ShfR[i] = (T)s.ShfR[i % s.num_ShfR];
        }
        EtaA.resize(s.num_EtaA);
        for (int i = 0; i < s.num_EtaA; i++) EtaA[i] = (T)s.EtaA[i];
        ShfA.resize(s.num_ShfA);
        for (int i = 0; i < s.num_ShfA; i++) ShfA[i] = (T)s.ShfA[i];
        cos_ShfZ.resize(s.num_ShfZ);
        sin_ShfZ.resize(s.num_ShfZ);
        for (int i = 0; i < s.num_ShfZ; i++) {
            cos_ShfZ[i] = (T)cos(s.ShfZ[i]);
            sin_ShfZ[i] = (T)sin(s.ShfZ[i]);
        }
        Zeta.resize(s.num_Zeta);
        for (int i = 0; i < s.num_Zeta; i++) {
            double z = s.Zeta[i];
            Zeta[i] = {z, z == (int)z && z <= 64 ? (int)z : 0};
        }
    }
};

// Where the terms of each element and of each pair of elements stand in a row of features; -1 where an element is
// absent from all the molecules at hand, so that its terms are zero and take no room.
struct Columns {
    Buffer<int> radial, angular;  // (E), (E, E)
    long total = 0;
};

// f_c(r) and its derivative (cutoffs.py).
template <class N>
INLINE void cutoff(const AevSpec& spec, double radius, N r, N& f, N& df) {
    typedef typename N::T T;
    if (spec.cutoff_kind == COSINE_CUTOFF) {
        const T k = (T)(M_PI / radius);
        N s, c;  // cos(k r) = sin(pi/2 - k r), whose argument stays within -pi/2 ... pi/2
        nsincos(r * (-k) + (T)M_PI_2, s, c);
        f = s * (T)0.5 + (T)0.5;
        df = c * (T)(-0.5 * M_PI / radius);
        return;
    }
    N x = r * (T)(1 / radius), below = N::of(1);
    for (int i = 1; i < spec.cutoff_order; i++) below = below * x;
    N q = at_least(below * x * (T)-1 + (T)1, (T)spec.cutoff_eps);
    N inverse = N::of(1) / q;
    f = nexp(inverse * (T)-1 + (T)1);
    N slope = below * inverse * inverse * f * (T)(-spec.cutoff_order / radius);
    N active = N::of(0);
    active.a = q.a > splat<T>((T)spec.cutoff_eps) ? splat<T>(1) : active.a;
    df = slope * active;
}

// Neighbors of one atom, sorted by element; ux, uy, uz is the unit vector to the neighbor.
template <class N>
struct Shell {
    Array<N> r, f, df, ux, uy, uz;
    int* start;  // (E + 1) where the neighbors of each element begin
    INLINE void unit(long i, N& x, N& y, N& z) const {
        x = ux.get(i);
        y = uy.get(i);
        z = uz.get(i);
    }
};
template <class N>
struct Environment {
    Shell<N> radial;   // within Rcr; each element padded to whole vectors with neighbors whose f is 0
    int* count;        // (E) neighbors of each element without the padding
    Shell<N> angular;  // within Rca, not padded
    int* radial_of;    // index among the radial neighbors of each angular one
};

// Working memory of one thread.
template <class N>
struct Scratch {
    typedef typename N::T T;
    Buffer<T> memory;
    Array<N> cosine, mean, both;        // per triple: cos(jik), (R_ij + R_ik) / 2, f_c(R_ij) f_c(R_ik)
    Array<N> d_cosine, d_mean, d_both;  // dE with respect to them
    Array<N> sine, factors;             // per triple: sin(jik); 4 factors of the mean distance
    Array<N> terms;                     // per lane: sums of the angular terms
    Array<N> rows;                      // per angular neighbor, 5 vectors: dE/d(unit vector), dE/dr, dE/df
    Array<N> columns;                   // the same as 5 arrays of scalars

    void reserve(const AevTables<T>& tables, long neighbors) {
        const long L = LANES<T>, n = padded<T>(neighbors) + L;
        const long triples = padded<T>(n * n / 2) + 4 * L;
        const long terms_ = tables.padded_angular;
        const long copies = N::dual ? 2 : 1;
        const long total = 11 * triples + (terms_ + 5 * n) * L + 5 * n;
        T* p = memory.resize(copies * total);
        take(cosine, p, triples);
        take(mean, p, triples);
        take(both, p, triples);
        take(d_cosine, p, triples);
        take(d_mean, p, triples);
        take(d_both, p, triples);
        take(terms, p, terms_ * L);
        take(sine, p, triples);
        take(factors, p, 4 * triples);
        take(rows, p, 5 * n * L);
        take(columns, p, 5 * n);
        stride = n;
    }
    long stride = 0;  // of the 5 arrays in columns

   private:
    static void take(Array<Real<T>>& array, T*& p, long n) {
        array.a = p;
        p += n;
    }
    static void take(Array<Dual<T>>& array, T*& p, long n) {
        array.a = p;
        array.b = p + n;
        p += 2 * n;
    }
};

// Ranges of the two neighbors of the triples of one pair of elements.
struct Range {
    int j0, j1, k0, k1;
    bool same;
    int skip = -1;  // a k that does not count; only if there is one j
    int first_k(int j) const { return same ? j + 1 : k0; }
};

// Neighbors j come from `first` and k from `shell`, which differ in their tangents only, if at all.
template <class N>
long fill_triples(const Shell<N>& first, const Shell<N>& shell, Range range, Scratch<N>& s) {
    typedef typename N::T T;
    long t = 0;
    for (int j = range.j0; j < range.j1; j++) {
        const int k0 = range.first_k(j);
        const N x = first.ux.get_splat(j), y = first.uy.get_splat(j), z = first.uz.get_splat(j);
        const N r = first.r.get_splat(j), f = first.f.get_splat(j);
        for (int k = k0; k < range.k1; k += LANES<T>) {
            N kx, ky, kz;
            shell.unit(k, kx, ky, kz);
            s.cosine.put(t + k - k0, x * kx + y * ky + z * kz);
            s.mean.put(t + k - k0, (r + shell.r.get(k)) * (T)0.5);
            s.both.put(t + k - k0, f * shell.f.get(k));
        }
        t += range.k1 - k0;
    }
    const N zero = N::of(0);
    s.cosine.put(t, zero);
    s.mean.put(t, zero);
    s.both.put(t, zero);
    if (range.skip >= 0) s.both.clear_one(range.skip - range.k0);
    return t;
}

// (1 + cos(theta - ShfZ)) / 2 from x = cos(theta), y = sin(theta) and half the cosine and sine of ShfZ.
template <class N>
INLINE N half_angle(N x, N y, typename N::T c, typename N::T s) {
    typedef typename N::T T;
    return at_least(x * c + y * s + (T)0.5, (T)0);
}
template <class N>
INLINE N sine(N x) {
    typedef typename N::T T;
    return nsqrt(x * x * (T)-1 + (T)1);
}
// exp(-EtaA (mean - ShfA)^2)
template <class N>
INLINE N mean_factor(N offset, typename N::T EtaA) {
    return nexp(offset * offset * -EtaA);
}

// Sums over the triples of 2 ((1 + cos(theta - ShfZ)) / 2)^Zeta exp(-EtaA (mean - ShfA)^2) both, LANES triples in the
// lanes, for one EtaA, one Zeta and A values of ShfA at a time: each sum stays in a register.
template <int A, class N>
INLINE void sum_terms(const AevTables<typename N::T>& tables, int eta, int zeta, int shift, long triples,
                      Scratch<N>& s) {
    typedef typename N::T T;
    constexpr int L = LANES<T>;
    const AevSpec& spec = tables.spec;
    for (long t = 0; t < triples; t += L) {
        const N mean = s.mean.get(t), both = s.both.get(t) * (T)2;
        UNROLL for (int a = 0; a < A; a++)
            s.factors.put(t * A + a * L, mean_factor(mean + -tables.ShfA[shift + a], tables.EtaA[eta]) * both);
    }
    for (int z = 0; z < spec.num_ShfZ; z++) {
        const T c = tables.cos_ShfZ[z] * (T)0.5, sn = tables.sin_ShfZ[z] * (T)0.5;
        N sum[A];
        UNROLL for (int a = 0; a < A; a++) sum[a] = N::of(0);
        for (long t = 0; t < triples; t += L) {
            const N angle = npower(half_angle(s.cosine.get(t), s.sine.get(t), c, sn), tables.Zeta[zeta]);
            UNROLL for (int a = 0; a < A; a++) sum[a] = sum[a] + s.factors.get(t * A + a * L) * angle;
        }
        UNROLL for (int a = 0; a < A; a++) {
            const long term = ((long)(eta * spec.num_Zeta + zeta) * spec.num_ShfA + shift + a) * spec.num_ShfZ + z;
            s.terms.put(term * L, sum[a]);
        }
    }
}

template <class N>
void angular_forward(const AevTables<typename N::T>& tables, const Shell<N>& first, const Shell<N>& shell, Range range,
                     Scratch<N>& s, Array<N> row) {
    typedef typename N::T T;
    constexpr int L = LANES<T>;
    const AevSpec& spec = tables.spec;
    const long triples = fill_triples(first, shell, range, s);
    for (long t = 0; t < triples; t += L) {
        const N x = s.cosine.get(t) * (T)0.95;
        s.cosine.put(t, x);
        s.sine.put(t, sine(x));
    }
    for (int e = 0; e < spec.num_EtaA; e++)
        for (int q = 0; q < spec.num_Zeta; q++) {
            int a = 0;
            for (; a + 4 <= spec.num_ShfA; a += 4) sum_terms<4>(tables, e, q, a, triples, s);
            for (; a < spec.num_ShfA; a++) sum_terms<1>(tables, e, q, a, triples, s);
        }
    for (long i = tables.num_angular; i < tables.padded_angular; i++) s.terms.put(i * L, N::of(0));
    for (long i = 0; i < tables.padded_angular; i += L) {
        Vec<T> lanes[L];
        UNROLL for (int l = 0; l < L; l++) lanes[l] = load<T>(s.terms.a + (i + l) * L);
        store<T>(row.a + i, sums_of_each<T>(lanes));
        if constexpr (N::dual) {
            UNROLL for (int l = 0; l < L; l++) lanes[l] = load<T>(s.terms.b + (i + l) * L);
            store<T>(row.b + i, sums_of_each<T>(lanes));
        }
    }
}

// What the terms of one EtaA, one Zeta and A values of ShfA add to the derivatives with respect to the cosine, the mean
// distance and the product of cutoff functions of LANES triples, given dE/dterms.
template <int A, class N>
INLINE void add_slopes(const AevTables<typename N::T>& tables, int eta, int zeta, int shift, Array<N> gradient, N x,
                       N y, N slope, N mean, N& to_cosine, N& to_mean, N& to_both) {
    typedef typename N::T T;
    const AevSpec& spec = tables.spec;
    const Array<N> g = gradient + ((long)(eta * spec.num_Zeta + zeta) * spec.num_ShfA + shift) * spec.num_ShfZ;
    N value[A], turn[A];
    UNROLL for (int a = 0; a < A; a++) value[a] = turn[a] = N::of(0);
    for (int z = 0; z < spec.num_ShfZ; z++) {
        const T c = tables.cos_ShfZ[z] * (T)0.5, sn = tables.sin_ShfZ[z] * (T)0.5;
        N angle, below;
        npowers(half_angle(x, y, c, sn), tables.Zeta[zeta], angle, below);
        const N turned = below * (slope * -sn + c);
        UNROLL for (int a = 0; a < A; a++) {
            const N weight = g.get_splat(a * spec.num_ShfZ + z);
            value[a] = value[a] + weight * angle;
            turn[a] = turn[a] + weight * turned;
        }
    }
    UNROLL for (int a = 0; a < A; a++) {
        const N offset = mean + -tables.ShfA[shift + a];
        const N factor = mean_factor(offset, tables.EtaA[eta]) * (T)2;
        const N v = value[a] * factor;
        to_both = to_both + v;
        to_mean = to_mean + v * offset * (-2 * tables.EtaA[eta]);
        to_cosine = to_cosine + turn[a] * factor * (T)(0.95 * tables.Zeta[zeta].value);
    }
}

// Derivatives with respect to the triples' scalars, then from there to each neighbor's.
template <class N>
void angular_backward(const AevTables<typename N::T>& tables, const Shell<N>& first, const Shell<N>& shell, Range range,
                      Scratch<N>& s, Array<N> gradient) {
    typedef typename N::T T;
    constexpr int L = LANES<T>;
    const AevSpec& spec = tables.spec;
    const long triples = fill_triples(first, shell, range, s);
    for (long t = 0; t < triples; t += L) {
        const N x = s.cosine.get(t) * (T)0.95, y = sine(x), slope = x / y;
        const N mean = s.mean.get(t), both = s.both.get(t);
        N to_cosine = N::of(0), to_mean = N::of(0), to_both = N::of(0);
        for (int e = 0; e < spec.num_EtaA; e++)
            for (int q = 0; q < spec.num_Zeta; q++) {
                int a = 0;
                for (; a + 4 <= spec.num_ShfA; a += 4)
                    add_slopes<4>(tables, e, q, a, gradient, x, y, slope, mean, to_cosine, to_mean, to_both);
                for (; a < spec.num_ShfA; a++)
                    add_slopes<1>(tables, e, q, a, gradient, x, y, slope, mean, to_cosine, to_mean, to_both);
            }
        s.d_cosine.put(t, to_cosine * both);
        s.d_mean.put(t, to_mean * both);
        s.d_both.put(t, to_both);
    }
    if (range.skip >= 0) s.d_both.clear_one(range.skip - range.k0);
    long t = 0;
    for (int j = range.j0; j < range.j1; j++) {
        const int k0 = range.first_k(j);
        const N x = first.ux.get_splat(j), y = first.uy.get_splat(j), z = first.uz.get_splat(j);
        const N f = first.f.get_splat(j);
        const long at = 5L * j * L;
        N row[5];
        UNROLL for (int q = 0; q < 5; q++) row[q] = s.rows.get(at + q * L);
        for (int k = k0; k < range.k1; k += L) {
            const N zero = N::of(0);
            const N dc = nfirst(range.k1 - k, s.d_cosine.get(t + k - k0), zero);
            const N dm = nfirst(range.k1 - k, s.d_mean.get(t + k - k0), zero);
            const N db = nfirst(range.k1 - k, s.d_both.get(t + k - k0), zero);
            N kx, ky, kz;
            shell.unit(k, kx, ky, kz);
            // Beyond the last neighbor there may be anything, and 0 times NaN is NaN.
            row[0] = row[0] + nfirst(range.k1 - k, dc * kx, zero);
            row[1] = row[1] + nfirst(range.k1 - k, dc * ky, zero);
            row[2] = row[2] + nfirst(range.k1 - k, dc * kz, zero);
            row[3] = row[3] + dm;
            row[4] = row[4] + nfirst(range.k1 - k, db * shell.f.get(k), zero);
            const Array<N> c = s.columns + k;
            c.put(0, c.get(0) + dc * x);
            c.put(s.stride, c.get(s.stride) + dc * y);
            c.put(2 * s.stride, c.get(2 * s.stride) + dc * z);
            c.put(3 * s.stride, c.get(3 * s.stride) + dm);
            c.put(4 * s.stride, c.get(4 * s.stride) + db * f);
        }
        UNROLL for (int q = 0; q < 5; q++) s.rows.put(at + q * L, row[q]);
        t += range.k1 - k0;
    }
}

template <class T>
INLINE Vec<T> sum_rows(const T* rows, int q) {
    Vec<T> lanes[LANES<T>];
    UNROLL for (int l = 0; l < LANES<T>; l++) lanes[l] = load<T>(rows + (5L * l + q) * LANES<T>);
    return sums_of_each<T>(lanes);
}
template <class T>
INLINE Real<T> sum_rows(Array<Real<T>> rows, int q) {
    return {sum_rows<T>(rows.a, q)};
}
template <class T>
INLINE Dual<T> sum_rows(Array<Dual<T>> rows, int q) {
    return {sum_rows<T>(rows.a, q), sum_rows<T>(rows.b, q)};
}

template <class N>
Range triples_of(const Environment<N>& env, int e1, int e2) {
    const int* start = env.angular.start;
    return {start[e1], start[e1 + 1], start[e2], start[e2 + 1], e1 == e2};
}

// Features of one atom into a row of columns.total values.
template <class N>
void aev_forward(const AevTables<typename N::T>& tables, const Environment<N>& env, const Columns& columns,
                 Scratch<N>& scratch, Array<N> row) {
    typedef typename N::T T;
    constexpr int L = LANES<T>;
    const int num_species = tables.spec.num_species;
    for (int e = 0; e < num_species; e++) {
        if (columns.radial[e] < 0) continue;
        for (int v = 0; v < tables.padded_radial; v += L) {
            N eta = N::of(0), shift = eta;
            eta.a = load<T>(&tables.EtaR[v]);
            shift.a = load<T>(&tables.ShfR[v]);
            N sum = N::of(0);
            for (int j = env.radial.start[e]; j < env.radial.start[e] + env.count[e]; j++) {
                const N offset = env.radial.r.get_splat(j) - shift;
                sum = sum + nexp(offset * offset * eta * (T)-1) * env.radial.f.get_splat(j);
            }
            row.put(columns.radial[e] + v, sum * (T)0.25);
        }
    }
    scratch.reserve(tables, env.angular.start[num_species]);
    for (int e1 = 0; e1 < num_species; e1++)
        for (int e2 = e1; e2 < num_species; e2++) {
            const int column = columns.angular[e1 * num_species + e2];
            if (column < 0) continue;
            const Range range = triples_of(env, e1, e2);
            if (range.j1 > range.j0 && range.k1 > range.k0)
                angular_forward(tables, env.angular, env.angular, range, scratch, row + column);
            else
                for (int i = 0; i < tables.padded_angular; i += L) row.put(column + i, N::of(0));
        }
}

// What the radial terms give to dE/dvector of every radial neighbor.
template <class N>
void radial_backward(const AevTables<typename N::T>& tables, const Environment<N>& env, const Columns& columns,
                     Array<N> gradient, Array<N> gx, Array<N> gy, Array<N> gz) {
    typedef typename N::T T;
    constexpr int L = LANES<T>;
    const int num_species = tables.spec.num_species;
    for (int e = 0; e < num_species; e++) {
        if (columns.radial[e] < 0) continue;
        const Array<N> g = gradient + columns.radial[e];
        for (int j = env.radial.start[e]; j < env.radial.start[e] + env.count[e]; j += L) {
            const N r = env.radial.r.get(j);
            N value = N::of(0), slope = N::of(0);
            for (int m = 0; m < tables.num_radial; m++) {
                const N offset = r + -tables.ShfR[m];
                const N term = nexp(offset * offset * -tables.EtaR[m]) * g.get_splat(m);
                value = value + term;
                slope = slope + term * offset * tables.EtaR[m];
            }
            const N d = env.radial.df.get(j) * value * (T)0.25 - env.radial.f.get(j) * slope * (T)0.5;
            N x, y, z;
            env.radial.unit(j, x, y, z);
            gx.put(j, d * x);
            gy.put(j, d * y);
            gz.put(j, d * z);
        }
    }
}

// From the sums q of the angular terms' derivatives with respect to a neighbor's unit vector, r and f, to dE/dvector.
template <class N>
INLINE void to_vector(const Shell<N>& shell, long a, const N* q, N* g) {
    typedef typename N::T T;
    N x, y, z;
    shell.unit(a, x, y, z);
    const N along = q[0] * x + q[1] * y + q[2] * z, inverse = N::of(1) / shell.r.get(a);
    const N d = q[3] * (T)0.5 + q[4] * shell.df.get(a) - along * inverse;
    g[0] = q[0] * inverse + d * x;
    g[1] = q[1] * inverse + d * y;
    g[2] = q[2] * inverse + d * z;
}

// dE/dvector of every radial neighbor into gx, gy, gz, given dE/dfeatures.
template <class N>
void aev_backward(const AevTables<typename N::T>& tables, const Environment<N>& env, const Columns& columns,
                  Scratch<N>& scratch, Array<N> gradient, Array<N> gx, Array<N> gy, Array<N> gz) {
    typedef typename N::T T;
    constexpr int L = LANES<T>;
    const int num_species = tables.spec.num_species;
    radial_backward(tables, env, columns, gradient, gx, gy, gz);
    const long neighbors = env.angular.start[num_species];
    if (neighbors < 2) return;
    scratch.reserve(tables, neighbors);
    for (long i = 0; i < 5 * padded<T>(neighbors); i++) scratch.rows.put(i * L, N::of(0));
    for (long i = 0; i < 5 * scratch.stride; i += L) scratch.columns.put(i, N::of(0));
    for (int e1 = 0; e1 < num_species; e1++)
        for (int e2 = e1; e2 < num_species; e2++) {
            const Range range = triples_of(env, e1, e2);
            if (range.j1 > range.j0 && range.k1 > range.k0)
                angular_backward(tables, env.angular, env.angular, range, scratch,
                                 gradient + columns.angular[e1 * num_species + e2]);
        }
    for (long a = 0; a < neighbors; a += L) {
        N q[5], g[3];
        UNROLL for (int i = 0; i < 5; i++) q[i] =
            scratch.columns.get(i * scratch.stride + a) + sum_rows(scratch.rows + 5 * a * L, i);
        to_vector(env.angular, a, q, g);
        UNROLL for (int c = 0; c < 3; c++) scratch.columns.put(c * scratch.stride + a, g[c]);
    }
    for (long a = 0; a < neighbors; a++) {
        const long to = env.radial_of[a];
        const Array<N> c = scratch.columns + a;
        gx.add_one(to, c, 0);
        gy.add_one(to, c, scratch.stride);
        gz.add_one(to, c, 2 * scratch.stride);
    }
}

}  // namespace ANIPOT_ISA
