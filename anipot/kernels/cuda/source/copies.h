// Copies from global to shared memory that go on while a warp computes, on devices that have them (8.0 and later).
#pragma once

#include "common.h"

#ifndef ANIPOT_HOST  // which has its own

// Zeros where `there` is false.
template <int BYTES>
DEVICE void copy_later(real* to, const real* from, bool there) {
#if __CUDA_ARCH__ >= 800
    const unsigned address = (unsigned)__cvta_generic_to_shared(to);
    const int bytes = there ? BYTES : 0;
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(address), "l"(from), "r"(bytes), "n"(BYTES)
                     : "memory");
#else
    UNROLL for (int i = 0; i < BYTES / (int)sizeof(real); i++) to[i] = there ? __ldg(from + i) : (real)0;
#endif
}
DEVICE void end_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// All but the last PENDING groups of copies have come.
template <int PENDING>
DEVICE void await_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

#endif
