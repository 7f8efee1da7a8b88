// Atomic environment vectors: forward and backward, a block for each atom. The equations stand in representation/aev.py.
//
// Compiled for the sizes of one set of constants: N_ETAR, N_SHFR, N_ETAA, N_ZETA, N_SHFA, N_SHFZ and SMOOTH_CUTOFF; with
// ANIPOT_DUAL over dual numbers (numbers.h), whose derivatives are what is written then. What most atoms do not need is
// left out otherwise, so that the compiler knows which memory it reads: ANIPOT_CROWDED for atoms with more than NEAR
// neighbors, ANIPOT_UNSTAGED for rows of gradients that have no room in shared memory.
#include "common.h"
#include "numbers.h"

#define THREADS 128
#define WARPS (THREADS / 32)
#define N_RADIAL (N_ETAR * N_SHFR)
#define N_ANGULAR (N_ETAA * N_ZETA * N_SHFA * N_SHFZ)
#define N_DISTANCE_FACTORS (N_ETAA * N_SHFA)
#define N_FACTORS (N_DISTANCE_FACTORS + N_ZETA * N_SHFZ)
#define FACTOR_STRIDE (N_FACTORS | 1)
// Terms of one pair of elements that each lane adds up.
#define N_OWN ((N_ANGULAR + 31) / 32)
// Angular neighbors that have room in shared memory; where there are more, all of them are in `scratch`.
#define NEAR 128
// Numbers in 16 bytes, and where rows of gradients are staged, from one pair of elements to the next: an odd number of
// these units, so that lanes that read several pairs read different banks.
#define V (16 / (int)sizeof(real))
#define PAIR_STRIDE (((N_ANGULAR + V - 1) / V | 1) * V)

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

// f_c(r) and its derivative (cutoffs.py).
DEVICE void cutoff(const AevArguments& a, real eps, number r, real radius, number& f, number& df) {
#if SMOOTH_CUTOFF
    const number x = r * (1 / radius);
    number below = number_of(1);
    for (int i = 1; i < SMOOTH_CUTOFF; i++) below = below * x;
    const number q = at_least(below * x * (real)-1 + (real)1, eps);
    const number over = inverse(q);
    f = exp_of(over * (real)-1 + (real)1);
    df = below * over * over * f * (value_of(q) > eps ? -SMOOTH_CUTOFF / radius : (real)0);
#else
    number s, c;
    sincospi_of(r * (1 / radius), s, c);
    f = c * (real)0.5 + (real)0.5;
    df = s * ((real)(-0.5 * PI) / radius);
#endif
}

// The pairs of one atom.
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
        cutoff(a, c.eps, r, c.Rca, f, df);
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

// (1 + cos(theta - ShfZ)) / 2 from x = 0.95 cos(angle) and y = sin(theta)
DEVICE number half_angle(const Constants& c, number x, number y, int z) {
    return at_least(x * c.half_cosine[z] + y * c.half_sine[z] + (real)0.5, (real)0);
}
DEVICE number dot(const Near& near, int j, int k) {
    return near.ux[j] * near.ux[k] + near.uy[j] * near.uy[k] + near.uz[j] * near.uz[k];
}

// Neighbors of a tile, for the radial terms.
struct Tile {
    number r[THREADS], f[THREADS], sum[THREADS];
    int kind[THREADS];
};

// Threads for each term of each element that has columns, as many as there are for all, and each of them for every so
// manieth neighbor. `element_of` is (E) in shared memory: elements in the order of their columns.
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
                    cutoff(a, c.eps, r, c.Rcr, tile.f[t], df);
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

// dE/dr of the radial terms of neighbor k.
DEVICE number radial_slope(const AevArguments& a, const Constants& c, number r, int kind, const real* g) {
    number f, df, slope = number_of(0);
    cutoff(a, c.eps, r, c.Rcr, f, df);
    g += a.radial_column[kind];
    for (int i = 0; i < N_ETAR; i++)
        for (int s = 0; s < N_SHFR; s++) {
            const number offset = r + -c.ShfR[s];
            const number term = exp_of(offset * offset * -c.EtaR[i]);
            slope = slope + term * (df + offset * f * (-2 * c.EtaR[i])) * ((real)0.25 * g[i * N_SHFR + s]);
        }
    return slope;
}

// dE/d(unit vector), dE/dr and dE/df of one neighbor.
struct Slopes {
    number x, y, z, r, f;
};

struct __align__(16) Unit {
    real v[V];
};
// Gradients of the terms of all ShfZ.
DEVICE void load_row(const real* from, real* to) {
#ifndef ANIPOT_UNSTAGED
    if (N_SHFZ % V == 0) {
        UNROLL for (int z = 0; z < N_SHFZ; z += V) {
            const Unit unit = *(const Unit*)(from + z);
            UNROLL for (int v = 0; v < V; v++) to[z + v] = unit.v[v];
        }
        return;
    }
#endif
    UNROLL for (int z = 0; z < N_SHFZ; z++) to[z] = from[z];
}

// What the triple of neighbors j and k adds to those of j.
DEVICE void add_triple(const Constants& c, const Near& near, int j, int k, const real* g, Slopes& to) {
    const number x = dot(near, j, k) * (real)0.95, y = sqrt_of(x * x * (real)-1 + (real)1);
    const number mean = (near.r[j] + near.r[k]) * (real)0.5;
    const number slope = x * inverse(y) * (real)-1;  // dy/dx
    number d_cosine = number_of(0), d_mean = number_of(0), d_both = number_of(0);
    UNROLL for (int q = 0; q < N_ZETA; q++) {
        number power[N_SHFZ], d_power[N_SHFZ];
        UNROLL for (int z = 0; z < N_SHFZ; z++) {
            powers(half_angle(c, x, y, z), c.zeta[q], power[z], d_power[z]);
            d_power[z] = d_power[z] * (slope * c.half_sine[z] + c.half_cosine[z]);
        }
        UNROLL for (int i = 0; i < N_ETAA; i++)
            UNROLL for (int s = 0; s < N_SHFA; s++) {
                real h[N_SHFZ];
                load_row(g + ((i * N_ZETA + q) * N_SHFA + s) * N_SHFZ, h);
                number sum = number_of(0), d_sum = number_of(0);
                UNROLL for (int z = 0; z < N_SHFZ; z++) {
                    sum = sum + power[z] * h[z];
                    d_sum = d_sum + d_power[z] * h[z];
                }
                const number offset = mean + -c.ShfA[s];
                const number factor = exp_of(offset * offset * -c.EtaA[i]);
                d_cosine = d_cosine + factor * d_sum * c.zeta[q].value;
                sum = factor * sum;
                d_both = d_both + sum;
                d_mean = d_mean + offset * sum * (-2 * c.EtaA[i]);
            }
    }
    const number fk = near.f[k] * (real)2, both = near.f[j] * fk;
    d_cosine = d_cosine * both * (real)0.95;
    to.x = to.x + d_cosine * near.ux[k];
    to.y = to.y + d_cosine * near.uy[k];
    to.z = to.z + d_cosine * near.uz[k];
    to.r = to.r + d_mean * both * (real)0.5;
    to.f = to.f + d_both * fk;
}

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

DEVICE void add_gradient(real* to, const Slopes& s, const Near& near, int j) {
    const number ux = near.ux[j], uy = near.uy[j], uz = near.uz[j], over = inverse(near.r[j]);
    const number along = s.r + s.f * near.df[j] - (s.x * ux + s.y * uy + s.z * uz) * over;
    to[0] += result_of(ux * along + s.x * over);
    to[1] += result_of(uy * along + s.y * over);
    to[2] += result_of(uz * along + s.z * over);
}

// Threads for each neighbor j, as many as there are for all, and each of them for every so manieth neighbor k.
DEVICE void angular_backward(const AevArguments& a, const Constants& c, const Near& near, const real* g,
                             Slopes* partial, real* out) {
    const int E = (int)a.num_species, t = threadIdx.x;
    for (int j0 = 0; j0 < near.count; j0 += THREADS) {
        const int here = min(near.count - j0, THREADS), slices = THREADS / here;
        const int j = j0 + t % here, slice = t / here;
        const number zero = number_of(0);
        Slopes sum = {zero, zero, zero, zero, zero};
        if (slice < slices) {
            const int mine = near.kind[j];
            for (int k = slice; k < near.count; k += slices) {
                const int other = near.kind[k];
                const int column = a.angular_column[min(mine, other) * E + max(mine, other)];
                if (k != j) add_triple(c, near, j, k, g + place_of(a, column), sum);
            }
        }
        partial[t] = sum;
        __syncthreads();
        if (t < here) {
            for (int s = 1; s < slices; s++) {
                const Slopes& more = partial[s * here + t];
                sum = {sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.r + more.r, sum.f + more.f};
            }
            add_gradient(out + 3 * near.index[j], sum, near, j);
        }
        __syncthreads();
    }
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
    for (int k = threadIdx.x; k < p.count; k += THREADS) {
        number x, y, z;
        vector_of(p, k, x, y, z);
        const number r = sqrt_of(x * x + y * y + z * z);
        number slope = number_of(0);
        if (value_of(r) < c.Rcr) slope = radial_slope(a, c, r, p.kinds[k], g) * inverse(r);
        out[3 * k] = result_of(slope * x);
        out[3 * k + 1] = result_of(slope * y);
        out[3 * k + 2] = result_of(slope * z);
    }
    const Near near = collect(a, c, p, memory, dynamic);
    angular_backward(a, c, near, g, partial, out);
}
