// The constants of AEVs, which a block has in shared memory.
#pragma once

#include "aev_arguments.h"

struct Constants {
    real EtaR[N_ETAR], ShfR[N_SHFR], EtaA[N_ETAA], ShfA[N_SHFA];
    real half_cosine[N_SHFZ], half_sine[N_SHFZ];  // of ShfZ
    Exponent zeta[N_ZETA];
    real Rcr, Rca, eps;
};

DEVICE void load(real* to, const double* from, int count, int first) {
    for (int k = threadIdx.x - first; k < count; k += THREADS)
        if (k >= 0) to[k] = (real)from[k];
}
// Every warp loads other constants; they are there after the next barrier.
DEVICE void load_constants(const double* from, Constants& c) {
    const double *EtaR = from + 3, *ShfR = EtaR + N_ETAR, *EtaA = ShfR + N_SHFR, *Zeta = EtaA + N_ETAA,
                 *ShfA = Zeta + N_ZETA, *ShfZ = ShfA + N_SHFA;
    load(c.EtaR, EtaR, N_ETAR, 0);
    load(c.ShfR, ShfR, N_SHFR, 0);
    load(c.EtaA, EtaA, N_ETAA, 32);
    load(c.ShfA, ShfA, N_SHFA, 32);
    for (int k = threadIdx.x - 64; k < N_SHFZ; k += THREADS) {
        if (k < 0) continue;
        real s, cosine;
        sincospi_of((real)(ShfZ[k] * (1 / PI)), s, cosine);
        c.half_cosine[k] = cosine / 2;
        c.half_sine[k] = s / 2;
    }
    for (int k = threadIdx.x - 96; k < N_ZETA; k += THREADS)
        if (k >= 0) c.zeta[k] = exponent_of(Zeta[k]);
    if (threadIdx.x == 127) {
        c.Rcr = (real)from[0];
        c.Rca = (real)from[1];
        c.eps = (real)from[2];
    }
}

// (1 + cos(theta - ShfZ)) / 2 from x = 0.95 cos(angle) and y = sin(theta)
DEVICE number half_angle(const Constants& c, number x, number y, int z) {
    return at_least(x * c.half_cosine[z] + y * c.half_sine[z] + (real)0.5, (real)0);
}
