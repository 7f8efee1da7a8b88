// What a step is asked for: forces from the gradients of pairs, energies of atoms and molecules, stress.
//
// Every sum has an order of its own or does not depend on it: forces are added up in fixed point, the virial of an atom
// by a warp, and what belongs to a molecule in chunks of its atoms, one after the other.
#include "common.h"

#define WARPS 8
#define CHUNK_THREADS 256
#define SUMS 10  // of a molecule: energy, virial

struct ResultsArguments {
    i64 n, capacity, num_slots, num_molecules, num_chunks;
    i64 members, mean, rows;  // energies of networks; whether their mean is the one output; stride of row_energies
    i64 wide, one_chunk;      // whether forces and stress are double; whether no molecule has more than one chunk
    const int *kind, *slot;
    const int *chunk_molecule, *chunk_first, *molecule_chunk;  // (C), (C + 1) first atom, (B + 1) first chunk
    const int *count, *neighbor;
    const real *vectors, *gradients;  // (n, capacity, 3); dE/dvector (O, n, capacity, 3)
    i64* fixed;                       // (O, n, 3) forces in fixed point, zero before and after a step; or null
    double* virial;                   // (O, n, 9) or null
    const double* row_energies;       // (M, rows)
    const int* row_of;                // (n)
    const double *self_energies, *intercept;  // by element; of a molecule that has an atom, or null
    const double* volume;                     // (B)
    double* partial;                          // (O, C, SUMS)
    double *energies, *atomic_energies;       // (O, B); (O, S) or null
    void *forces, *stress;                    // (O, S, 3) or null; (O, B, 3, 3) or null
    int* status;
};

// A vector that gets longer pulls its ends together: the force on the atom is +dE/dv, on its neighbor -dE/dv.
KERNEL(results_pairs, ResultsArguments, 32 * WARPS) {
    const i64 i = (i64)blockIdx.x * WARPS + warp_id(), o = blockIdx.y;
    if (i >= a.n) return;
    const i64 at = i * a.capacity;
    const int n = a.count[i];
    i64* const forces = a.fixed + 3 * o * a.n;
    double own[3] = {0, 0, 0}, virial[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0};
    for (int k = lane_id(); k < n; k += 32) {
        const real* gradient = a.gradients + 3 * (o * a.n * a.capacity + at + k);
        const double g[3] = {(double)gradient[0], (double)gradient[1], (double)gradient[2]};
        if (a.fixed) {
            const i64 j = a.neighbor[at + k];
            UNROLL for (int c = 0; c < 3; c++) {
                add_fixed(forces + 3 * j + c, -g[c], a.status);
                own[c] += g[c];
            }
        }
        if (a.virial) {
            const real* v = a.vectors + 3 * (at + k);
            UNROLL for (int p = 0; p < 3; p++)
                UNROLL for (int q = 0; q < 3; q++) virial[3 * p + q] += (double)v[p] * g[q];
        }
    }
    if (a.fixed) {
        UNROLL for (int c = 0; c < 3; c++) {
            own[c] = warp_sum(own[c]);
            if (lane_id() == c) add_fixed(forces + 3 * i + c, own[c], a.status);
        }
    }
    if (a.virial) {
        UNROLL for (int q = 0; q < 9; q++) {
            virial[q] = warp_sum(virial[q]);
            if (lane_id() == q) a.virial[9 * (o * a.n + i) + q] = virial[q];
        }
    }
}

DEVICE void put(const ResultsArguments& a, void* to, i64 at, double x) {
    if (a.wide) ((double*)to)[at] = x;
    else ((float*)to)[at] = (float)x;
}

// Energy and stress of molecule b from its sums, by the first threads of a block.
DEVICE void put_molecule(const ResultsArguments& a, i64 o, i64 b, const double* sums, bool is_empty) {
    const int q = (int)threadIdx.x - 1;
    if (q == -1) a.energies[o * a.num_molecules + b] = sums[0] + (a.intercept && !is_empty ? *a.intercept : 0.0);
    else if (q < 9 && a.stress) {
        const double whole = sums[1 + q] / a.volume[b], turned = sums[1 + q % 3 * 3 + q / 3] / a.volume[b];
        put(a, a.stress, 9 * (o * a.num_molecules + b) + q, (whole + turned) / 2);
    }
}

DEVICE double atom_energy(const ResultsArguments& a, i64 o, i64 i) {
    const double* energies = a.row_energies + a.row_of[i];
    double e = 0;
    if (a.mean) {
        for (i64 m = 0; m < a.members; m++) e += energies[m * a.rows];
        e /= a.members;
    } else e = energies[o * a.rows];
    e += a.self_energies[a.kind[i]];
    if (a.atomic_energies) a.atomic_energies[o * a.num_slots + a.slot[i]] = e;
    return e;
}

KERNEL(results_atoms, ResultsArguments, CHUNK_THREADS) {
    __shared__ double of_warps[CHUNK_THREADS / 32][SUMS], sums[SUMS];
    const i64 chunk = blockIdx.x, o = blockIdx.y, b = a.chunk_molecule[chunk];
    const i64 first = a.chunk_first[chunk], last = a.chunk_first[chunk + 1];
    double own[SUMS] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    for (i64 i = first + threadIdx.x; i < last; i += CHUNK_THREADS) {
        own[0] += atom_energy(a, o, i);
        if (a.forces) {
            i64* fixed = a.fixed + 3 * (o * a.n + i);
            UNROLL for (int c = 0; c < 3; c++) {
                put(a, a.forces, 3 * (o * a.num_slots + a.slot[i]) + c, from_fixed(fixed[c]));
                fixed[c] = 0;  // for the next step
            }
        }
        if (a.stress) {
            UNROLL for (int q = 0; q < 9; q++) own[1 + q] += a.virial[9 * (o * a.n + i) + q];
        }
    }
    UNROLL for (int q = 0; q < SUMS; q++) {
        if (q && !a.stress) break;
        own[q] = warp_sum(own[q]);
        if (lane_id() == 0) of_warps[warp_id()][q] = own[q];
    }
    __syncthreads();
    const int q = threadIdx.x;
    if (q < (a.stress ? SUMS : 1)) {
        double sum = 0;
        for (int w = 0; w < CHUNK_THREADS / 32; w++) sum += of_warps[w][q];
        sums[q] = sum;
        if (!a.one_chunk) a.partial[(o * a.num_chunks + chunk) * SUMS + q] = sum;
    }
    __syncthreads();
    if (a.one_chunk) put_molecule(a, o, b, sums, first == last);
}

KERNEL(results_molecules, ResultsArguments, 32) {
    __shared__ double sums[SUMS];
    const i64 b = blockIdx.x, o = blockIdx.y, first = a.molecule_chunk[b], last = a.molecule_chunk[b + 1];
    const int q = threadIdx.x;
    if (q < (a.stress ? SUMS : 1)) {
        double sum = 0;
        for (i64 chunk = first; chunk < last; chunk++) sum += a.partial[(o * a.num_chunks + chunk) * SUMS + q];
        sums[q] = sum;
    }
    __syncthreads();
    put_molecule(a, o, b, sums, a.chunk_first[first] == a.chunk_first[last]);
}
