// Rows of dE/d(features), one of an atom, as the threads of a block read them: from shared memory, or with
// ANIPOT_UNSTAGED from where they stand.
#pragma once

#include "aev_arguments.h"
#include "units.h"

// In shared memory, from one pair of elements to the next: an odd number of units, so that lanes that read several
// pairs read different banks.
#define PAIR_STRIDE (((N_ANGULAR + V - 1) / V | 1) * V)

// Where the gradients of an angular column stand in the row that `gradient_row` returns.
DEVICE int place_of(const AevArguments& a, int column) {
#ifdef ANIPOT_UNSTAGED
    return column;
#else
    const int radial = (int)a.radial, angular = column - radial;
    return (radial + V - 1) / V * V + angular / N_ANGULAR * PAIR_STRIDE + angular % N_ANGULAR;
#endif
}
// The row of gradients of an atom: groups added up in shared memory, or where it stands.
DEVICE const real* gradient_row(const AevArguments& a, i64 output, i64 row, real* shared) {
    const real* from = a.gradient + (output * a.groups * a.rows + row) * a.width;
#ifdef ANIPOT_UNSTAGED
    return from;
#else
    for (int k = threadIdx.x; k < a.width; k += THREADS) {
        real sum = 0;
        for (int group = 0; group < a.groups; group++) sum += from[group * a.rows * a.width + k];
        shared[k < a.radial ? k : place_of(a, k)] = sum;
    }
    return shared;
#endif
}

// Gradients of the terms of all ShfZ.
DEVICE void load_row(const real* from, real* to) {
#ifndef ANIPOT_UNSTAGED
    if (N_SHFZ % V == 0) {
        UNROLL for (int z = 0; z < N_SHFZ; z += V) {
            const Unit unit = load(from + z);
            UNROLL for (int v = 0; v < V; v++) to[z + v] = unit.v[v];
        }
        return;
    }
#endif
    UNROLL for (int z = 0; z < N_SHFZ; z++) to[z] = from[z];
}
