// Second derivatives of the energy with respect to coordinates.
//
// The energy of an atom depends on the vectors v to its neighbors only. Its Hessian in them is a small dense block,
//
//     d2E/dv dv = sum over hidden values z of (dE/df f''(z)) dz/dv dz/dv + sum over features of dE/dF d2F/dv dv,
//
// since all else in the network is linear. A direction is one component of one vector: it moves the terms of the
// features that this neighbor takes part in and no others. Blocks are added up over v = r_neighbor - r_center.
#pragma once

#include "network_operation.h"
#include "operation.h"

namespace ANIPOT_ISA {

template <class T>
class HessianOperation : AevOperation<T> {
    typedef AevOperation<T> Base;
    typedef Dual<T> N;
    using Base::begin;
    using Base::columns;
    using Base::pairs;
    using Base::tables;

   public:
    // gradient (N, F): dE/dfeatures of the mean over members; neighbor (P): slots.
    HessianOperation(const AevSpec& aev, const PairsSpec& pairs_, const HeadSpec& head_, const RowsSpec& rows_,
                     const T* gradient_, const int64_t* neighbor_)
        : Base(aev, pairs_),
          head(head_),
          rows(rows_),
          chunks(rows_.num_features),
          gradient(gradient_),
          neighbor(neighbor_),
          num_threads(larger(1, pairs_.threads)) {
        workers = new Worker[num_threads];
        blocks_of = new Buffer<double>[WAVE * num_threads];
        position.resize(rows.num_rows + 1);
        for (long r = 0; r < rows.num_rows; r++) position[rows.order[r]] = r;
    }
    ~HessianOperation() {
        delete[] workers;
        delete[] blocks_of;
    }

    // hessian (B, 3 A, 3 A), float64; A slots in each molecule.
    void run(double* hessian, long num_slots) {
        const long atoms = pairs.num_atoms, wave = WAVE * num_threads;
        memset((void*)hessian, 0, sizeof(double) * 9 * atoms * num_slots);
        for (long i0 = 0; i0 < atoms; i0 += wave) {
            const long count = smaller(wave, atoms - i0);
            parallel_for(
                num_threads, count, [&](long k, int t) { block(i0 + k, workers[t], blocks_of[k]); },
                anipot::run_on_team);
            for (long k = 0; k < count; k++) add(i0 + k, blocks_of[k].data, hessian, num_slots);  // in one order always
        }
    }

   private:
    static constexpr long WAVE = 16;
    struct Worker {
        typename Base::Memory memory[3];
        Scratch<N> scratch;
        Tile<T> tile;
        Buffer<T> zeros, features, z, curved, products, values;
        Buffer<int> angular, element;  // of each neighbor: where it stands, -1 beyond Rca
    };
    const HeadSpec& head;
    const RowsSpec& rows;
    Chunks chunks;
    const T* gradient;
    const int64_t* neighbor;
    int num_threads;
    Worker* workers;
    Buffer<double>* blocks_of;
    Buffer<long> position;

    // (3 n, 3 n) of atom i, neighbors in the order of its pairs; those beyond Rcr have zeros.
    void block(long i, Worker& w, Buffer<double>& out) {
        const long pairs_of_atom = begin[i + 1] - begin[i];
        double* H = out.resize(9 * pairs_of_atom * pairs_of_atom + 1);
        memset((void*)H, 0, sizeof(double) * 9 * pairs_of_atom * pairs_of_atom);
        if (!pairs_of_atom) return;
        // All vectors move along component c, so that each neighbor's own numbers have their derivative.
        Environment<N> env[3];
        Array<N> row, g[3];
        int* pair_of;
        for (int c = 0; c < 3; c++)
            env[c] = Base::template environment<N>(
                w.memory[c], i, [c](long, int q) { return (T)(q == c); }, row, g, pair_of);
        const long n = list_neighbors(env[0], w);
        const Environment<N> still = without_tangents(env[0], w);
        Base::read_row(gradient + i * Base::length, row.a);
        T* U = w.features.resize(3 * n * rows.num_features + 1);
        for (int c = 0; c < 3; c++) {  // a radial term moves with its own neighbor only
            radial_backward(tables, env[c], columns, w.scratch, row.a, g[0], g[1], g[2]);
            for (long k = 0; k < n; k++)
                for (int q = 0; q < 3; q++) at(H, pairs_of_atom, pair_of[k], c, pair_of[k], q) = g[q].b[k];
        }
        for (long k = 0; k < n; k++)
            for (int c = 0; c < 3; c++) {
                if (w.angular[k] < 0) continue;
                second(env[c], still, k, row.a, w, g);
                for (long m = 0; m < n; m++)
                    for (int q = 0; q < 3; q++) at(H, pairs_of_atom, pair_of[k], c, pair_of[m], q) += g[q].b[m];
            }
        for (long k = 0; k < n; k++)
            for (int c = 0; c < 3; c++) jacobian(env[c], still, k, row, w, U + (3 * k + c) * rows.num_features);
        if (head.first_layer[rows.species[i] + 1] == head.first_layer[rows.species[i]]) return;
        for (int m = 0; m < head.members; m++) curvature(i, m, n, w);
        for (long a = 0; a < 3 * n; a++)
            for (long b = 0; b < 3 * n; b++)
                at(H, pairs_of_atom, pair_of[a / 3], a % 3, pair_of[b / 3], b % 3) +=
                    w.values[a * padded<T>(3 * n) + b];
    }
    static double& at(double* H, long n, long k, int c, long m, int q) { return H[(3 * k + c) * 3 * n + 3 * m + q]; }

    // Element of each radial neighbor, and where it stands among the angular ones.
    long list_neighbors(const Environment<N>& env, Worker& w) const {
        const int E = tables.spec.num_species, *start = env.radial.start;
        int *angular = w.angular.resize(start[E] + 1), *element = w.element.resize(start[E] + 1);
        for (int k = 0; k < start[E]; k++) angular[k] = -1;
        for (int a = 0; a < env.angular.start[E]; a++) angular[env.radial_of[a]] = a;
        for (int e = 0; e < E; e++)
            for (int k = start[e]; k < start[e + 1]; k++) element[k] = e;
        return start[E];
    }
    Environment<N> without_tangents(Environment<N> env, Worker& w) const {
        const long room = env.radial.start[tables.spec.num_species] + 2 * LANES<T>;
        T* zeros = w.zeros.resize(room);
        memset((void*)zeros, 0, sizeof(T) * room);
        Shell<N>* const shells[2] = {&env.radial, &env.angular};
        for (Shell<N>* shell : shells)
            shell->r.b = shell->f.b = shell->df.b = shell->ux.b = shell->uy.b = shell->uz.b = zeros;
        return env;
    }

    int column(int e, int other) const {
        return columns.angular[smaller(e, other) * tables.spec.num_species + larger(e, other)];
    }

    // Derivative of the features along one direction, all F of them.
    void jacobian(const Environment<N>& moving, const Environment<N>& still, long k, Array<N> row, Worker& w, T* out) {
        const int e = w.element[k], a = w.angular[k], E = tables.spec.num_species;
        memset((void*)row.b, 0, sizeof(T) * columns.total);
        for (int v = 0; v < tables.padded_radial; v += LANES<T>) {
            const N eta = {load<T>(&tables.EtaR[v]), Vec<T>{}}, shift = {load<T>(&tables.ShfR[v]), Vec<T>{}};
            const N offset = moving.radial.r.get_splat(k) - shift;
            row.put(columns.radial[e] + v,
                    nexp(offset * offset * eta * (T)-1) * moving.radial.f.get_splat(k) * (T)0.25);
        }
        if (a >= 0) {
            const int* start = still.angular.start;
            w.scratch.reserve(tables, start[E]);
            for (int other = 0; other < E; other++)
                if (start[other + 1] > start[other])
                    add_sum(tables, moving.angular, still.angular, a, a + 1, start[other], start[other + 1],
                            column(e, other), w.scratch);
            angular_forward(tables, w.scratch, row);
        }
        Base::write_row(row.b, out);
    }

    // The derivative along one direction of g . dF/dv, of the angular terms, for all radial neighbors, into g[].b.
    void second(const Environment<N>& moving, const Environment<N>& still, long k, const T* row, Worker& w,
                Array<N>* g) {
        const int e = w.element[k], a = w.angular[k], E = tables.spec.num_species;
        constexpr int L = LANES<T>;
        for (int c = 0; c < 3; c++) memset((void*)g[c].b, 0, sizeof(T) * still.radial.start[E]);
        Scratch<N>& s = w.scratch;
        const long neighbors = still.angular.start[E];
        s.reserve(tables, neighbors);
        for (int q = 0; q < 5; q++) s.rows.put((5L * a + q) * L, N::of(0));
        for (long i = 0; i < 5 * s.stride; i += L) s.columns.put(i, N::of(0));
        s.list_elements(still.angular, E);
        add_runs(tables, moving.angular, still.angular, a, a + 1, 0, false, s,
                 [&](int other) { return row + column(e, other); });
        angular_backward(tables, moving.angular, still.angular, s);
        // As neighbor k of the triples it has no terms, but a vector's worth of the others has.
        N own[5], to[3];
        for (int q = 0; q < 5; q++)
            own[q] = {splat<T>(sum_lanes<T>(load<T>(s.rows.a + (5L * a + q) * L))),
                      splat<T>(sum_lanes<T>(load<T>(s.rows.b + (5L * a + q) * L)))};
        to_vector(moving.angular, a, own, to);
        for (int c = 0; c < 3; c++) g[c].b[k] += to[c].b[0];
        for (long m = 0; m < neighbors; m += L) {
            N q[5];
            UNROLL for (int i = 0; i < 5; i++) q[i] = s.columns.get(i * s.stride + m);
            to_vector(still.angular, m, q, to);
            UNROLL for (int c = 0; c < 3; c++) s.columns.put(c * s.stride + m, to[c]);
        }
        for (long m = 0; m < neighbors; m++)
            for (int c = 0; c < 3 && m != a; c++) g[c].b[still.radial_of[m]] += s.columns.b[c * s.stride + m];
    }

    // What the curvature of member m's network adds, into w.values (3 n, whole vectors of 3 n).
    void curvature(long i, int m, long n, Worker& w) {
        const int e = (int)rows.species[i], *first = head.first_layer + m * head.num_species + e;
        const LayerSpec* specs = head.layers + first[0];
        const int num_layers = first[1] - first[0];
        const long F = rows.num_features, D = 3 * n, ld = padded<T>(D);
        const T* state = (const T*)rows.state + (m * rows.num_rows + position[i]) * rows.state_width;
        Tile<T>& tile = w.tile;
        T *Z = nullptr, *values = w.values.resize(D * ld + LANES<T>);
        for (long r0 = 0; r0 < D;) {  // directions of one element move the same columns
            long r1 = r0;
            uint64_t mask = 0;
            while (r1 < D && r1 - r0 < MAX_ROWS && w.element[r1 / 3] == w.element[r0 / 3])
                mask |= chunks.mask(&w.features[r1++ * F]);
            tile.prepare(specs, num_layers, chunks, mask ? mask : 1);
            if (r0 == 0) {
                tile.curvature(state, (T)(1.0 / head.members));
                Z = w.z.resize(D * tile.num_hidden() + 64);
                w.curved.resize(MAX_ROWS * tile.num_hidden() + 64);
            }
            for (long r = r0; r < r1; r++) tile.gather((int)(r - r0), &w.features[r * F]);
            tile.tangents((int)(r1 - r0), Z + r0 * tile.num_hidden());
            r0 = r1;
        }
        T* products = w.products.resize(MAX_ROWS * ld);
        for (long r0 = 0; r0 < D; r0 += MAX_ROWS) {
            const int count = (int)smaller<long>(MAX_ROWS, D - r0);
            tile.curve(count, Z + r0 * tile.num_hidden(), w.curved.data);
            tile.products(count, w.curved.data, Z, D, products);
            for (long r = 0; r < count; r++)
                for (long k = 0; k < ld; k += LANES<T>) {
                    T* to = values + (r0 + r) * ld + k;
                    store<T>(to, (m ? load<T>(to) : Vec<T>{}) + load<T>(products + r * ld + k));
                }
        }
    }

    // To the rows and columns of the neighbors and of atom i itself, which moves all vectors back.
    void add(long i, const double* H, double* hessian, long A) const {
        const long n = begin[i + 1] - begin[i], b = i / A, stride = 3 * A;
        double* of = hessian + b * stride * stride;
        const int64_t* slot = neighbor + begin[i];
        const long self = 3 * (i - b * A);
        for (long k = 0; k < n; k++)
            for (int c = 0; c < 3; c++) {
                const long line = 3 * (slot[k] - b * A) + c;
                double sum[3] = {0, 0, 0};
                for (long m = 0; m < n; m++)
                    for (int q = 0; q < 3; q++) {
                        const double h = H[(3 * k + c) * 3 * n + 3 * m + q];
                        const long column = 3 * (slot[m] - b * A) + q;
                        of[line * stride + column] += h;
                        of[(self + c) * stride + column] -= h;
                        sum[q] += h;
                    }
                for (int q = 0; q < 3; q++) {
                    of[line * stride + self + q] -= sum[q];
                    of[(self + c) * stride + self + q] += sum[q];
                }
            }
    }
};

}  // namespace ANIPOT_ISA
