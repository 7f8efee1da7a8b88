// Atomic environment vectors of one atom: forward and backward, over plain or dual numbers.
//
// The equations stand in representation/aev.py. Atoms have few triples of each pair of elements, fewer than there are
// lanes, so that triples of several pairs are laid out one after the other and LANES of them are computed at once.
// Where their sums need them apart, forward, a vector holds the terms of few triples, and backward each lane takes the
// gradient of its own pair.
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
    Buffer<T> EtaA, ShfA;
    Buffer<Exponent> Zeta;
    Buffer<T> half_cosine, half_sine;  // of ShfZ
    // The same for vectors that hold all values of ShfZ for one triple after another: `block` lanes for each, or
    // several vectors for one triple; and which of LANES triples each lane belongs to in the first of these vectors,
    // the next ...
    int block, num_blocks, num_shift_vectors;
    Buffer<T> cosine_lanes, sine_lanes;
    Buffer<typename Simd<T>::Lane> triple_of_lane;

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
        half_cosine.resize(s.num_ShfZ);
        half_sine.resize(s.num_ShfZ);
        for (int i = 0; i < s.num_ShfZ; i++) {
            half_cosine[i] = (T)(0.5 * cos(s.ShfZ[i]));
            half_sine[i] = (T)(0.5 * sin(s.ShfZ[i]));
        }
        Zeta.resize(s.num_Zeta);
        for (int i = 0; i < s.num_Zeta; i++) {
            double z = s.Zeta[i];
            Zeta[i] = {z, z == (int)z && z <= 64 ? (int)z : 0};
        }
        lay_out_shifts();
    }

   private:
    void lay_out_shifts() {
        constexpr int L = LANES<T>;
        block = PERMUTES ? 1 : L;
        while (block < L && block < spec.num_ShfZ) block *= 2;
        num_blocks = L / block;
        num_shift_vectors = (spec.num_ShfZ + block - 1) / block;
        cosine_lanes.resize(num_shift_vectors * L);
        sine_lanes.resize(num_shift_vectors * L);
        for (int i = 0; i < num_shift_vectors * L; i++) {
            const int z = i / L * block + i % block;
            cosine_lanes[i] = z < spec.num_ShfZ ? half_cosine[z] : 0;
            sine_lanes[i] = z < spec.num_ShfZ ? half_sine[z] : 0;
        }
        triple_of_lane.resize(block * L);
        for (int i = 0; i < block * L; i++) triple_of_lane[i] = i / L * num_blocks + i % L / block;
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
    Shell<N> radial;   // within Rcr
    Shell<N> angular;  // within Rca
    int* radial_of;    // index among the radial neighbors of each angular one
};

// Triples of one pair of elements, and the column where the sums of their terms begin.
struct Sum {
    int column;
    long from, to;
};
// Triples of neighbor j with the neighbors k0 ... k1 - 1, which stand from t on. Their pairs of elements have the
// numbers `pair` + that of the element of k.
struct Run {
    int j, k0, k1, pair;
    long t;
};

// Rows of gradients, of elements or of pairs of elements, whose neighbors or triples go backward together.
template <class T>
constexpr int MAX_GRADIENTS = PERMUTES ? LANES<T> : 1;

// Working memory of one thread.
template <class N>
struct Scratch {
    typedef typename N::T T;
    typedef typename Simd<T>::Lane Lane;
    Buffer<T> memory;
    Array<N> cosine, mean, both;        // per triple: cos(jik), (R_ij + R_ik) / 2, f_c(R_ij) f_c(R_ik)
    Array<N> d_cosine, d_mean, d_both;  // dE with respect to them
    Array<N> sine, factors;             // per triple: sin(jik); 8 factors of the mean distance
    Array<N> rows;                      // per angular neighbor, 5 vectors: dE/d(unit vector), dE/dr, dE/df
    Array<N> columns;                   // the same as 5 arrays of scalars
    long stride = 0;                    // of these
    long end = 0;                       // of the triples

    Buffer<Sum> sums;
    int num_sums = 0;

    Buffer<Run> runs;
    int num_runs = 0;
    const T* gradient[MAX_GRADIENTS<T>];  // dE/dterms of each pair of elements
    int num_pairs = 0;
    Buffer<T> gradients;      // the same per term, with pairs in the lanes
    Buffer<Lane> pair_of;     // pair of elements of each triple
    Buffer<int> element;      // those that neighbors have
    Buffer<Lane> element_of;  // of each neighbor, index in `element`
    int num_elements = 0;

    void reserve(const AevTables<T>& tables, long neighbors) {
        const long L = LANES<T>, n = padded<T>(neighbors) + L, E = tables.spec.num_species;
        const long gaps = smaller(E * (E + 1) / 2, n * n / 2) * tables.num_blocks;
        const long triples = padded<T>(n * n / 2 + gaps) + 4 * L;
        const long copies = N::dual ? 2 : 1;
        const long total = 15 * triples + 5 * n * L + 5 * n;
        T* p = memory.resize(copies * total);
        take(cosine, p, triples);
        take(mean, p, triples);
        take(both, p, triples);
        take(d_cosine, p, triples);
        take(d_mean, p, triples);
        take(d_both, p, triples);
        take(sine, p, triples);
        take(factors, p, 8 * triples);
        take(rows, p, 5 * n * L);
        take(columns, p, 5 * n);
        stride = n;
        pair_of.resize(triples);
        begin();
    }
    void begin() {
        num_sums = num_runs = num_pairs = 0;
        end = LANES<T>;  // what stands before a run is read, and not used
    }
    void add(Sum sum) {
        sums.grow(num_sums + 1, num_sums);
        sums[num_sums++] = sum;
    }
    void add(Run run) {
        runs.grow(num_runs + 1, num_runs);
        runs[num_runs++] = run;
    }
    void list_elements(const Shell<N>& shell, int num_species) {
        element.resize(num_species);
        element_of.resize(padded<T>(shell.start[num_species]) + LANES<T>);
        num_elements = 0;
        for (int e = 0; e < num_species; e++) {
            if (shell.start[e] == shell.start[e + 1]) continue;
            for (int k = shell.start[e]; k < shell.start[e + 1]; k++) element_of[k] = num_elements;
            element[num_elements++] = e;
        }
    }

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

// The triples of neighbor j with the neighbors k0 ... k1 - 1, from t on, and something behind them. Neighbor j comes
// from `first` and k from `shell`, which differ in their tangents only, if at all. With itself j makes no triple.
template <class N>
INLINE void fill_run(const Shell<N>& first, const Shell<N>& shell, int j, int k0, int k1, long t, Scratch<N>& s) {
    typedef typename N::T T;
    const N x = first.ux.get_splat(j), y = first.uy.get_splat(j), z = first.uz.get_splat(j);
    const N r = first.r.get_splat(j), f = first.f.get_splat(j);
    for (int k = k0; k < k1; k += LANES<T>) {
        N kx, ky, kz;
        shell.unit(k, kx, ky, kz);
        s.cosine.put(t + k - k0, x * kx + y * ky + z * kz);
        s.mean.put(t + k - k0, (r + shell.r.get(k)) * (T)0.5);
        s.both.put(t + k - k0, f * shell.f.get(k));
    }
    if (k0 <= j && j < k1) s.both.clear_one(t + j - k0);
}
// A vector of triples that add nothing.
template <class N>
INLINE void fill_nothing(long t, Scratch<N>& s) {
    s.cosine.put(t, N::of(0));
    s.mean.put(t, N::of(0));
    s.both.put(t, N::of(0));
}

// (1 + cos(theta - ShfZ)) / 2 from x = cos(theta), y = sin(theta) and half the cosine and sine of ShfZ.
template <class N>
INLINE N half_angle(N x, N y, Vec<typename N::T> c, Vec<typename N::T> s) {
    typedef typename N::T T;
    return at_least(scaled(x, c) + scaled(y, s) + (T)0.5, (T)0);
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

// The triples of neighbors j0 ... j1 - 1 with k0 ... k1 - 1, or each two of them where these are the same.
template <class N>
void add_sum(const AevTables<typename N::T>& tables, const Shell<N>& first, const Shell<N>& shell, int j0, int j1,
             int k0, int k1, int column, Scratch<N>& s) {
    long t = s.end;
    for (int j = j0; j < j1; j++) {
        const int k = j0 == k0 && j1 == k1 ? j + 1 : k0;
        fill_run(first, shell, j, k, k1, t, s);
        t += k1 - k;
    }
    fill_nothing(t, s);
    s.add(Sum{column, s.end, t});
    s.end = (t + tables.num_blocks - 1) / tables.num_blocks * tables.num_blocks;
}

// Lanes that belong to the same value of ShfZ added up, in the first of them.
template <class N>
INLINE N sum_blocks(N x, int block) {
    typedef typename N::T T;
    for (int h = LANES<T> / 2; h >= block; h /= 2) x = x + npermute(x, lane_numbers<T>() ^ splat_int<T>(h));
    return x;
}

// Sums over the triples of 2 ((1 + cos(theta - ShfZ)) / 2)^Zeta exp(-EtaA (mean - ShfA)^2) both, for one EtaA, one Zeta
// and A values of ShfA at a time. Lanes hold the values of ShfZ, of several triples if PACKED.
template <int A, bool PACKED, class N>
void sum_terms(const AevTables<typename N::T>& tables, int eta, int zeta, int shift, Scratch<N>& s, Array<N> row) {
    typedef typename N::T T;
    constexpr int L = LANES<T>;
    const AevSpec& spec = tables.spec;
    const long group = (long)(eta * spec.num_Zeta + zeta) * spec.num_ShfA + shift;
    const int step = PACKED ? tables.num_blocks : 1;
    for (long t = L; t < s.end; t += L) {
        const N mean = s.mean.get(t), both = s.both.get(t) * (T)2;
        UNROLL for (int a = 0; a < A; a++)
            s.factors.put(t * A + a * L, mean_factor(mean + -tables.ShfA[shift + a], tables.EtaA[eta]) * both);
    }
    for (int v = 0; v < tables.num_shift_vectors; v++) {
        const Vec<T> c = load<T>(&tables.cosine_lanes[v * L]), sn = load<T>(&tables.sine_lanes[v * L]);
        const int count = smaller(spec.num_ShfZ - v * L, tables.block);
        for (int i = 0; i < s.num_sums; i++) {
            const Sum& of = s.sums[i];
            N sum[A];
            UNROLL for (int a = 0; a < A; a++) sum[a] = N::of(0);
            for (long t = of.from; t < of.to; t += step) {
                const long lane = t % L, vector = t - lane;
                const Int<T> from = load_int<T>(&tables.triple_of_lane[PACKED ? lane * tables.block : 0]);
                auto spread = [&](Array<N> array, long at) __attribute__((always_inline)) {
                    if constexpr (PACKED) return npermute(array.get(at), from);
                    else return array.get_splat(at + lane);
                };
                const N angle =
                    npower(half_angle(spread(s.cosine, vector), spread(s.sine, vector), c, sn), tables.Zeta[zeta]);
                UNROLL for (int a = 0; a < A; a++) sum[a] = sum[a] + spread(s.factors, vector * A + a * L) * angle;
            }
            UNROLL for (int a = 0; a < A; a++) {
                if constexpr (PACKED) sum[a] = sum_blocks(sum[a], tables.block);
                row.put_first(of.column + (group + a) * spec.num_ShfZ + v * L, sum[a], count);
            }
        }
    }
}
template <int A, class N>
void sum_terms(const AevTables<typename N::T>& tables, int eta, int zeta, int shift, Scratch<N>& s, Array<N> row) {
    if constexpr (PERMUTES) {
        if (tables.num_blocks > 1) return sum_terms<A, true>(tables, eta, zeta, shift, s, row);
    }
    sum_terms<A, false>(tables, eta, zeta, shift, s, row);
}

// The sums that were added, to their columns of a row.
template <class N>
void angular_forward(const AevTables<typename N::T>& tables, Scratch<N>& s, Array<N> row) {
    typedef typename N::T T;
    constexpr int L = LANES<T>;
    const AevSpec& spec = tables.spec;
    for (long t = L; t < s.end; t += L) {
        const N x = s.cosine.get(t) * (T)0.95;
        s.cosine.put(t, x);
        s.sine.put(t, sine(x));
    }
    for (int e = 0; e < spec.num_EtaA; e++)
        for (int q = 0; q < spec.num_Zeta; q++) {
            int a = 0;
            for (; a + 8 <= spec.num_ShfA; a += 8) sum_terms<8>(tables, e, q, a, s, row);
            for (; a + 4 <= spec.num_ShfA; a += 4) sum_terms<4>(tables, e, q, a, s, row);
            for (; a < spec.num_ShfA; a++) sum_terms<1>(tables, e, q, a, s, row);
        }
    for (int i = 0; i < s.num_sums; i++)
        for (int k = tables.num_angular; k < tables.padded_angular; k++) row.clear_one(s.sums[i].column + k);
    s.begin();
}

// dE/dterms for vectors whose lanes are of several elements or pairs of elements.
template <class T>
struct Gradients {
    const T* table;  // per term, these in the lanes; without PERMUTES there is only one
    Int<T> which;    // of them is that of each lane
    INLINE Vec<T> get(long term) const {
        if constexpr (PERMUTES) return permute<T>(load<T>(table + term * LANES<T>), which);
        else return splat<T>(table[term]);
    }
};
template <class T>
Gradients<T> gradients_in_lanes(const T* const* rows, int count, int length, Buffer<T>& table) {
    constexpr int L = LANES<T>;
    if constexpr (!PERMUTES) return {rows[0], Int<T>{}};
    table.resize(length * L);
    for (int i = 0; i < length; i += L) {
        Vec<T> v[L];
        UNROLL for (int p = 0; p < L; p++) v[p] = p < count ? load<T>(rows[p] + i) : Vec<T>{};
        transpose_step<T, 1>(v);
        UNROLL for (int l = 0; l < L; l++) store<T>(&table[(i + l) * L], v[l]);
    }
    return {table.data, Int<T>{}};
}

// What the terms of one EtaA, one Zeta and A values of ShfA add to the derivatives with respect to the cosine, the mean
// distance and the product of cutoff functions of LANES triples.
template <int A, class N>
INLINE void add_slopes(const AevTables<typename N::T>& tables, int eta, int zeta, int shift,
                       const Gradients<typename N::T>& gradient, N x, N y, N slope, N mean, N& to_cosine, N& to_mean,
                       N& to_both) {
    typedef typename N::T T;
    const AevSpec& spec = tables.spec;
    const long first = ((long)(eta * spec.num_Zeta + zeta) * spec.num_ShfA + shift) * spec.num_ShfZ;
    N factor[A], factor_slope[A], turned = N::of(0);
    UNROLL for (int a = 0; a < A; a++) {
        const N offset = mean + -tables.ShfA[shift + a];
        factor[a] = mean_factor(offset, tables.EtaA[eta]) * (T)2;
        factor_slope[a] = factor[a] * offset * (-2 * tables.EtaA[eta]);
    }
    for (int z = 0; z < spec.num_ShfZ; z++) {
        const Vec<T> c = splat<T>(tables.half_cosine[z]), sn = splat<T>(tables.half_sine[z]);
        N angle, below, sum = N::of(0), slopes = N::of(0);
        npowers(half_angle(x, y, c, sn), tables.Zeta[zeta], angle, below);
        UNROLL for (int a = 0; a < A; a++) {
            const Vec<T> g = gradient.get(first + a * spec.num_ShfZ + z);
            sum = sum + scaled(factor[a], g);
            slopes = slopes + scaled(factor_slope[a], g);
        }
        to_both = to_both + sum * angle;
        to_mean = to_mean + slopes * angle;
        turned = turned + sum * below * (slope * -tables.half_sine[z] + tables.half_cosine[z]);
    }
    to_cosine = to_cosine + turned * (T)(0.95 * tables.Zeta[zeta].value);
}

// dE/dr and dE/df of neighbor j and of the neighbors k, and dE/d(unit vector), from the derivatives with respect to the
// triples' scalars.
template <class N>
void scatter_slopes(const Shell<N>& first, const Shell<N>& shell, Scratch<N>& s) {
    typedef typename N::T T;
    constexpr int L = LANES<T>;
    int begin = s.runs[0].k0, end = 0;
    for (int i = 0; i < s.num_runs; i++) {
        begin = smaller(begin, s.runs[i].k0);
        end = larger(end, s.runs[i].k1);
    }
    for (int k = begin / L * L; k < end; k += L) {
        N column[5], x, y, z;
        UNROLL for (int q = 0; q < 5; q++) column[q] = s.columns.get(q * s.stride + k);
        shell.unit(k, x, y, z);
        const N f = shell.f.get(k);
        for (int i = 0; i < s.num_runs; i++) {
            const Run& run = s.runs[i];
            if (run.k1 <= k || run.k0 >= k + L) continue;
            const Int<T> lanes = lanes_between<T>(run.k0 - k, run.k1 - k);
            const long t = run.t + k - run.k0, j = run.j;
            const N dc = nonly(lanes, s.d_cosine.get(t));
            const N dm = nonly(lanes, s.d_mean.get(t));
            const N db = nonly(lanes, s.d_both.get(t));
            const Array<N> row = s.rows + 5 * j * L;
            row.put(0, row.get(0) + dc * x);
            row.put(L, row.get(L) + dc * y);
            row.put(2 * L, row.get(2 * L) + dc * z);
            row.put(3 * L, row.get(3 * L) + dm);
            row.put(4 * L, row.get(4 * L) + db * f);
            column[0] = column[0] + dc * first.ux.get_splat(j);
            column[1] = column[1] + dc * first.uy.get_splat(j);
            column[2] = column[2] + dc * first.uz.get_splat(j);
            column[3] = column[3] + dm;
            column[4] = column[4] + db * first.f.get_splat(j);
        }
        UNROLL for (int q = 0; q < 5; q++) s.columns.put(q * s.stride + k, column[q]);
    }
}

// The runs that were added: derivatives with respect to the triples' scalars, then from there to each neighbor's.
template <class N>
void angular_backward(const AevTables<typename N::T>& tables, const Shell<N>& first, const Shell<N>& shell,
                      Scratch<N>& s) {
    typedef typename N::T T;
    typedef typename Simd<T>::Lane Lane;
    constexpr int L = LANES<T>;
    const AevSpec& spec = tables.spec;
    if (!s.num_runs) return s.begin();
    for (int i = 0; i < s.num_runs; i++) {
        const Run& run = s.runs[i];
        fill_run(first, shell, run.j, run.k0, run.k1, run.t, s);
        for (int k = run.k0; k < run.k1; k += L)
            store_int<T>(&s.pair_of[run.t + k - run.k0], load_int<T>(&s.element_of[k]) + (Lane)run.pair);
    }
    fill_nothing(s.end, s);
    store_int<T>(&s.pair_of[s.end], Int<T>{});
    Gradients<T> gradient = gradients_in_lanes<T>(s.gradient, s.num_pairs, tables.padded_angular, s.gradients);
    for (long t = L; t < s.end; t += L) {
        const N x = s.cosine.get(t) * (T)0.95, y = sine(x), slope = x / y;
        const N mean = s.mean.get(t), both = s.both.get(t);
        N to_cosine = N::of(0), to_mean = N::of(0), to_both = N::of(0);
        gradient.which = load_int<T>(&s.pair_of[t]);
        for (int e = 0; e < spec.num_EtaA; e++)
            for (int q = 0; q < spec.num_Zeta; q++) {
                int a = 0;
                for (; a + 8 <= spec.num_ShfA; a += 8)
                    add_slopes<8>(tables, e, q, a, gradient, x, y, slope, mean, to_cosine, to_mean, to_both);
                for (; a + 4 <= spec.num_ShfA; a += 4)
                    add_slopes<4>(tables, e, q, a, gradient, x, y, slope, mean, to_cosine, to_mean, to_both);
                for (; a < spec.num_ShfA; a++)
                    add_slopes<1>(tables, e, q, a, gradient, x, y, slope, mean, to_cosine, to_mean, to_both);
            }
        s.d_cosine.put(t, to_cosine * both);
        s.d_mean.put(t, to_mean * both);
        s.d_both.put(t, to_both);
    }
    for (int i = 0; i < s.num_runs; i++) {
        const Run& run = s.runs[i];
        if (run.k0 <= run.j && run.j < run.k1) s.d_both.clear_one(run.t + run.j - run.k0);
    }
    scatter_slopes(first, shell, s);
    s.begin();
}

// Adds the triples of neighbors j0 ... j1 - 1, which are of one element, with all neighbors of the elements from number
// `from` on, or with those that come after j; goes backward where the pairs fill the lanes. gradient(e): that of the
// terms with element e.
template <class N, class F>
void add_runs(const AevTables<typename N::T>& tables, const Shell<N>& first, const Shell<N>& shell, int j0, int j1,
              int from, bool after, Scratch<N>& s, F gradient) {
    constexpr int MAX = MAX_GRADIENTS<typename N::T>;
    for (int c0 = from, c1; c0 < s.num_elements; c0 = c1) {
        c1 = smaller(c0 + MAX, s.num_elements);
        if (s.num_pairs + c1 - c0 > MAX) angular_backward(tables, first, shell, s);
        const int k0 = shell.start[s.element[c0]], k1 = shell.start[s.element[c1 - 1] + 1];
        for (int j = j0; j < j1; j++) {
            const int k = after ? larger(k0, j + 1) : k0;
            if (k >= k1) continue;
            s.add(Run{j, k, k1, s.num_pairs - c0, s.end});
            s.end += k1 - k;
        }
        for (int c = c0; c < c1; c++) s.gradient[s.num_pairs++] = gradient(s.element[c]);
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
            for (int j = env.radial.start[e]; j < env.radial.start[e + 1]; j++) {
                const N offset = env.radial.r.get_splat(j) - shift;
                sum = sum + nexp(offset * offset * eta * (T)-1) * env.radial.f.get_splat(j);
            }
            row.put(columns.radial[e] + v, sum * (T)0.25);
        }
    }
    const Shell<N>& shell = env.angular;
    const int* start = shell.start;
    scratch.reserve(tables, start[num_species]);
    for (int e1 = 0; e1 < num_species; e1++)
        for (int e2 = e1; e2 < num_species; e2++) {
            const int column = columns.angular[e1 * num_species + e2];
            if (column < 0) continue;
            if (start[e1 + 1] > start[e1] && start[e2 + 1] > start[e2])
                add_sum(tables, shell, shell, start[e1], start[e1 + 1], start[e2], start[e2 + 1], column, scratch);
            else
                for (int i = 0; i < tables.padded_angular; i += L) row.put(column + i, N::of(0));
        }
    angular_forward(tables, scratch, row);
}

// What the radial terms give to dE/dvector of every radial neighbor.
template <class N>
void radial_backward(const AevTables<typename N::T>& tables, const Environment<N>& env, const Columns& columns,
                     Scratch<N>& s, const typename N::T* gradient, Array<N> gx, Array<N> gy, Array<N> gz) {
    typedef typename N::T T;
    constexpr int L = LANES<T>, MAX = MAX_GRADIENTS<T>;
    const Shell<N>& shell = env.radial;
    s.list_elements(shell, tables.spec.num_species);
    for (int c0 = 0, c1; c0 < s.num_elements; c0 = c1) {
        c1 = smaller(c0 + MAX, s.num_elements);
        for (int c = c0; c < c1; c++) s.gradient[c - c0] = gradient + columns.radial[s.element[c]];
        Gradients<T> g = gradients_in_lanes<T>(s.gradient, c1 - c0, tables.padded_radial, s.gradients);
        // Of neighbors beyond these wrong numbers are written, which the next round replaces.
        for (int j = shell.start[s.element[c0]]; j < shell.start[s.element[c1 - 1] + 1]; j += L) {
            g.which = load_int<T>(&s.element_of[j]) - c0;
            const N r = shell.r.get(j);
            N value = N::of(0), slope = N::of(0);
            for (int m = 0; m < tables.num_radial; m++) {
                const N offset = r + -tables.ShfR[m];
                const N term = scaled(nexp(offset * offset * -tables.EtaR[m]), g.get(m));
                value = value + term;
                slope = slope + term * offset * tables.EtaR[m];
            }
            const N d = shell.df.get(j) * value * (T)0.25 - shell.f.get(j) * slope * (T)0.5;
            N x, y, z;
            shell.unit(j, x, y, z);
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
                  Scratch<N>& scratch, const typename N::T* gradient, Array<N> gx, Array<N> gy, Array<N> gz) {
    typedef typename N::T T;
    constexpr int L = LANES<T>;
    const int num_species = tables.spec.num_species;
    radial_backward(tables, env, columns, scratch, gradient, gx, gy, gz);
    const long neighbors = env.angular.start[num_species];
    if (neighbors < 2) return;
    scratch.reserve(tables, neighbors);
    for (long i = 0; i < 5 * padded<T>(neighbors); i++) scratch.rows.put(i * L, N::of(0));
    for (long i = 0; i < 5 * scratch.stride; i += L) scratch.columns.put(i, N::of(0));
    const Shell<N>& shell = env.angular;
    scratch.list_elements(shell, num_species);
    for (int c = 0; c < scratch.num_elements; c++) {
        const int e = scratch.element[c];
        const int* of_pairs = &columns.angular[e * num_species];
        add_runs(tables, shell, shell, shell.start[e], shell.start[e + 1], c, true, scratch,
                 [=](int other) { return gradient + of_pairs[other]; });
    }
    angular_backward(tables, shell, shell, scratch);
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
