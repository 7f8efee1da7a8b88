// Vectors of one instruction set, and the elementary functions on them, in GCC's portable vector extensions.
//
// The kernels live in a namespace named after the instruction set that they are compiled for (ANIPOT_ISA), so that
// nothing compiled for AVX-512 can be linked into the baseline. For the same reason no templates of the standard
// library appear in them.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))
// Loops over registers: without this GCC may keep the registers in memory.
#define UNROLL _Pragma("GCC unroll 16")

namespace ANIPOT_ISA {

// One vector of T (V), the same at any address (U), and integers of the same width (I).
template <class T>
struct Simd;
template <>
struct Simd<float> {
    typedef float V __attribute__((vector_size(ANIPOT_BYTES)));
    typedef float U __attribute__((vector_size(ANIPOT_BYTES), aligned(4), may_alias));
    typedef int32_t I __attribute__((vector_size(ANIPOT_BYTES)));
    typedef int32_t Lane;
};
template <>
struct Simd<double> {
    typedef double V __attribute__((vector_size(ANIPOT_BYTES)));
    typedef double U __attribute__((vector_size(ANIPOT_BYTES), aligned(8), may_alias));
    typedef int64_t I __attribute__((vector_size(ANIPOT_BYTES)));
    typedef int64_t Lane;
};
template <class T>
using Vec = typename Simd<T>::V;
template <class T>
using Int = typename Simd<T>::I;
template <class T>
constexpr int LANES = ANIPOT_BYTES / (int)sizeof(T);

template <class N>
constexpr N smaller(N a, N b) {
    return a < b ? a : b;
}
template <class N>
constexpr N larger(N a, N b) {
    return a > b ? a : b;
}
template <class T>
constexpr long padded(long n) {
    return (n + LANES<T> - 1) / LANES<T> * LANES<T>;
}

template <class T>
INLINE Vec<T> load(const T* p) {
    return *(const typename Simd<T>::U*)p;
}
template <class T>
INLINE void store(T* p, Vec<T> v) {
    *(typename Simd<T>::U*)p = v;
}
template <class T>
INLINE Int<T> load_int(const typename Simd<T>::Lane* p) {
    Int<T> v;
    memcpy(&v, p, sizeof v);
    return v;
}
template <class T>
INLINE void store_int(typename Simd<T>::Lane* p, Int<T> v) {
    memcpy(p, &v, sizeof v);
}
template <class T>
INLINE Vec<T> splat(T s) {
    return s - Vec<T>{};
}
template <class T>
INLINE Int<T> lane_numbers() {
    Int<T> v;
    UNROLL for (int i = 0; i < LANES<T>; i++) v[i] = i;
    return v;
}
template <class T>
INLINE Int<T> splat_int(typename Simd<T>::Lane s) {
    return s - Int<T>{};
}
// a where the lane number is below count, else b.
template <class T>
INLINE Vec<T> choose_first(long count, Vec<T> a, Vec<T> b) {
    return lane_numbers<T>() < splat_int<T>((typename Simd<T>::Lane)smaller<long>(count, LANES<T>)) ? a : b;
}
// Which lanes have numbers `from` ... `to` - 1; these may lie beyond the lanes.
template <class T>
INLINE Int<T> lanes_between(long from, long to) {
    typedef typename Simd<T>::Lane Lane;
    const Int<T> lane = lane_numbers<T>();
    const Lane low = (Lane)larger<long>(from, 0), high = (Lane)smaller<long>(to, LANES<T>);
    return (lane >= splat_int<T>(low)) & (lane < splat_int<T>(high));
}
// The first `count` lanes.
template <class T>
INLINE void store_first(T* p, Vec<T> v, int count) {
    if (count == LANES<T>) return store<T>(p, v);
#if defined(__AVX512F__)
    const unsigned lanes = (1u << count) - 1;
    if constexpr (sizeof(T) == 4) _mm512_mask_storeu_ps(p, (__mmask16)lanes, (__m512)v);
    else _mm512_mask_storeu_pd(p, (__mmask8)lanes, (__m512d)v);
#else
    T lanes[LANES<T>];
    store<T>(lanes, v);
    for (int i = 0; i < count; i++) p[i] = lanes[i];
#endif
}
// Of these two the second operand is the result where one is NaN.
template <class T>
INLINE Vec<T> vmax(Vec<T> a, Vec<T> b) {
    return a > b ? a : b;
}
template <class T>
INLINE Vec<T> vmin(Vec<T> a, Vec<T> b) {
    return a < b ? a : b;
}
// Whether a comparison holds in some lane.
template <class I>
INLINE bool any_lane(I v) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)v, (__m512i)v) != 0;
#elif defined(__AVX__)
    return !_mm256_testz_si256((__m256i)v, (__m256i)v);
#elif defined(__SSE2__)
    return _mm_movemask_epi8((__m128i)v) != 0;
#else
    bool any = false;
    UNROLL for (int l = 0; l < (int)(sizeof(I) / sizeof(v[0])); l++) any |= v[l] != 0;
    return any;
#endif
}
template <class T>
INLINE T sum_lanes(Vec<T> v) {
    T s = 0;
    UNROLL for (int i = 0; i < LANES<T>; i++) s += v[i];
    return s;
}

// Whether lanes move to places that are known only at run time in an instruction or two.
constexpr bool PERMUTES = ANIPOT_BYTES >= 32;
template <class T>
INLINE Vec<T> permute(Vec<T> v, Int<T> from) {
#if defined(__clang__)
    Vec<T> moved;
    UNROLL for (int l = 0; l < LANES<T>; l++) moved[l] = v[from[l] & (LANES<T> - 1)];
    return moved;
#else
    return __builtin_shuffle(v, from);
#endif
}
// The same from two vectors; lanes of the second have numbers from LANES on.
template <class T>
INLINE Vec<T> shuffle(Vec<T> a, Vec<T> b, Int<T> from) {
#if defined(__clang__)
    constexpr int L = LANES<T>;
    Vec<T> moved;
    UNROLL for (int l = 0; l < L; l++) moved[l] = from[l] < L ? a[from[l] % L] : b[from[l] % L];
    return moved;
#else
    return __builtin_shuffle(a, b, from);
#endif
}

// Rows of a square block of LANES vectors become its columns. Step H exchanges the lanes with bit H set of a vector for
// those with bit H clear of the vector H further on.
template <class T, int H>
INLINE void transpose_step(Vec<T>* v) {
    constexpr int L = LANES<T>;
    if constexpr (H < L) {
        const Int<T> lane = lane_numbers<T>();
        const Int<T> low = (lane & H) ? lane - H + L : lane, high = (lane & H) ? lane + L : lane + H;
        UNROLL for (int i = 0; i < L; i++) {
            if (i & H) continue;
            const Vec<T> a = v[i], b = v[i + H];
            v[i] = shuffle<T>(a, b, low);
            v[i + H] = shuffle<T>(a, b, high);
        }
        transpose_step<T, 2 * H>(v);
    }
}

// Sums of the lanes of vectors, vector i in lane i: a tree whose step H joins two vectors that hold the sums for lanes
// with bit H clear and with bit H set. Each step adds two shuffles of the pair, chosen so that each is one instruction:
// within 16 bytes they interleave single lanes, then pairs; beyond they move blocks of 16 bytes.
template <class T, int H>
INLINE Vec<T> join(Vec<T> a, Vec<T> b) {
    constexpr int L = LANES<T>, BLOCK = 16 / sizeof(T), BLOCKS = L / BLOCK;
    Int<T> low = {}, high = {};
    UNROLL for (int l = 0; l < L; l++) {
        const int in_block = l % BLOCK, block = l / BLOCK;
        if (H < BLOCK) {
            const int source = in_block / H % 2, lane = in_block % H + in_block / (2 * H) * H;
            low[l] = source * L + block * BLOCK + lane;
            high[l] = low[l] + BLOCK / 2;
        } else if (BLOCKS == 4 && H == BLOCK) {  // blocks a0 a1 b0 b1, and a2 a3 b2 b3
            low[l] = block / 2 * L + block % 2 * BLOCK + in_block;
            high[l] = low[l] + 2 * BLOCK;
        } else {  // even blocks of a and of b, and odd ones
            low[l] = block / (BLOCKS / 2) * L + block % (BLOCKS / 2) * 2 * BLOCK + in_block;
            high[l] = low[l] + BLOCK;
        }
    }
    return shuffle<T>(a, b, low) + shuffle<T>(a, b, high);
}
// Joins vectors v[0], v[1] ... from step `LEAST` to step H.
template <class T, int H, int LEAST>
struct Join {
    static INLINE Vec<T> run(const Vec<T>* v) {
        if constexpr (H < LEAST) return *v;
        else return join<T, H>(Join<T, H / 2, LEAST>::run(v), Join<T, H / 2, LEAST>::run(v + H / LEAST));
    }
};
template <class T>
INLINE Vec<T> sums_of_each(const Vec<T>* v) {
    return Join<T, LANES<T> / 2, 1>::run(v);
}

// ---- elementary functions -------------------------------------------------------------------------------------------

INLINE float exp_limit(float) { return 87.0f; }
INLINE double exp_limit(double) { return 707.0; }

// exp(x) = 2^n exp(r), |r| <= ln(2)/2, by its Taylor series; arguments beyond what T can hold are clamped.
INLINE Vec<float> vexp(Vec<float> x) {
    const float shifter = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    x = vmin<float>(vmax<float>(x, splat<float>(-87.0f)), splat<float>(88.0f));
    Vec<float> t = x * 1.44269504f + shifter;
    Vec<float> n = t - shifter;
    Vec<float> r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Vec<float> p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return (Vec<float>)((Int<float>)p + ((Int<float>)t << 23));
}
INLINE Vec<double> vexp(Vec<double> x) {
    const double shifter = 6755399441055744.0;  // 1.5 * 2^52
    x = vmin<double>(vmax<double>(x, splat<double>(-707.0)), splat<double>(709.0));
    Vec<double> t = x * 1.4426950408889634074 + shifter;
    Vec<double> n = t - shifter;
    Vec<double> r = x - n * 6.93147180369123816490e-01;
    r = r - n * 1.90821492927058770002e-10;
    Vec<double> p = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    return (Vec<double>)((Int<double>)p + ((Int<double>)t << 52));
}

// log(x), x > 0 and normal: x = 2^n m with m in [sqrt(1/2), sqrt(2)), log(m) = 2 artanh((m - 1) / (m + 1)).
INLINE Vec<float> vlog(Vec<float> x) {
    Int<float> bits = (Int<float>)x - 0x3F3504F3;
    Vec<float> n = __builtin_convertvector(bits >> 23, Vec<float>);
    Vec<float> m = (Vec<float>)((bits & 0x007FFFFF) + 0x3F3504F3);
    Vec<float> f = (m - 1.0f) / (m + 1.0f), s = f * f;
    Vec<float> p = s * (1.0f / 11) + 1.0f / 9;
    p = p * s + 1.0f / 7;
    p = p * s + 1.0f / 5;
    p = p * s + 1.0f / 3;
    return n * 0.693147181f + (f * 2.0f + f * 2.0f * s * p);
}
INLINE Vec<double> vlog(Vec<double> x) {
    Int<double> bits = (Int<double>)x - 0x3FE6A09E667F3BCDL;
    Int<double> exponent = bits >> 52;
    Vec<double> n = __builtin_convertvector(exponent, Vec<double>);
    Vec<double> m = (Vec<double>)((bits & 0x000FFFFFFFFFFFFFL) + 0x3FE6A09E667F3BCDL);
    Vec<double> f = (m - 1.0) / (m + 1.0), s = f * f;
    Vec<double> p = s * (1.0 / 21) + 1.0 / 19;
    p = p * s + 1.0 / 17;
    p = p * s + 1.0 / 15;
    p = p * s + 1.0 / 13;
    p = p * s + 1.0 / 11;
    p = p * s + 1.0 / 9;
    p = p * s + 1.0 / 7;
    p = p * s + 1.0 / 5;
    p = p * s + 1.0 / 3;
    return n * 0.69314718055994530942 + (f * 2.0 + f * 2.0 * s * p);
}

// sin(a) and cos(a), |a| <= pi/2, by their Taylor series.
template <class T>
INLINE void vsincos(Vec<T> a, Vec<T>& sine, Vec<T>& cosine) {
    constexpr int TERMS = sizeof(T) == 4 ? 7 : 12;
    Vec<T> x = a * a, s = splat<T>(0), c = splat<T>(0);
    UNROLL for (int k = TERMS - 1; k > 0; k--) {
        s = (s + 1) * x * (T)(-1.0 / ((2 * k) * (2 * k + 1)));
        c = (c + 1) * x * (T)(-1.0 / ((2 * k - 1) * (2 * k)));
    }
    sine = a * (s + 1);
    cosine = c + 1;
}

INLINE Vec<float> vsqrt(Vec<float> x) {
#if defined(__AVX512F__)
    return (Vec<float>)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX__)
    return (Vec<float>)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__)
    return (Vec<float>)_mm_sqrt_ps((__m128)x);
#else
    UNROLL for (int i = 0; i < LANES<float>; i++) x[i] = __builtin_sqrtf(x[i]);
    return x;
#endif
}
INLINE Vec<double> vsqrt(Vec<double> x) {
#if defined(__AVX512F__)
    return (Vec<double>)_mm512_sqrt_pd((__m512d)x);
#elif defined(__AVX__)
    return (Vec<double>)_mm256_sqrt_pd((__m256d)x);
#elif defined(__SSE2__)
    return (Vec<double>)_mm_sqrt_pd((__m128d)x);
#else
    UNROLL for (int i = 0; i < LANES<double>; i++) x[i] = __builtin_sqrt(x[i]);
    return x;
#endif
}

}  // namespace ANIPOT_ISA
