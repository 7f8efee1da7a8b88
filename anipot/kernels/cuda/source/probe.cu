// The smallest program: whether kernels can be compiled, loaded and launched here.
#include "common.h"

struct ProbeArguments {
    real* out;     // (n): first, first + 1, ...
    i64 n;
    double first;
    i64 places;    // of shared memory, 64 or more; the last ones are used
};

KERNEL(probe, ProbeArguments, 64) {
    DYNAMIC_SHARED(real, shared);
    const i64 i = (i64)blockIdx.x * 64 + threadIdx.x;
    real* last = shared + a.places - 64;
    last[63 - threadIdx.x] = (real)(a.first + (double)i);
    __syncthreads();
    const real other = last[threadIdx.x];  // of i's opposite in the block
    const i64 j = (i64)blockIdx.x * 64 + 63 - threadIdx.x;
    if (j < a.n) a.out[j] = other;
}
