// The features of an atom: radial terms by threads for each, angular terms by a warp for each pair of elements.
#pragma once

#include "near.h"

#define N_DISTANCE_FACTORS (N_ETAA * N_SHFA)
#define N_FACTORS (N_DISTANCE_FACTORS + N_ZETA * N_SHFZ)
#define FACTOR_STRIDE (N_FACTORS | 1)
// Terms of one pair of elements that each lane adds up.
#define N_OWN ((N_ANGULAR + 31) / 32)

// Neighbors of a tile, for the radial terms.
struct Tile {
    number r[THREADS], f[THREADS], sum[THREADS];
    int kind[THREADS];
};

// Threads for each term of each element that has columns, as many as there are for all; each takes every n-th neighbor.
// `element_of` is (E) in shared memory: elements in the order of their columns.
DEVICE void radial_forward(const AevArguments& a, const Constants& c, const Pairs& p, Tile& tile, int* element_of,
                           real* row) {
    const int t = threadIdx.x, total = (int)a.radial;
    for (int e = t; e < a.num_species; e += THREADS)
        if (a.radial_column[e] >= 0) element_of[a.radial_column[e] / N_RADIAL] = e;
    __syncthreads();
    for (int t0 = 0; t0 < total; t0 += THREADS) {
        const int here = min(total - t0, THREADS), slices = THREADS / here;
        const int term = t0 + t % here, slice = t / here, m = term % N_RADIAL, element = element_of[term / N_RADIAL];
        const real eta = c.EtaR[m / N_SHFR], shift = c.ShfR[m % N_SHFR];
        number sum = number_of(0);
        for (int k0 = 0; k0 < p.count; k0 += THREADS) {
            const int k = k0 + t, count = min(p.count - k0, THREADS);
            __syncthreads();
            int kind = -1;
            if (k < p.count) {
                number x, y, z, df;
                vector_of(p, k, x, y, z);
                const number r = sqrt_of(x * x + y * y + z * z);
                if (value_of(r) < c.Rcr) {
                    kind = p.kinds[k];
                    tile.r[t] = r;
                    cutoff(c.eps, r, c.Rcr, tile.f[t], df);
                }
            }
            tile.kind[t] = kind;
            __syncthreads();
            for (int s = slice; s < count && slice < slices; s += slices) {
                if (tile.kind[s] != element) continue;
                const number offset = tile.r[s] + -shift;
                sum = sum + exp_of(offset * offset * -eta) * tile.f[s];
            }
        }
        tile.sum[t] = sum;
        __syncthreads();
        if (t < here) {
            for (int s = 1; s < slices; s++) sum = sum + tile.sum[s * here + t];
            row[term] = (real)0.25 * result_of(sum);
        }
        __syncthreads();
    }
}

// Neighbors j > k of triple t among the pairs of n.
DEVICE void unrank(int t, int& j, int& k) {
    j = (int)((1 + sqrtf(1 + 8.0f * t)) / 2);
    while (j * (j - 1) / 2 > t) j--;
    while (j * (j + 1) / 2 <= t) j++;
    k = t - j * (j - 1) / 2;
}

// The factors of triples t0 ... end - 1, 32 at most, of a pair of elements, one triple for each lane.
DEVICE void triple_factors(const Constants& c, const Near& near, int e, int f, int t0, int end, number* factors) {
    const int t = t0 + lane_id();
    number* mine = factors + lane_id() * FACTOR_STRIDE;
    if (t >= end) return;
    int j, k;
    if (e == f) {
        unrank(t, j, k);
        j += near.start[e];
        k += near.start[e];
    } else {
        const int n = near.start[f + 1] - near.start[f];
        j = near.start[e] + t / n;
        k = near.start[f] + t % n;
    }
    const number x = dot(near, j, k) * (real)0.95, y = sqrt_of(x * x * (real)-1 + (real)1);
    const number mean = (near.r[j] + near.r[k]) * (real)0.5, both = near.f[j] * near.f[k] * (real)2;
    UNROLL for (int i = 0; i < N_ETAA; i++)
        UNROLL for (int s = 0; s < N_SHFA; s++) {
            const number offset = mean + -c.ShfA[s];
            mine[i * N_SHFA + s] = exp_of(offset * offset * -c.EtaA[i]) * both;
        }
    UNROLL for (int z = 0; z < N_SHFZ; z++) {
        const number half = half_angle(c, x, y, z);
        UNROLL for (int q = 0; q < N_ZETA; q++) {
            number power, below;
            powers(half, c.zeta[q], power, below);
            mine[N_DISTANCE_FACTORS + q * N_SHFZ + z] = power;
        }
    }
}

// A warp for each pair of elements: first a lane for each triple, then for each term.
DEVICE void angular_forward(const AevArguments& a, const Constants& c, const Near& near, number* factors, real* row) {
    const int E = (int)a.num_species, triples = (int)a.triples;
    int pair = 0;
    for (int e = 0; e < E; e++)
        for (int f = e; f < E; f++) {
            const int column = a.angular_column[e * E + f];
            if (column < 0 || (pair++) % WARPS != warp_id()) continue;
            const int n = near.start[e + 1] - near.start[e], m = near.start[f + 1] - near.start[f];
            const int count = e == f ? n * (n - 1) / 2 : n * m;
            number sum[N_OWN];
            UNROLL for (int own = 0; own < N_OWN; own++) sum[own] = number_of(0);
            for (int t0 = 0; t0 < count; t0 += triples) {
                const int rest = min(triples, count - t0);
                triple_factors(c, near, e, f, t0, t0 + rest, factors);
                __syncwarp();
                for (int t = 0; t < rest; t++)
                    UNROLL for (int own = 0; own < N_OWN; own++) {
                        const int term = min(own * 32 + lane_id(), N_ANGULAR - 1);
                        const int z = term % N_SHFZ, s = term / N_SHFZ % N_SHFA;
                        const int q = term / (N_SHFZ * N_SHFA) % N_ZETA, i = term / (N_SHFZ * N_SHFA * N_ZETA);
                        const number* mine = factors + t * FACTOR_STRIDE;
                        sum[own] = sum[own] + mine[i * N_SHFA + s] * mine[N_DISTANCE_FACTORS + q * N_SHFZ + z];
                    }
                __syncwarp();
            }
            UNROLL for (int own = 0; own < N_OWN; own++)
                if (own * 32 + lane_id() < N_ANGULAR) row[column + own * 32 + lane_id()] = result_of(sum[own]);
        }
}
