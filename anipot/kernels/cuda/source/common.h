// What all kernels share: types, sums over a warp or a block, fixed-point sums.
//
// The sources are compiled by NVRTC, which has no system headers, and by a C++ compiler for tests of the algorithms on
// the host (ANIPOT_HOST; tests/cuda_on_host).
#pragma once

typedef long long i64;

#ifdef ANIPOT_HOST
#include "cuda_on_host.h"
#else
// A kernel takes one structure, whose fields are all 8 bytes wide, and calls it `a`.
#define KERNEL(name, Arguments, threads) extern "C" __global__ void __launch_bounds__(threads) name(const Arguments a)
#define DYNAMIC_SHARED(T, name)                                    \
    extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
    T* const name = (T*)dynamic_shared
#endif

#define DEVICE static __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define FULL 0xffffffffu
#define PI 3.14159265358979323846

#ifdef ANIPOT_DOUBLE
typedef double real;
#else
typedef float real;
#endif

// Where a launch reports what the host has to know (search.py has the same): the largest wins.
enum { NEIGHBORS = 0, ONE_SPOT = 1, NOT_FINITE = 2, OVERFLOW = 3, STATUS_SIZE = 4 };

DEVICE int lane_id() { return threadIdx.x & 31; }
DEVICE int warp_id() { return threadIdx.x >> 5; }

DEVICE float exp_of(float x) { return expf(x); }
DEVICE double exp_of(double x) { return exp(x); }
DEVICE float log_of(float x) { return logf(x); }
DEVICE double log_of(double x) { return log(x); }
DEVICE float sqrt_of(float x) { return sqrtf(x); }
DEVICE double sqrt_of(double x) { return sqrt(x); }
// sin(pi x) and cos(pi x): unlike sin and cos they have no slow path that takes local memory.
DEVICE void sincospi_of(float x, float& s, float& c) { sincospif(x, &s, &c); }
DEVICE void sincospi_of(double x, double& s, double& c) { sincospi(x, &s, &c); }
DEVICE float max_of(float x, float y) { return fmaxf(x, y); }
DEVICE double max_of(double x, double y) { return fmax(x, y); }

// The same sum in every lane, added in the same order every time.
template <class T>
DEVICE T warp_sum(T x) {
    UNROLL for (int h = 16; h > 0; h /= 2) x += __shfl_xor_sync(FULL, x, h);
    return x;
}

// Sums that do not depend on the order of their terms: 64 bits, of which one is 2^-47. Terms of 128 and more, of which
// 512 would overflow, are no forces of a structure that somebody means; they are reported as OVERFLOW.
DEVICE void add_fixed(i64* sum, double x, int* status) {
    if (!(x > -128.0 && x < 128.0)) {
        atomicMax(status + OVERFLOW, 1);
        return;
    }
    atomicAdd((unsigned long long*)sum, (unsigned long long)(i64)(x * 140737488355328.0));
}
DEVICE double from_fixed(i64 sum) { return (double)sum * (1.0 / 140737488355328.0); }
