// Sums over neighbors in which a pair has one filter for both of its directions, and their derivatives.
//
// For features x and y of the atoms, filters W and coefficients u of the pairs p = (1, 2) all of these are gradients of
// one form that is linear in each of its arguments,
//
//     EVEN   sum_p u_p  W_p (x_2 y_1 + x_1 y_2)      x and y with as many components; u may be missing
//     UP     sum_p u_pk W_p (x_2 y_1k - x_1 y_2k)    x with one component, y with three
//     DOWN   sum_p u_pk W_p (x_2k y_1 - x_1k y_2)    the other way round
//
// by y (`gather`), by W (`products`) and by u (`contractions`), so that they are closed under differentiation. Each
// number is summed by one thread in the order of the pairs, whatever the number of threads.
#pragma once

#include "network.h"
#include "parallel.h"

namespace ANIPOT_ISA {

template <class T>
class Messages {
   public:
    explicit Messages(const MessageSpec& spec)
        : s(spec),
          x((const T*)spec.x),
          y((const T*)spec.y),
          w((const T*)spec.w),
          u((const T*)spec.u),
          out((T*)spec.out) {}

    static void run(int what, const MessageSpec& spec) {
        if (spec.num_batches == 1) return Messages(spec).run(what);
        parallel_for(
            spec.threads, spec.num_batches,
            [&](long b, int) {
                MessageSpec one = spec;
                one.threads = 1;
                if (one.x) one.x = (const T*)one.x + b * one.x_batch;
                if (one.y) one.y = (const T*)one.y + b * one.y_batch;
                if (one.w) one.w = (const T*)one.w + b * one.w_batch;
                if (one.u) one.u = (const T*)one.u + b * one.u_batch;
                one.out = (T*)one.out + b * one.out_batch;
                Messages(one).run(what);
            },
            anipot::run_on_team);
    }

   private:
    void run(int what) {
        if (what == GATHER) return gather();
        if (s.kind == EVEN) return over_pairs<EVEN>(what);
        over_pairs<UP>(what);
    }

    static constexpr int L = LANES<T>;
    const MessageSpec& s;
    const T *x, *y, *w, *u;
    T* out;

    // Vectors and, where those do not fill them, single numbers.
    template <class V>
    static INLINE V get(const T* p) {
        if constexpr (sizeof(V) == sizeof(T)) return *p;
        else return load<T>(p);
    }
    template <class V>
    static INLINE void put(T* p, V v) {
        if constexpr (sizeof(V) == sizeof(T)) *p = v;
        else store<T>(p, v);
    }

    void gather() {
        parallel_ranges(
            s.threads, s.num_atoms, 16,
            [&](long i0, long i1, int) {
                for (long i = i0; i < i1; i++) {
                    if (s.kind == UP) columns<UP, 3>(i, 0);
                    if (s.kind == DOWN) columns<DOWN, 3>(i, 0);
                    for (long k = 0; s.kind == EVEN && k < s.components;) {
                        if (s.components - k >= 3) columns<EVEN, 3>(i, k), k += 3;
                        else columns<EVEN, 1>(i, k), k += 1;
                    }
                }
            },
            anipot::run_on_team);
    }
    template <int KIND, int C>
    void columns(long i, long k) {
        constexpr int WIDE = C == 1 ? 8 : 4;
        long f = 0;
        for (; f + WIDE * L <= s.num_features; f += WIDE * L) block<KIND, C, Vec<T>, WIDE>(i, k, f);
        for (; f + L <= s.num_features; f += L) block<KIND, C, Vec<T>, 1>(i, k, f);
        for (; f < s.num_features; f++) block<KIND, C, T, 1>(i, k, f);
    }
    // N vectors of features of C components, from component k on, of the sum for atom i.
    template <int KIND, int C, class V, int N>
    __attribute__((noinline)) void block(long i, long k, long f) {
        constexpr int TO = KIND == DOWN ? 1 : C, WIDTH = sizeof(V) / sizeof(T);
        const long F = s.num_features;
        V sum[TO][N];
        UNROLL for (int c = 0; c < TO; c++) UNROLL for (int n = 0; n < N; n++) sum[c][n] = V{};
        for (int64_t e = s.starts[i]; e < s.starts[i + 1]; e++) {
            const int64_t p = s.entries[e] >> 1;
            const bool back = s.entries[e] & 1;
            const T *from = x + (back ? s.first : s.second)[p] * s.x_stride + k * F + f,
                    *filter = w + p * s.w_stride + f;
            T a[C];
            UNROLL for (int c = 0; c < C; c++) {
                if (KIND == EVEN) a[c] = u ? u[p] : (T)1;
                else a[c] = back ? -u[3 * p + c] : u[3 * p + c];
            }
            UNROLL for (int n = 0; n < N; n++) {
                V v = get<V>(filter + n * WIDTH);
                if (KIND == EVEN) {
                    v *= a[0];
                    UNROLL for (int c = 0; c < C; c++) sum[c][n] += v * get<V>(from + c * F + n * WIDTH);
                }
                if (KIND == UP) {
                    v *= get<V>(from + n * WIDTH);
                    UNROLL for (int c = 0; c < C; c++) sum[c][n] += v * a[c];
                }
                if (KIND == DOWN) {
                    V inner = V{};
                    UNROLL for (int c = 0; c < C; c++) inner += get<V>(from + c * F + n * WIDTH) * a[c];
                    sum[0][n] += v * inner;
                }
            }
        }
        T* to = out + (i * (KIND == EVEN ? s.components : TO) + k) * F + f;
        UNROLL for (int c = 0; c < TO; c++) UNROLL for (int n = 0; n < N; n++)
            put<V>(to + c * F + n * WIDTH, sum[c][n]);
    }

    template <int KIND>
    void over_pairs(int what) {
        parallel_ranges(
            s.threads, s.num_pairs, 64,
            [&](long p0, long p1, int) {
                for (long p = p0; p < p1; p++) {
                    if (what == PRODUCTS) product<KIND>(p);
                    else contraction<KIND>(p);
                }
            },
            anipot::run_on_team);
    }
    // Where the features of both atoms of a pair stand. DOWN is UP with the arguments exchanged, but for the sign.
    struct Ends {
        const T *x1, *x2, *y1, *y2;
        T sign;
    };
    Ends ends(long p) const {
        const int64_t i = s.first[p], j = s.second[p];
        const Ends e = {x + i * s.x_stride, x + j * s.x_stride, y + i * s.y_stride, y + j * s.y_stride, (T)1};
        return s.kind == DOWN ? Ends{e.y1, e.y2, e.x1, e.x2, (T)-1} : e;
    }
    // x_2k y_1k + x_1k y_2k
    template <class V>
    INLINE V even(const Ends& e, long f) const {
        V sum = V{};
        for (long k = f; k < s.components * s.num_features; k += s.num_features)
            sum += get<V>(e.x2 + k) * get<V>(e.y1 + k) + get<V>(e.x1 + k) * get<V>(e.y2 + k);
        return sum;
    }
    template <int KIND>
    void product(long p) {
        const Ends e = ends(p);
        T a[3] = {u ? u[p] : (T)1, 0, 0};
        for (int k = 0; KIND == UP && k < 3; k++) a[k] = e.sign * u[3 * p + k];
        T* to = out + p * s.num_features;
        long f = 0;
        for (; f + L <= s.num_features; f += L) product_at<KIND, Vec<T>>(e, a, f, to);
        for (; f < s.num_features; f++) product_at<KIND, T>(e, a, f, to);
    }
    template <int KIND, class V>
    INLINE void product_at(const Ends& e, const T* a, long f, T* to) const {
        if (KIND == EVEN) return put<V>(to + f, even<V>(e, f) * a[0]);
        V at_1 = V{}, at_2 = V{};
        UNROLL for (int k = 0; k < 3; k++) {
            at_1 += get<V>(e.y1 + k * s.num_features + f) * a[k];
            at_2 += get<V>(e.y2 + k * s.num_features + f) * a[k];
        }
        put<V>(to + f, get<V>(e.x2 + f) * at_1 - get<V>(e.x1 + f) * at_2);
    }
    template <int KIND>
    void contraction(long p) {
        constexpr int C = KIND == UP ? 3 : 1;
        const Ends e = ends(p);
        const T* filter = w + p * s.w_stride;
        Vec<T> sum[C];
        T rest[C];
        UNROLL for (int k = 0; k < C; k++) sum[k] = Vec<T>{}, rest[k] = 0;
        long f = 0;
        for (; f + L <= s.num_features; f += L) contract_at<KIND, Vec<T>>(e, filter, f, sum);
        for (; f < s.num_features; f++) contract_at<KIND, T>(e, filter, f, rest);
        UNROLL for (int k = 0; k < C; k++) out[C * p + k] = (sum_lanes<T>(sum[k]) + rest[k]) * e.sign;
    }
    template <int KIND, class V>
    INLINE void contract_at(const Ends& e, const T* filter, long f, V* sum) const {
        const V v = get<V>(filter + f);
        if (KIND == EVEN) {
            sum[0] += v * even<V>(e, f);
            return;
        }
        const V at_2 = v * get<V>(e.x2 + f), at_1 = v * get<V>(e.x1 + f);
        UNROLL for (int k = 0; k < 3; k++) sum[k] +=
            at_2 * get<V>(e.y1 + k * s.num_features + f) - at_1 * get<V>(e.y2 + k * s.num_features + f);
    }
};

// For each atom the pairs that it is part of, in their order: entries 2 p where it is the first of pair p and 2 p + 1
// where it is the second, those of atom i from starts[i] to starts[i + 1].
inline void incidence(const int64_t* first, const int64_t* second, int64_t num_pairs, int64_t num_atoms,
                      int64_t* starts, int64_t* entries) {
    memset((void*)starts, 0, sizeof(int64_t) * (num_atoms + 1));
    for (int64_t p = 0; p < num_pairs; p++) {
        starts[first[p]]++;
        starts[second[p]]++;
    }
    int64_t total = 0;
    for (int64_t i = 0; i <= num_atoms; i++) {
        const int64_t count = starts[i];
        starts[i] = total;
        total += count;
    }
    for (int64_t p = 0; p < num_pairs; p++) {
        entries[starts[first[p]]++] = 2 * p;
        entries[starts[second[p]]++] = 2 * p + 1;
    }
    for (int64_t i = num_atoms; i > 0; i--) starts[i] = starts[i - 1];
    starts[0] = 0;
}

// ---- activations ----------------------------------------------------------------------------------------------------

// The shifted softplus ln((exp(x) + 1) / 2) or its derivative of an order up to 4.
template <class T, int ORDER>
INLINE Vec<T> shifted_softplus(Vec<T> x) {
    const Vec<T> one = splat<T>(1), zero = {};
    const Vec<T> e = vexp(vmin<T>(x, -x)), large = one / (e + one), small = e * large;
    const Vec<T> s = x > zero ? large : small, q = x > zero ? small : large;  // sigmoid(x), sigmoid(-x)
    Vec<T> y;
    if (ORDER == 0) y = vmax<T>(x, zero) + vlog(e + one) - (T)0.69314718055994530942;
    if (ORDER == 1) y = s;
    if (ORDER == 2) y = s * q;
    if (ORDER == 3) y = s * q * (q - s);
    if (ORDER == 4) y = s * q * (one - s * q * (T)6);
    return x == x ? y : x;
}
template <class T, int ORDER>
void softplus_range(const T* x, const T* factor, T* out, long begin, long end) {
    long i = begin;
    for (; i + LANES<T> <= end; i += LANES<T>) {
        const Vec<T> y = shifted_softplus<T, ORDER>(load<T>(x + i));
        store<T>(out + i, factor ? y * load<T>(factor + i) : y);
    }
    if (i == end) return;
    alignas(64) T last[LANES<T>] = {};
    memcpy(last, x + i, sizeof(T) * (end - i));
    store<T>(last, shifted_softplus<T, ORDER>(load<T>(last)));
    for (long k = 0; i + k < end; k++) out[i + k] = factor ? last[k] * factor[i + k] : last[k];
}
// The same for n numbers, times a factor each where those are given.
template <class T>
void softplus(int order, const T* x, const T* factor, T* out, long n, int threads) {
    constexpr void (*RANGES[])(const T*, const T*, T*, long, long) = {
        softplus_range<T, 0>, softplus_range<T, 1>, softplus_range<T, 2>, softplus_range<T, 3>, softplus_range<T, 4>};
    parallel_ranges(
        threads, n, 4096, [&](long begin, long end, int) { RANGES[order](x, factor, out, begin, end); },
        anipot::run_on_team);
}

// ---- filters --------------------------------------------------------------------------------------------------------

// Filters W(r) of SchNet and their slopes dW/dr: a dense network of two layers on Gaussians, times the cutoff function.
// Values and slopes go through the layers together, as rows of one product; the derivative of the energy by r is then a
// contraction with the slopes, and the network has no backward pass.
template <class T>
class Filters {
   public:
    explicit Filters(const FilterSpec& spec) : s(spec) {
        for (int l = 0; l < 2; l++) pack(l);
        workers = new Worker[larger(1, s.threads)];
    }
    ~Filters() { delete[] workers; }

    void run() {
        parallel_ranges(
            s.threads, s.num_pairs, MAX_ROWS / 2, [&](long p0, long p1, int worker) { tile(p0, p1, workers[worker]); },
            anipot::run_on_team);
    }

   private:
    static constexpr int L = LANES<T>;
    struct Worker {
        Buffer<T> rows[3];
    };
    const FilterSpec& s;
    Buffer<T> panels[2], biases[2];
    Worker* workers = nullptr;

    long width(int l) const { return padded<T>(s.layers[l].n_out); }

    // The transpose of a weight, a vector of its columns at a time.
    void pack(int l) {
        const LayerSpec& layer = s.layers[l];
        const T *weight = (const T*)layer.weight, *bias = (const T*)layer.bias;
        T *panel = panels[l].resize(width(l) * layer.n_in), *b = biases[l].resize(width(l));
        for (long o = 0; o < width(l); o++) {
            for (long k = 0; k < layer.n_in; k++)
                panel[(o / L * layer.n_in + k) * L + o % L] = o < layer.n_out ? weight[o * layer.n_in + k] : 0;
            b[o] = bias && o < layer.n_out ? bias[o] : 0;
        }
    }

    // Rows 0 ... n - 1 are values, rows n ... 2 n - 1 slopes.
    void tile(long p0, long p1, Worker& worker) {
        const int n = (int)(p1 - p0);
        const T* r = (const T*)s.distances + p0;
        const long K = s.layers[0].n_in, ld = padded<T>(K);
        T* in = worker.rows[0].resize(MAX_ROWS * ld);
        gaussians(n, r, in, ld);
        T* hidden = worker.rows[1].resize(MAX_ROWS * width(0));
        layer(0, n, in, ld, hidden);
        T* last = worker.rows[2].resize(MAX_ROWS * width(1));
        layer(1, n, hidden, width(0), last);
        finish(p0, n, r, last);
    }
    void gaussians(int n, const T* r, T* to, long ld) const {
        for (int i = 0; i < n; i++)
            for (long k = 0; k < ld; k += L) {  // constants are padded with zeros
                const Vec<T> gamma = load<T>((const T*)s.gammas + k), d = r[i] - load<T>((const T*)s.centers + k);
                const Vec<T> value = vexp(-gamma * d * d);
                store<T>(to + i * ld + k, value);
                store<T>(to + (n + i) * ld + k, gamma * d * value * (T)-2);
            }
    }
    void layer(int l, int n, const T* in, long ld, T* to) const {
        const long depth = s.layers[l].n_in, to_ld = width(l);
        for (long o = 0; o < to_ld; o += 2 * L) {
            const T* at[2] = {&panels[l][o * depth], &panels[l][(o + L) * depth]};
            (o + L < to_ld ? multiply_columns<T, 2, STORE> : multiply_columns<T, 1, STORE>)(2 * n, TILE_ROWS, in, ld,
                                                                                            depth, at, L, to + o, to_ld,
                                                                                            to, 0);
        }
        const bool activated = s.layers[l].activation == SHIFTED_SOFTPLUS;
        for (long i = 0; i < n; i++)
            for (long o = 0; o < to_ld; o += L) {
                T *value = to + i * to_ld + o, *slope = value + n * to_ld;
                Vec<T> z = load<T>(value) + load<T>(&biases[l][o]), d;
                if (activated) {
                    activate_numbers<T>(SHIFTED_SOFTPLUS, (T)0, z, z, d);
                    store<T>(slope, load<T>(slope) * d);
                }
                store<T>(value, z);
            }
    }
    // The cutoff function, here and nowhere else in float64: it is one number of each pair.
    void decay(double r, double& c, double& slope) const {
        const double rc = s.cutoff;
        if (s.cutoff_kind == COSINE_CUTOFF) {
            c = 0.5 * cos(r * (M_PI / rc)) + 0.5;
            slope = -0.5 * M_PI / rc * sin(r * (M_PI / rc));
        } else if (s.cutoff_kind == SMOOTH_CUTOFF) {
            const double below = pow(r / rc, s.cutoff_order - 1), inner = 1 - below * r / rc;
            c = exp(1 - 1 / larger(inner, s.cutoff_eps));
            slope = inner < s.cutoff_eps ? 0 : -c / (inner * inner) * s.cutoff_order * below / rc;
        } else c = 1, slope = 0;
    }
    void finish(long p0, int n, const T* r, const T* rows) const {
        const long F = s.layers[1].n_out, ld = width(1);
        for (int i = 0; i < n; i++) {
            double c_, slope_;
            decay((double)r[i], c_, slope_);
            const T c = (T)c_, slope = (T)slope_;
            const T *value = rows + i * ld, *rise = rows + (n + i) * ld;
            T *w = (T*)s.filters + (p0 + i) * F, *dw = (T*)s.slopes + (p0 + i) * F;
            long f = 0;
            for (; f + L <= F; f += L) {
                store<T>(w + f, load<T>(value + f) * c);
                store<T>(dw + f, load<T>(rise + f) * c + load<T>(value + f) * slope);
            }
            for (; f < F; f++) {
                w[f] = value[f] * c;
                dw[f] = rise[f] * c + value[f] * slope;
            }
        }
    }
};

}  // namespace ANIPOT_ISA
