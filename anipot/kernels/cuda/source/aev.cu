// Atomic environment vectors: forward and backward, a block for each atom. The equations stand in
// representation/aev.py.
//
// Compiled for the sizes of one set of constants: N_ETAR, N_SHFR, N_ETAA, N_ZETA, N_SHFA, N_SHFZ and SMOOTH_CUTOFF
// (cutoff.h); with ANIPOT_DUAL over dual numbers (numbers.h), whose derivatives are what is written then. What most
// atoms do not need is left out otherwise, so that the compiler knows which memory it reads: ANIPOT_CROWDED for atoms
// with more than NEAR neighbors (near.h), ANIPOT_UNSTAGED for rows of gradients that have no room in shared memory
// (gradient_rows.h).
#include "aev_backward.h"
#include "aev_forward.h"

// Dynamic shared memory: start (E + 1, padded), factors.
KERNEL(aev_forward, AevArguments, THREADS) {
    __shared__ Constants c;
    __shared__ NearMemory memory;
    __shared__ Tile tile;
    DYNAMIC_SHARED(number, dynamic);
    load_constants(a.constants, c);
    __syncthreads();
    const Pairs p = pairs_of(a);
    real* out = a.features + blockIdx.x * a.width;
    radial_forward(a, c, p, tile, (int*)dynamic, out);
    const int padded_start = ((int)a.num_species + 4) / 4 * 4;
    const Near near = collect(a, c, p, memory, (int*)dynamic);
    number* factors = (number*)((int*)dynamic + padded_start) + warp_id() * (int)a.triples * FACTOR_STRIDE;
    angular_forward(a, c, near, factors, out);
}

// Dynamic shared memory: start (E + 1, padded), and a row of gradients.
KERNEL(aev_backward, AevArguments, THREADS) {
    __shared__ Constants c;
    __shared__ NearMemory memory;
    __shared__ Slopes partial[THREADS];
    DYNAMIC_SHARED(int, dynamic);
    const i64 output = blockIdx.y;
    load_constants(a.constants, c);
    const real* g = gradient_row(a, output, blockIdx.x, (real*)(dynamic + ((int)a.num_species + 4) / 4 * 4));
    __syncthreads();
    const Pairs p = pairs_of(a);
    real* out = a.out + 3 * (output * a.num_pairs + p.first);
    radial_backward(a, c, p, g, out);
    const Near near = collect(a, c, p, memory, dynamic);
    angular_backward(a, c, near, g, partial, out);
}
