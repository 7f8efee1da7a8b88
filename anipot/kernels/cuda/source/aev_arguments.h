// What both kernels of AEVs take (aev.py has the same), and how many threads and terms there are.
#pragma once

#include "numbers.h"

#define THREADS 128
#define WARPS (THREADS / 32)
#define N_RADIAL (N_ETAR * N_SHFR)
#define N_ANGULAR (N_ETAA * N_ZETA * N_SHFA * N_SHFZ)

// Each block computes a row: that of atom atom_of[first + block], or of atom `block`. The pairs of atom i stand from
// starts[i] to starts[i + 1]; or there are counts[i] of them from i * stride on.
struct AevArguments {
    i64 num_species;
    const i64* starts;
    const int* counts;
    i64 stride;
    const int* neighbor_kind;  // (P)
    const real* vectors;       // (P, 3)
    const real* tangents;      // (P, 3) of the vectors, if dual
    const double* constants;   // Rcr, Rca, eps of the cutoff; EtaR, ShfR, EtaA, Zeta, ShfA, ShfZ
    const int* radial_column;   // (E) where the terms of an element begin, one after the other from 0 on; negative if
                                // they are left out
    const int* angular_column;  // (E, E)
    const int* atom_of;         // or null
    i64 first;
    i64 width;
    real* features;        // (rows, width)
    const real* gradient;  // (outputs, groups, rows, width): groups are added up
    i64 groups, rows;
    i64 radial;       // columns of radial terms, which come first
    real* out;        // (outputs, P, 3)
    i64 num_pairs;    // P
    number* scratch;  // (P, SCRATCH), or null where no atom has more than NEAR neighbors
    i64 triples;      // of which each warp has shared memory for the factors, 1 ... 32
};
