// The pairs of the atom whose AEV a block computes.
#pragma once

#include "aev_arguments.h"

struct Pairs {
    const real *vectors, *tangents;
    const int* kinds;
    i64 first;
    int count;
};
DEVICE Pairs pairs_of(const AevArguments& a) {
    const i64 block = blockIdx.x, i = a.atom_of ? a.atom_of[a.first + block] : block;
    const i64 first = a.starts ? a.starts[i] : i * a.stride;
    const i64 count = a.starts ? a.starts[i + 1] - first : min((i64)a.counts[i], a.stride);
    return {a.vectors + 3 * first, a.tangents + 3 * first, a.neighbor_kind + first, first, (int)count};
}
DEVICE void vector_of(const Pairs& p, int k, number& x, number& y, number& z) {
#ifdef ANIPOT_DUAL
    x = {p.vectors[3 * k], p.tangents[3 * k]};
    y = {p.vectors[3 * k + 1], p.tangents[3 * k + 1]};
    z = {p.vectors[3 * k + 2], p.tangents[3 * k + 2]};
#else
    x = p.vectors[3 * k];
    y = p.vectors[3 * k + 1];
    z = p.vectors[3 * k + 2];
#endif
}
