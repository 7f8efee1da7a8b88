// Vectors from center to neighbor as a linear operation on coordinates and cells, and its transpose.
#pragma once

#include "memory.h"
#include "parallel.h"
#include "spec.h"

namespace ANIPOT_ISA {

template <class X>
class Displacements {
   public:
    explicit Displacements(const VectorsSpec& spec) : s(spec) {}

    // vectors (P, 3); returns the first of the pairs closer than `spot`, or -1.
    int64_t forward(const X* x, const X* cell, double* vectors, double spot) const {
        int64_t closest = -1;
        each_range([&](long p0, long p1) {
            for (long p = p0; p < p1; p++) {
                const X *a = x + 3 * s.center[p], *b = x + 3 * s.neighbor[p];
                double v[3], square = 0;
                for (int q = 0; q < 3; q++) v[q] = (double)b[q] - (double)a[q];
                if (cell) {
                    const int64_t* n = s.shift + 3 * p;
                    const X* lattice = cell + 9 * molecule(p);
                    for (int k = 0; k < 3; k++)
                        for (int q = 0; q < 3 && n[k]; q++) v[q] += (double)n[k] * (double)lattice[3 * k + q];
                }
                for (int q = 0; q < 3; q++) {
                    vectors[3 * p + q] = v[q];
                    square += v[q] * v[q];
                }
                if (square < spot * spot) note(closest, p);
            }
        });
        return closest;
    }

    // From dE/dvectors to dE/dx and dE/dcell, the latter if not null.
    void backward(const double* g, X* to_x, X* to_cell) const {
        const long N = s.num_molecules * s.num_atoms;
        Buffer<double> sum;
        memset((void*)sum.resize(3 * N + 9 * s.num_molecules), 0, sizeof(double) * (3 * N + 9 * s.num_molecules));
        double* of_cell = &sum[3 * N];
        parallel_for(
            s.threads, s.num_molecules,
            [&](long b, int) {  // neighbors are of the same molecule
                for (long p = first(b); p < first(b + 1); p++) {
                    const int64_t i = 3 * s.center[p], j = 3 * s.neighbor[p];
                    for (int q = 0; q < 3; q++) {
                        sum[j + q] += g[3 * p + q];
                        sum[i + q] -= g[3 * p + q];
                    }
                    for (int k = 0; to_cell && k < 3; k++)
                        for (int q = 0; q < 3; q++)
                            of_cell[9 * b + 3 * k + q] += (double)s.shift[3 * p + k] * g[3 * p + q];
                }
            },
            anipot::run_on_team);
        for (long i = 0; i < 3 * N; i++) to_x[i] = (X)sum[i];
        for (long i = 0; to_cell && i < 9 * s.num_molecules; i++) to_cell[i] = (X)of_cell[i];
    }

   private:
    const VectorsSpec& s;

    long molecule(long p) const { return s.center[p] / s.num_atoms; }
    // The first pair of molecule b; centers ascend.
    long first(long b) const {
        long low = 0, high = s.num_pairs;
        while (low < high) {
            const long middle = (low + high) / 2;
            if (s.center[middle] < b * s.num_atoms) low = middle + 1;
            else high = middle;
        }
        return low;
    }
    template <class F>
    void each_range(F body) const {
        parallel_ranges(
            s.threads, s.num_pairs, 8192, [&](long p0, long p1, int) { body(p0, p1); }, anipot::run_on_team);
    }
    static void note(int64_t& closest, int64_t p) {
        int64_t seen = __atomic_load_n(&closest, __ATOMIC_RELAXED);
        while ((seen < 0 || p < seen) &&
               !__atomic_compare_exchange_n(&closest, &seen, p, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    }
};

}  // namespace ANIPOT_ISA
