// How the list of list.h is made.
#pragma once

#include "list.h"

namespace ANIPOT_ISA {

// Atoms whose candidates one task looks for.
constexpr long SEARCH_CHUNK = 32;
// Molecules with fewer extended atoms than this are searched without bins.
constexpr long WITHOUT_BINS = 150;

INLINE void cross(const double* a, const double* b, double* c) {
    c[0] = a[1] * b[2] - a[2] * b[1];
    c[1] = a[2] * b[0] - a[0] * b[2];
    c[2] = a[0] * b[1] - a[1] * b[0];
}
INLINE double dot3(const double* a, const double* b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

// Unit vector at right angles to a and b, either or both of which may be zero (lattice.py, _unit_normal).
inline void unit_normal(const double* a, const double* b, double* n) {
    cross(a, b, n);
    if (dot3(n, n) == 0) {
        const double* lone = dot3(a, a) > 0 ? a : b;
        int least = 0;
        for (int i = 1; i < 3; i++)
            if (fabs(lone[i]) < fabs(lone[least])) least = i;
        double axis[3] = {0, 0, 0};
        axis[least] = 1;
        cross(lone, axis, n);
        if (dot3(n, n) == 0) memcpy(n, axis, sizeof axis);
    }
    const double length = sqrt(dot3(n, n));
    for (int i = 0; i < 3; i++) n[i] /= length;
}

// Fills in all of a lattice but its pbc; false if it is singular.
inline bool complete(Lattice& lattice) {
    bool done[3];
    double length = 1;
    for (int a = 0; a < 3; a++) {
        done[a] = lattice.pbc[a];
        for (int c = 0; c < 3; c++)
            if (!done[a]) lattice.row[a][c] = 0;
            else if (!__builtin_isfinite(lattice.row[a][c])) return false;
    }
    for (int a = 0; a < 3; a++)
        if (!done[a]) unit_normal(lattice.row[(a + 1) % 3], lattice.row[(a + 2) % 3], lattice.row[a]);
    double normal[3][3];
    for (int a = 0; a < 3; a++) {
        cross(lattice.row[(a + 1) % 3], lattice.row[(a + 2) % 3], normal[a]);
        length *= sqrt(dot3(lattice.row[a], lattice.row[a]));
    }
    const double determinant = dot3(lattice.row[0], normal[0]);
    if (!(fabs(determinant) > 1e-8 * length)) return false;
    for (int a = 0; a < 3; a++) {
        for (int c = 0; c < 3; c++) lattice.inverse[c][a] = normal[a][c] / determinant;
        lattice.height[a] = fabs(determinant) / sqrt(dot3(normal[a], normal[a]));
    }
    return true;
}

INLINE void to_fractional(const Lattice& lattice, const double* x, double* f) {
    for (int a = 0; a < 3; a++)
        f[a] = x[0] * lattice.inverse[0][a] + x[1] * lattice.inverse[1][a] + x[2] * lattice.inverse[2][a];
}
INLINE double lattice_vector(const Lattice& lattice, const int* n, int c) {
    return n[0] * lattice.row[0][c] + n[1] * lattice.row[1][c] + n[2] * lattice.row[2][c];
}

template <class X>
INLINE double number(const void* p, long i) {
    return (double)((const X*)p)[i];
}

inline int List::read_cells(const SystemSpec& system) {
    periodic = false;
    if (!system.cell || !system.pbc) return OK;
    const long B = system.num_molecules;
    lattice.resize(B);
    for (long b = 0; b < B; b++) {
        Lattice& l = lattice[b];
        for (int a = 0; a < 3; a++) {
            l.pbc[a] = system.pbc[b * system.pbc_stride + a];
            periodic |= l.pbc[a];
            for (int c = 0; c < 3; c++) {
                const long at = b * system.cell_stride + 3 * a + c;
                l.row[a][c] =
                    system.wide_coordinates ? number<double>(system.cell, at) : number<float>(system.cell, at);
            }
        }
        double normal[3];
        cross(l.row[1], l.row[2], normal);
        l.volume = fabs(dot3(l.row[0], normal));
        if (!complete(l)) return BAD_INPUT;
    }
    return OK;
}

inline int List::read(const SystemSpec& system) {
    const long B = system.num_molecules, A = system.num_atoms;
    kinds.resize(B * A);
    num_real = 0;
    for (long i = 0; i < B * A; i++) {
        int64_t s = system.species[i];
        if (s < -1) return BAD_INPUT;
        if (s >= 0 && system.index_of) {
            s = s < system.num_index ? system.index_of[s] : -2;
            if (s < 0) return BAD_INPUT;
        }
        if (s >= num_species) return BAD_INPUT;
        kinds[i] = (int)s;
        num_real += s >= 0;
    }
    const bool same =
        usable && B == num_molecules && A == num_atoms && !memcmp(kinds.data, kinds_then.data, sizeof(int) * B * A);
    if (!same) {
        usable = false;
        num_molecules = B;
        num_atoms = A;
        slot.resize(num_real);
        kind.resize(num_real);
        molecule.resize(num_real);
        molecule_start.resize(B + 1);
        present.resize(num_species);
        for (int e = 0; e < num_species; e++) present[e] = 0;
        long n = 0;
        for (long b = 0; b < B; b++) {
            molecule_start[b] = n;
            for (long i = b * A; i < (b + 1) * A; i++)
                if (kinds[i] >= 0) {
                    slot[n] = (int)i;
                    molecule[n] = (int)b;
                    present[kind[n++] = kinds[i]] = 1;
                }
        }
        molecule_start[B] = n;
        kinds_then.resize(B * A);
        memcpy(kinds_then.data, kinds.data, sizeof(int) * B * A);
    }
    position.resize(3 * num_real);
    for (long i = 0; i < num_real; i++)
        for (int c = 0; c < 3; c++) {
            const long at = 3L * slot[i] + c;
            const double x = system.wide_coordinates ? number<double>(system.coordinates, at)
                                                     : number<float>(system.coordinates, at);
            if (!__builtin_isfinite(x)) return BAD_INPUT;
            position[3 * i + c] = x;
        }
    return read_cells(system);
}

// Smallest singular value of F = then^-1 now, or a little less.
inline double smallest_stretch(const Lattice& then, const Lattice& now, double F[3][3]) {
    double S[3][3] = {};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            F[i][j] = 0;
            for (int k = 0; k < 3; k++) F[i][j] += then.inverse[i][k] * now.row[k][j];
        }
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            for (int k = 0; k < 3; k++) S[i][j] += F[k][i] * F[k][j];
    // Eigenvalues of a symmetric matrix in closed form (doi:10.1145/355578.366316).
    const double q = (S[0][0] + S[1][1] + S[2][2]) / 3;
    double p = 0;
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) p += (S[i][j] - (i == j) * q) * (S[i][j] - (i == j) * q);
    p = sqrt(p / 6);
    if (p == 0) return sqrt(q);
    double M[3][3], normal[3];
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) M[i][j] = (S[i][j] - (i == j) * q) / p;
    cross(M[1], M[2], normal);
    const double r = fmax(-1, fmin(1, dot3(M[0], normal) / 2));
    const double least = q + 2 * p * cos(acos(r) / 3 + 2 * M_PI / 3);
    return sqrt(fmax(0, least)) - 1e-9;
}

// No pair outside a list of radius cutoff + skin can be within the cutoff while
// stretch (cutoff + skin) - 2 max|u| >= cutoff (neighbors/verlet.py).
inline bool List::still_valid(double cutoff, double skin) const {
    for (long b = 0; b < num_molecules; b++) {
        double F[3][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}, stretch = 1, farthest = 0;
        if (periodic) {
            if (memcmp(lattice[b].pbc, lattice_then[b].pbc, sizeof lattice[b].pbc)) return false;
            if (memcmp(lattice[b].row, lattice_then[b].row, sizeof lattice[b].row))
                stretch = smallest_stretch(lattice_then[b], lattice[b], F);
        }
        for (long i = molecule_start[b]; i < molecule_start[b + 1]; i++) {
            const double *x = &position[3 * i], *old = &position_then[3 * i];
            double square = 0;
            for (int c = 0; c < 3; c++) {
                const double u = x[c] - (old[0] * F[0][c] + old[1] * F[1][c] + old[2] * F[2][c]);
                square += u * u;
            }
            farthest = fmax(farthest, square);
        }
        if (!(stretch * (cutoff + skin) - 2 * sqrt(farthest) >= cutoff)) return false;
    }
    return true;
}

// Extended atoms and bins of molecule b, in the order of element and bin, into the worker's memory; then counted.
inline void List::place(Worker& w, long b) {
    const long first = molecule_start[b], n = molecule_start[b + 1] - first;
    const Lattice* l = periodic ? &lattice[b] : nullptr;
    double low[3] = {0, 0, 0}, high[3] = {0, 0, 0};
    double* f = w.fractional.resize(3 * n + 3);
    for (long i = 0; i < n; i++) {
        if (l) to_fractional(*l, &position[3 * (first + i)], f + 3 * i);
        else memcpy(f + 3 * i, &position[3 * (first + i)], 3 * sizeof(double));
        for (int a = 0; a < 3; a++) {
            const double cells = l && l->pbc[a] ? floor(f[3 * i + a]) : 0;
            too_far |= !(fabs(cells) < 1e8);
            if (too_far) return;
            wrap[3 * (first + i) + a] = (int)-cells;
            f[3 * i + a] -= cells;
            if (i == 0 || f[3 * i + a] < low[a]) low[a] = f[3 * i + a];
            if (i == 0 || f[3 * i + a] > high[a]) high[a] = f[3 * i + a];
        }
    }
    double margin[3], height[3];
    for (int a = 0; a < 3; a++) {
        height[a] = l ? l->height[a] : 1;
        const bool repeats = l && l->pbc[a];
        margin[a] = repeats ? reach / height[a] * (1 + 1e-12) + 1e-12 : 0;
        if (repeats) {
            low[a] = -margin[a];
            high[a] = 1 + margin[a];
        }
    }
    w.used = 0;
    for (long i = 0; i < n; i++) {
        int from[3], to[3];
        for (int a = 0; a < 3; a++) {
            from[a] = margin[a] > 0 ? (int)ceil(low[a] - f[3 * i + a]) : 0;
            to[a] = margin[a] > 0 ? (int)floor(high[a] - f[3 * i + a]) : 0;
        }
        const long images = (long)(to[0] - from[0] + 1) * (to[1] - from[1] + 1) * (to[2] - from[2] + 1);
        w.source.grow(w.used + images, w.used);
        w.shift.grow(3 * (w.used + images), 3 * w.used);
        for (int p = from[0]; p <= to[0]; p++)
            for (int q = from[1]; q <= to[1]; q++)
                for (int r = from[2]; r <= to[2]; r++) {
                    w.source[w.used] = (int)i;
                    w.shift[3 * w.used] = p;
                    w.shift[3 * w.used + 1] = q;
                    w.shift[3 * w.used + 2] = r;
                    w.used++;
                }
    }
    Grid& g = grid[b];
    for (int a = 0; a < 3; a++) {
        const double span = (high[a] - low[a]) * height[a];
        g.bins[a] = w.used < WITHOUT_BINS ? 1 : (int)fmax(1, fmin(1e6, floor(span / reach * (1 - 1e-9))));
    }
    while (g.cells() > 2 * w.used + 8) {  // atoms far apart: fewer, larger bins
        int widest = 0;
        for (int a = 1; a < 3; a++)
            if (g.bins[a] > g.bins[widest]) widest = a;
        g.bins[widest] = (g.bins[widest] + 1) / 2;
    }
    for (int a = 0; a < 3; a++) {
        g.low[a] = low[a];
        g.per_unit[a] = high[a] > low[a] ? g.bins[a] / (high[a] - low[a]) : 0;
    }
}

INLINE long bin_of(const Grid& g, const double* fractional, int* at) {
    for (int a = 0; a < 3; a++) at[a] = (int)fmax(0, fmin(g.bins[a] - 1, (fractional[a] - g.low[a]) * g.per_unit[a]));
    return ((long)at[2] * g.bins[1] + at[1]) * g.bins[0] + at[0];
}

inline void List::search(int threads) {
    const long B = num_molecules;
    grid.resize(B);
    wrap.resize(3 * num_real);
    extended_start.resize(B + 1);
    self.resize(num_real);
    // Twice over the molecules: how much room, then what goes where. One thread places what it has just counted.
    extended_start[0] = 0;
    long table = 0;
    for (long b = 0; b < B; b++) {
        Worker& w = workers[0];
        place(w, b);
        if (too_far) return;
        Grid& g = grid[b];
        g.table = table;
        const long first = extended_start[b], m = w.used, cells = g.cells(), atoms = molecule_start[b];
        extended_start[b + 1] = first + m;
        table += num_species * cells + 1;
        tables.grow(table, g.table);
        source.grow(first + m, first);
        shift.grow(3 * (first + m), 3 * first);
        for (int c = 0; c < 3; c++) sorted[c].grow(first + m + 1, first);
        long* begin = &tables[g.table];
        for (long k = 0; k <= num_species * cells; k++) begin[k] = 0;
        w.bin.resize(m);
        for (long k = 0; k < m; k++) {
            double f[3];
            int at[3];
            for (int a = 0; a < 3; a++) f[a] = w.fractional[3 * w.source[k] + a] + w.shift[3 * k + a];
            w.bin[k] = kind[atoms + w.source[k]] * cells + bin_of(g, f, at);
            begin[w.bin[k] + 1]++;
        }
        for (long k = 0; k < num_species * cells; k++) begin[k + 1] += begin[k];
        for (long k = 0; k < m; k++) {
            const long to = first + begin[w.bin[k]]++;
            const long i = atoms + w.source[k];
            const int* s = &w.shift[3 * k];
            source[to] = (int)i;
            bool is_home = true;
            int total[3];
            for (int a = 0; a < 3; a++) {
                is_home &= s[a] == 0;
                shift[3 * to + a] = total[a] = s[a] + wrap[3 * i + a];
            }
            if (is_home) self[i] = (int)to;
            for (int c = 0; c < 3; c++)
                sorted[c][to] = position[3 * i + c] + (periodic ? lattice_vector(lattice[b], total, c) : 0);
        }
        for (long k = num_species * cells; k > 0; k--) begin[k] = begin[k - 1];
        begin[0] = 0;
    }
    num_extended = extended_start[B];

    start.resize(num_real + 1);
    elements.resize(num_real * (num_species + 1));
    found_at.resize(num_real);
    found_by.resize(num_real);
    for (int t = 0; t < num_workers; t++) workers[t].used = 0;
    parallel_ranges(threads, num_real, SEARCH_CHUNK, [&](long i0, long i1, int t) {
        for (long i = i0; i < i1; i++) {
            found_by[i] = t;
            find(workers[t], i);
        }
    });
    start[0] = 0;
    for (long i = 0; i < num_real; i++) start[i + 1] = start[i] + elements[i * (num_species + 1) + num_species];
    candidate.resize(start[num_real] + 16);
    parallel_ranges(threads, num_real, 8 * SEARCH_CHUNK, [&](long i0, long i1, int) {
        for (long i = i0; i < i1; i++)
            memcpy(&candidate[start[i]], &workers[found_by[i]].found[found_at[i]],
                   sizeof(int) * (start[i + 1] - start[i]));
    });
}

// Candidates of atom i at the end of what the worker has found.
inline void List::find(Worker& w, long i) {
    const long b = molecule[i], first = extended_start[b];
    const Grid& g = grid[b];
    const int me = self[i];
    const double x = sorted[0][me], y = sorted[1][me], z = sorted[2][me], limit = reach * reach;
    int at[3] = {0, 0, 0};
    if (g.cells() > 1) {
        const double place[3] = {x, y, z};
        double f[3] = {x, y, z};
        if (periodic) to_fractional(lattice[b], place, f);
        bin_of(g, f, at);
    }
    int lo[3], hi[3];
    for (int a = 0; a < 3; a++) {
        lo[a] = larger(0, at[a] - 1);
        hi[a] = smaller(g.bins[a] - 1, at[a] + 1);
    }
    const long begin = w.used;
    int* count = &elements[i * (num_species + 1)];
    for (int e = 0; e < num_species; e++) {
        count[e] = (int)(w.used - begin);
        if (!present[e]) continue;
        for (int p = lo[2]; p <= hi[2]; p++)
            for (int q = lo[1]; q <= hi[1]; q++) {
                const long* row = &tables[g.table + e * g.cells() + ((long)p * g.bins[1] + q) * g.bins[0]];
                const long from = first + row[lo[0]], to = first + row[hi[0] + 1];
                int* out = w.found.grow(w.used + (to - from) + 1, w.used) + w.used;
                long n = 0;
                for (long k = from; k < to; k++) {
                    const double dx = sorted[0][k] - x, dy = sorted[1][k] - y, dz = sorted[2][k] - z;
                    out[n] = (int)k;
                    n += (dx * dx + dy * dy + dz * dz < limit) & (k != me);
                }
                w.used += n;
            }
    }
    count[num_species] = (int)(w.used - begin);
    found_at[i] = begin;
}

// Positions of now: home atoms in their cell, extended atoms as many lattice vectors away as when they were found.
inline void List::move(int threads) {
    home.resize(4 * num_real);
    extended.resize(4 * num_extended);
    parallel_ranges(threads, num_real, 2048, [&](long i0, long i1, int) {
        for (long i = i0; i < i1; i++)
            for (int c = 0; c < 3; c++)
                home[4 * i + c] =
                    position[3 * i + c] + (periodic ? lattice_vector(lattice[molecule[i]], &wrap[3 * i], c) : 0);
    });
    parallel_ranges(threads, num_extended, 2048, [&](long k0, long k1, int) {
        for (long k = k0; k < k1; k++) {
            const long i = source[k];
            for (int c = 0; c < 3; c++)
                extended[4 * k + c] =
                    position[3 * i + c] + (periodic ? lattice_vector(lattice[molecule[i]], &shift[3 * k], c) : 0);
        }
    });
}

inline int List::update(const SystemSpec& system, int num_species_, double cutoff, double skin, int threads) {
    if (num_species_ != num_species || cutoff + skin != reach) usable = false;
    num_species = num_species_;
    reach = cutoff + skin;
    if (threads > num_workers) {
        delete[] workers;
        workers = nullptr;
        num_workers = 0;
        workers = new Worker[threads];
        num_workers = threads;
    }
    const bool was_periodic = periodic;
    const int code = read(system);
    if (code != OK) {
        usable = false;
        return code;
    }
    if (!(skin > 0 && usable && was_periodic == periodic && still_valid(cutoff, skin))) {
        usable = false;
        too_far = false;
        search(threads);
        if (too_far) return BAD_INPUT;
        searches++;
        usable = true;
        position_then.resize(3 * num_real);
        if (num_real) memcpy(position_then.data, position.data, sizeof(double) * 3 * num_real);
        if (periodic) {
            lattice_then.resize(num_molecules);
            memcpy((void*)lattice_then.data, lattice.data, sizeof(Lattice) * num_molecules);
        }
    }
    move(threads);
    return OK;
}

}  // namespace ANIPOT_ISA
