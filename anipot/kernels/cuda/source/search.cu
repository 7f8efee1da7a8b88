// Neighbors of every atom, for padded batches of molecules with any cell and any periodic axes.
//
// Atoms are wrapped into the cell and sorted into bins along the cell vectors, a cutoff wide, and a quarter of that
// along the last one: a warp reads rows of bins, which should be as few as possible and as short. There are no more
// bins than there is room for; fewer are slower, and that is all. A warp looks for the neighbors of an atom, bin after
// bin and image after image; a cell smaller than the cutoff is one bin that is visited through many images. Small
// molecules need no bins: every block wraps the whole molecule itself, so that the search is a single launch. The order
// of a list depends on nothing but the positions.
#include "lattice.h"

#define WARPS 8           // of a block, each with an atom
#define DIRECT_ATOMS 512  // of a molecule that is searched without bins (search.py)
#define ONE_SPOT_SQUARE 1e-12

struct SearchArguments {
    i64 n, num_bins, capacity;
    double cutoff;
    const double *coordinates, *cell;  // (S, 3); (B, 3, 3) or null
    const unsigned char* pbc;          // (B, 3)
    const int *kind, *slot, *molecule, *molecule_start;
    const int *block_molecule, *block_first;  // of search_direct
    const int* bin_first;                     // (B + 1) where the bins of a molecule begin
    Lattice* lattice;                         // (B)
    double* volume;                           // (B)
    int *head, *bin_count, *bin_start;        // of each bin: first of its atoms in no order, how many, where; + 1
    int *next, *bin_of, *wrap;                // of each atom: next in its bin, bin, cells that bring it inside (n, 3)
    double* inside;                           // (n, 3) positions in the cell
    int* sorted;                              // atoms in the order of their bins
    float4* single;                           // their positions in single precision, relative to the origin
    double* sorted_inside;                    // and in double
    int* count;                               // (n)
    int *neighbor, *neighbor_kind;            // (n, capacity) or null
    real* vectors;                            // (n, capacity, 3) or null
    int* shift;                               // (n, capacity, 3) or null
    const i64* start;                         // (n + 1) where lists begin, if not at multiples of the capacity
    int* status;
    i64 *pair_center, *pair_neighbor, *pair_shift;  // of search_pairs
};

DEVICE void report(int* status, int value) {
    if (value > *status) atomicMax(status, value);  // most do not get this far
}

DEVICE void report_lattice(const SearchArguments& a, const Lattice& l, int b) {
    if (l.fault == HAS_TOO_MANY_IMAGES) report(a.status + OVERFLOW, 1);
    else if (l.fault) report(a.status + NOT_FINITE, l.fault);
    if (!a.cell) return;
    const double* cell = a.cell + 9 * b;
    double normal[3];
    cross(cell + 3, cell + 6, normal);
    a.volume[b] = fabs(dot(cell, normal));
}

// Fractional coordinates and position of an atom inside the cell, and how many lattice vectors bring it there.
DEVICE void wrap_atom(const SearchArguments& a, const Lattice& l, i64 i, double* f, double* inside, int* wrap) {
    const double* x = a.coordinates + 3 * (i64)a.slot[i];
    bool is_far = false;
    for (int p = 0; p < 3; p++) {
        f[p] = x[0] * l.inverse[0][p] + x[1] * l.inverse[1][p] + x[2] * l.inverse[2][p];
        double cells = l.pbc[p] ? floor(f[p]) : 0.0;
        if (!(fabs(cells) < MOST_CELLS)) {
            is_far = true;
            cells = 0;
        }
        wrap[p] = -(int)cells;
        f[p] -= cells;
    }
    for (int c = 0; c < 3; c++)
        inside[c] = x[c] + (wrap[0] * l.row[0][c] + wrap[1] * l.row[1][c] + wrap[2] * l.row[2][c]);
    if (!(is_finite(x[0]) && is_finite(x[1]) && is_finite(x[2]))) report(a.status + NOT_FINITE, 1);
    else if (is_far) report(a.status + OVERFLOW, 1);
}

// The list of one atom, which a warp writes.
struct List {
    i64 at;  // where it begins
    int room, found;
    bool one_spot;
};
DEVICE List begin_list(const SearchArguments& a, i64 i) {
    const i64 at = a.start ? a.start[i] : i * a.capacity;
    return {at, (int)(a.start ? a.start[i + 1] - at : a.capacity), 0, false};
}
// Lanes whose candidate j is near, through an image of the cell, append it.
DEVICE void append(const SearchArguments& a, List& list, bool near, int j, const double* v, double square,
                   const int* image, const int* wrap, const int* own_wrap) {
    const unsigned lanes = __ballot_sync(FULL, near);
    const int place = list.found + __popc(lanes & ((1u << lane_id()) - 1));
    list.found += __popc(lanes);
    if (!near) return;
    list.one_spot |= square < ONE_SPOT_SQUARE;
    if (place >= list.room) return;
    const i64 at = list.at + place;
    if (a.neighbor) a.neighbor[at] = j;
    if (a.neighbor_kind) a.neighbor_kind[at] = a.kind[j];
    for (int c = 0; c < 3; c++) {
        if (a.vectors) a.vectors[3 * at + c] = (real)v[c];
        if (a.shift) a.shift[3 * at + c] = image[c] + wrap[c] - own_wrap[c];
    }
}
DEVICE void end_list(const SearchArguments& a, const List& list, i64 i) {
    const bool one_spot = __any_sync(FULL, list.one_spot);
    if (lane_id()) return;
    a.count[i] = list.found < list.room ? list.found : list.room;
    report(a.status + NEIGHBORS, list.found);
    report(a.status + ONE_SPOT, one_spot);
}

// ---- Small molecules: a block for every eight atoms of one.

KERNEL(search_direct, SearchArguments, 32 * WARPS) {
    __shared__ Lattice l;
    __shared__ double inside[DIRECT_ATOMS][3];
    __shared__ int wrap[DIRECT_ATOMS][3];
    const int b = a.block_molecule[blockIdx.x], before = a.block_first[blockIdx.x];
    const i64 first = a.molecule_start[b];
    const int n = (int)(a.molecule_start[b + 1] - first);
    if (threadIdx.x == 0) {
        complete(l, a.cell ? a.cell + 9 * (i64)b : nullptr, a.pbc + 3 * (i64)b, a.cutoff, n);
        if (before == 0) report_lattice(a, l, b);
    }
    __syncthreads();
    for (int j = threadIdx.x; j < n; j += 32 * WARPS) {
        double f[3];
        wrap_atom(a, l, first + j, f, inside[j], wrap[j]);
    }
    __syncthreads();
    const int own = before + warp_id();
    if (own >= n) return;
    const double x = inside[own][0], y = inside[own][1], z = inside[own][2], limit = a.cutoff * a.cutoff;
    int from[3] = {0, 0, 0}, to[3] = {0, 0, 0}, image[3];
    for (int p = 0; p < 3; p++)
        if (l.pbc[p]) {
            const double f = x * l.inverse[0][p] + y * l.inverse[1][p] + z * l.inverse[2][p];
            const double reach = a.cutoff / l.height[p] * (1 + MARGIN) + MARGIN;
            from[p] = (int)ceil(within(f, -1, 2) - 1 - reach);
            to[p] = (int)floor(within(f, -1, 2) + reach);
        }
    List list = begin_list(a, first + own);
    if (l.fault) to[0] = from[0] - 1;
    for (image[0] = from[0]; image[0] <= to[0]; image[0]++)
        for (image[1] = from[1]; image[1] <= to[1]; image[1]++)
            for (int k = from[2] * n; k < (to[2] + 1) * n; k += 32) {  // images along the last axis, each with n atoms
                const int mine = k + lane_id();
                image[2] = floor_ratio(mine, n);
                const int j = mine - image[2] * n;
                double v[3], square = 0;
                for (int c = 0; c < 3; c++) {
                    v[c] = inside[j][c] - inside[own][c] +
                           (image[0] * l.row[0][c] + image[1] * l.row[1][c] + image[2] * l.row[2][c]);
                    square += v[c] * v[c];
                }
                const bool itself = j == own && image[0] == 0 && image[1] == 0 && image[2] == 0;
                const bool near = square < limit && !itself && mine < (to[2] + 1) * n;
                append(a, list, near, (int)first + j, v, square, image, wrap[j], wrap[own]);
            }
    end_list(a, list, first + own);
}

// ---- Larger molecules: lattices and bins, a block for each molecule.

KERNEL(search_lattice, SearchArguments, 1024) {
    __shared__ Lattice l;
    __shared__ double low[32][3], high[32][3];
    const int b = blockIdx.x;
    const i64 first = a.molecule_start[b], n = a.molecule_start[b + 1] - first;
    for (i64 k = a.bin_first[b] + threadIdx.x; k < a.bin_first[b + 1]; k += 1024) {
        a.bin_count[k] = 0;
        a.head[k] = -1;
    }
    if (threadIdx.x == 0) {
        complete(l, a.cell ? a.cell + 9 * (i64)b : nullptr, a.pbc + 3 * (i64)b, a.cutoff, n);
        report_lattice(a, l, b);
    }
    __syncthreads();
    const bool open = !(l.pbc[0] && l.pbc[1] && l.pbc[2]);
    double least[3] = {1e300, 1e300, 1e300}, most[3] = {-1e300, -1e300, -1e300};
    for (i64 i = threadIdx.x; open && i < n; i += 1024) {
        const double* x = a.coordinates + 3 * (i64)a.slot[first + i];
        for (int p = 0; p < 3; p++) {
            const double f = x[0] * l.inverse[0][p] + x[1] * l.inverse[1][p] + x[2] * l.inverse[2][p];
            least[p] = fmin(least[p], f);
            most[p] = fmax(most[p], f);
        }
    }
    for (int p = 0; p < 3; p++) {
        UNROLL for (int h = 16; h > 0; h /= 2) {
            least[p] = fmin(least[p], __shfl_xor_sync(FULL, least[p], h));
            most[p] = fmax(most[p], __shfl_xor_sync(FULL, most[p], h));
        }
        if (lane_id() == 0) {
            low[warp_id()][p] = least[p];
            high[warp_id()][p] = most[p];
        }
    }
    __syncthreads();
    if (threadIdx.x) return;
    for (int p = 0; p < 3; p++)
        for (int w = 1; w < 32; w++) {
            low[0][p] = fmin(low[0][p], low[w][p]);
            high[0][p] = fmax(high[0][p], high[w][p]);
        }
    divide(l, low[0], high[0], a.cutoff, a.bin_first[b + 1] - a.bin_first[b]);
    a.lattice[b] = l;
}

KERNEL(search_place, SearchArguments, 256) {
    const i64 i = (i64)blockIdx.x * 256 + threadIdx.x;
    if (i >= a.n) return;
    const int b = a.molecule[i];
    const Lattice& l = a.lattice[b];
    double f[3];
    wrap_atom(a, l, i, f, a.inside + 3 * i, a.wrap + 3 * i);
    int at[3];
    for (int p = 0; p < 3; p++) at[p] = (int)within((f[p] - l.low[p]) * l.per_unit[p], 0, l.bins[p] - 1);
    const int bin = a.bin_first[b] + (at[0] * l.bins[1] + at[1]) * l.bins[2] + at[2];
    a.bin_of[i] = bin;
    atomicAdd(a.bin_count + bin, 1);
    a.next[i] = atomicExch(a.head + bin, (int)i);
}

// Sums of the counts before each bin. One block: there are not so many bins that more would pay.
KERNEL(search_scan, SearchArguments, 1024) {
    __shared__ int sums[32];
    int before = 0;
    for (i64 from = 0; from < a.num_bins; from += 8 * 1024) {
        const i64 own = from + 8 * (i64)threadIdx.x;
        int counts[8], sum = 0;
        UNROLL for (int k = 0; k < 8; k++) {
            counts[k] = own + k < a.num_bins ? a.bin_count[own + k] : 0;
            sum += counts[k];
        }
        int up_to = sum;  // this thread's in its warp
        UNROLL for (int h = 1; h < 32; h *= 2) {
            const int other = __shfl_up_sync(FULL, up_to, h);
            if (lane_id() >= h) up_to += other;
        }
        if (lane_id() == 31) sums[warp_id()] = up_to;
        __syncthreads();
        int at = before + up_to - sum;
        for (int w = 0; w < 32; w++) {
            if (w < warp_id()) at += sums[w];
            before += sums[w];
        }
        UNROLL for (int k = 0; k < 8; k++) {
            if (own + k < a.num_bins) a.bin_start[own + k] = at;
            at += counts[k];
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) a.bin_start[a.num_bins] = before;
}

// Atoms of a bin in ascending order, whatever the order in which they came into it.
KERNEL(search_order, SearchArguments, 256) {
    const i64 i = (i64)blockIdx.x * 256 + threadIdx.x;
    if (i >= a.n) return;
    const Lattice& l = a.lattice[a.molecule[i]];
    const int bin = a.bin_of[i];
    int at = a.bin_start[bin];
    for (int k = a.head[bin]; k >= 0; k = a.next[k]) at += k < i;
    const double x = a.inside[3 * i], y = a.inside[3 * i + 1], z = a.inside[3 * i + 2];
    a.sorted[at] = (int)i;
    a.sorted_inside[3 * (i64)at] = x;
    a.sorted_inside[3 * (i64)at + 1] = y;
    a.sorted_inside[3 * (i64)at + 2] = z;
    a.single[at] = {(float)(x - l.origin[0]), (float)(y - l.origin[1]), (float)(z - l.origin[2]), 0.0f};
}

// Candidates in `begin` … of one row of bins along the last axis, `total` atoms in each image; image and offset say
// through which image of the row, and own is the place of the atom itself.
DEVICE void search_row(const SearchArguments& a, const Lattice& l, List& list, int own, int begin, int total, int from,
                       int to, int* image, int i) {
    const double limit = a.cutoff * a.cutoff;
    const float loose = (float)l.loose;
    double self[3], offset[3];
    float to_candidate[3], step[3];
    for (int c = 0; c < 3; c++) {
        self[c] = a.sorted_inside[3 * (i64)own + c];
        offset[c] = image[0] * l.row[0][c] + image[1] * l.row[1][c];
        to_candidate[c] = (float)(offset[c] - (self[c] - l.origin[c]));
        step[c] = (float)l.row[2][c];
    }
    for (int k = from; k < to; k += 32) {
        const int mine = k + lane_id();
        image[2] = mine >= 0 && mine < total ? 0 : floor_ratio(mine, total);
        const int at = begin + mine - image[2] * total;
        double v[3] = {0, 0, 0}, square = 0;
        bool near = false;
        if (mine < to && !(at == own && image[0] == 0 && image[1] == 0 && image[2] == 0)) {
            const float4 there = a.single[at];
            const float x = there.x + (to_candidate[0] + image[2] * step[0]);
            const float y = there.y + (to_candidate[1] + image[2] * step[1]);
            const float z = there.z + (to_candidate[2] + image[2] * step[2]);
            if (!(x * x + y * y + z * z > loose)) {
                for (int c = 0; c < 3; c++) {
                    v[c] = a.sorted_inside[3 * (i64)at + c] - self[c] + (offset[c] + image[2] * l.row[2][c]);
                    square += v[c] * v[c];
                }
                near = square < limit;
            }
        }
        const int j = near ? a.sorted[at] : 0;
        append(a, list, near, j, v, square, image, a.wrap + 3 * (i64)j, a.wrap + 3 * (i64)i);
    }
}

KERNEL(search_bins, SearchArguments, 32 * WARPS) {
    const i64 own = (i64)blockIdx.x * WARPS + warp_id();
    if (own >= a.n) return;
    const int i = a.sorted[own], b = a.molecule[i];
    const Lattice& l = a.lattice[b];
    List list = begin_list(a, i);
    const int first = a.bin_first[b], bin = a.bin_of[i] - first;
    const int at[3] = {bin / (l.bins[1] * l.bins[2]), bin / l.bins[2] % l.bins[1], bin % l.bins[2]};
    int from[3], to[3], image[3];
    for (int p = 0; p < 3; p++) {
        from[p] = at[p] - l.reach[p];
        to[p] = at[p] + l.reach[p];
        if (!l.pbc[p]) {
            from[p] = max(from[p], 0);
            to[p] = min(to[p], l.bins[p] - 1);
        }
    }
    if (l.fault) to[0] = from[0] - 1;
    for (int p = from[0]; p <= to[0]; p++)
        for (int q = from[1]; q <= to[1]; q++) {
            image[0] = floor_ratio(p, l.bins[0]);
            image[1] = floor_ratio(q, l.bins[1]);
            const int row = ((p - image[0] * l.bins[0]) * l.bins[1] + q - image[1] * l.bins[1]) * l.bins[2] + first;
            const int begin = a.bin_start[row], total = a.bin_start[row + l.bins[2]] - begin;
            if (total == 0) continue;
            // The row goes on for ever along the last axis: atom k of it is atom k mod total of image k div total.
            const int before = floor_ratio(from[2], l.bins[2]), last = floor_ratio(to[2], l.bins[2]);
            const int low = before * total + a.bin_start[row + from[2] - before * l.bins[2]] - begin;
            const int high = last * total + a.bin_start[row + to[2] - last * l.bins[2] + 1] - begin;
            search_row(a, l, list, (int)own, begin, total, low, high, image, i);
        }
    end_list(a, list, i);
}

// ---- Lists to pairs, ordered by center, neighbor and shift.

KERNEL(search_pairs, SearchArguments, 32 * WARPS) {
    const i64 i = (i64)blockIdx.x * WARPS + warp_id();
    if (i >= a.n) return;
    const i64 at = a.start[i];
    const int n = (int)(a.start[i + 1] - at);
    const int* shifts = a.shift + 3 * at;
    for (int k = lane_id(); k < n; k += 32) {
        const int j = a.neighbor[at + k], *s = shifts + 3 * k;
        i64 to = at;
        for (int m = 0; m < n; m++) {
            const int other = a.neighbor[at + m], *t = shifts + 3 * m;
            if (other != j) to += other < j;
            else if (t[0] != s[0]) to += t[0] < s[0];
            else if (t[1] != s[1]) to += t[1] < s[1];
            else to += t[2] < s[2];
        }
        a.pair_center[to] = a.slot[i];
        a.pair_neighbor[to] = a.slot[j];
        for (int c = 0; c < 3; c++)
            if (a.pair_shift) a.pair_shift[3 * to + c] = s[c];
    }
}
