// The neighbors of an atom that its angular terms are sums over pairs of.
#pragma once

#include "aev_constants.h"
#include "cutoff.h"
#include "pairs.h"

// Angular neighbors that have room in shared memory; where there are more, all of them are in `scratch`.
#define NEAR 128

// Neighbors within Rca, sorted by element, in their own order where that is the same.
struct Near {
    number *ux, *uy, *uz, *r, *f, *df;
    int *index, *kind;  // among the pairs of the atom
    int count;
    const int* start;  // (E + 1) where each element begins
};
struct NearMemory {
    number values[6 * NEAR];
    int order[2 * NEAR], index[NEAR], kind[NEAR];
    int count;
};
// Numbers of `scratch` for each pair: six values, and four integers.
#define SCRATCH (6 + (4 * sizeof(int) + sizeof(number) - 1) / sizeof(number))

// `start` is (E + 1) in shared memory. All threads take part; what is returned is complete for all of them.
DEVICE Near collect(const AevArguments& a, const Constants& c, const Pairs& p, NearMemory& memory, int* start) {
    number* values = memory.values;
    int *order = memory.order, *index = memory.index, *kind = memory.kind;
#ifdef ANIPOT_CROWDED
    int room = NEAR;
    if (p.count > NEAR) {
        room = p.count;
        values = a.scratch + p.first * SCRATCH;
        order = (int*)(values + 6 * (i64)room);
        index = order + 2 * room;
        kind = index + room;
    }
#else
    const int room = NEAR;
#endif
    if (warp_id() == 0) {
        int n = 0;
        for (int k0 = 0; k0 < p.count; k0 += 32) {
            const int k = k0 + lane_id();
            bool near = false;
            if (k < p.count) {
                const real *v = p.vectors + 3 * k, square = v[0] * v[0] + v[1] * v[1] + v[2] * v[2];
                near = square < c.Rca * c.Rca;
            }
            const unsigned bits = __ballot_sync(FULL, near);
            const int at = n + __popc(bits & ((1u << lane_id()) - 1));
            if (near && at < room) {
                order[at] = k;
                order[room + at] = p.kinds[k];
            }
            n += __popc(bits);
        }
        if (lane_id() == 0) memory.count = min(n, room);
    }
    __syncthreads();
    const int n = memory.count;
    for (int s = threadIdx.x; s < n; s += THREADS) {
        const int k = order[s], mine = order[room + s];
        int rank = 0;
        for (int t = 0; t < n; t++) rank += order[room + t] < mine || (order[room + t] == mine && t < s);
        number x, y, z;
        vector_of(p, k, x, y, z);
        const number r = sqrt_of(x * x + y * y + z * z), over = inverse(r);
        number f, df;
        cutoff(c.eps, r, c.Rca, f, df);
        values[rank] = x * over;
        values[room + rank] = y * over;
        values[2 * room + rank] = z * over;
        values[3 * room + rank] = r;
        values[4 * room + rank] = f;
        values[5 * room + rank] = df;
        index[rank] = k;
        kind[rank] = mine;
    }
    for (int e = threadIdx.x; e <= a.num_species; e += THREADS) {
        int before = 0;
        for (int t = 0; t < n; t++) before += order[room + t] < e;
        start[e] = before;
    }
    __syncthreads();
    return {values, values + room, values + 2 * room, values + 3 * room, values + 4 * room, values + 5 * room,
            index,  kind,          n,                start};
}

DEVICE number dot(const Near& near, int j, int k) {
    return near.ux[j] * near.ux[k] + near.uy[j] * near.uy[k] + near.uz[j] * near.uz[k];
}
