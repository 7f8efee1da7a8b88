// The AEV as a differentiable operation on given vectors: features, their gradient, and the derivative of the gradient.
#pragma once

#include "engine.h"

namespace ANIPOT_ISA {

template <class T>
class AevOperation {
   public:
    AevOperation(const AevSpec& aev, const PairsSpec& pairs_) : tables(aev), pairs(pairs_) {
        const int E = aev.num_species;
        columns.radial.resize(E);
        columns.angular.resize(E * E);
        int at = 0, out = 0;
        auto add = [&](int length, int room) {
            blocks.grow(num_blocks + 1, num_blocks);
            blocks[num_blocks++] = {at, out, length};
            out += length;
            at += room;
            return at - room;
        };
        for (int e = 0; e < E; e++) columns.radial[e] = add(tables.num_radial, tables.padded_radial);
        for (int e = 0; e < E; e++)
            for (int f = e; f < E; f++) columns.angular[e * E + f] = add(tables.num_angular, tables.padded_angular);
        columns.total = at;
        length = out;
        begin.resize(pairs.num_atoms + 1);
        long p = 0;
        for (long i = 0; i <= pairs.num_atoms; i++) {
            while (p < pairs.num_pairs && pairs.center[p] < i) p++;
            begin[i] = p;
        }
        count = larger(1, pairs.threads);
        threads = new Thread[count];
    }
    ~AevOperation() { delete[] threads; }

    // features (N, F)
    void forward(T* features) { forward<Real<T>>(nullptr, features, nullptr); }
    // Derivative of the features along `tangent` (P, 3).
    void forward_tangent(const T* tangent, T* features_tangent) {
        forward<Dual<T>>(tangent, nullptr, features_tangent);
    }
    // dE/dvectors (P, 3) from dE/dfeatures (N, F).
    void backward(const T* gradient, T* out) { backward<Real<T>>(nullptr, gradient, out, nullptr); }
    // The derivative of the same along `tangent`, with the gradient held fixed.
    void backward_tangent(const T* tangent, const T* gradient, T* out) {
        backward<Dual<T>>(tangent, gradient, nullptr, out);
    }

   protected:
    // Where an environment stands.
    struct Memory {
        Buffer<T> values;
        Buffer<int> indices;
    };
    struct Thread {
        Memory memory;
        Scratch<Real<T>> real;
        Scratch<Dual<T>> dual;
        Scratch<Real<T>>& scratch(Real<T>*) { return real; }
        Scratch<Dual<T>>& scratch(Dual<T>*) { return dual; }
    };
    AevTables<T> tables;
    const PairsSpec& pairs;
    Columns columns;
    Buffer<Segment> blocks;  // of a row: place in the padded row, place in the features, length
    int num_blocks = 0;
    long length = 0;
    Buffer<long> begin;
    Thread* threads = nullptr;
    int count = 1;

    static Array<Real<T>> array(T* values, T*, Real<T>*) { return {values}; }
    static Array<Dual<T>> array(T* values, T* tangents, Dual<T>*) { return {values, tangents}; }

    struct Local {
        T* pointer;
        long used = 0;
        T* take(long n) {
            T* p = pointer + used;
            used += n;
            return p;
        }
    };

    const T* vectors() const { return (const T*)pairs.vectors; }

    // Lists in pair_of the pairs of atom i within Rcr, by element; `work`: room for the pairs and E + 2 more.
    template <class N>
    void sort_by_element(const Environment<N>& env, long i, int* work, int* pair_of) const {
        const int E = tables.spec.num_species, n = (int)(begin[i + 1] - begin[i]);
        const T limit = (T)(tables.spec.Rcr * tables.spec.Rcr);
        int *next = work, *element = work + E + 2;  // E is the element of pairs that do not count
        for (int e = 0; e < E + 2; e++) next[e] = 0;
        for (int p = 0; p < n; p++) {
            const T *v = vectors() + 3 * (begin[i] + p), square = v[0] * v[0] + v[1] * v[1] + v[2] * v[2];
            const int64_t e = pairs.neighbor_species[begin[i] + p];
            element[p] = (square < limit) & (e >= 0) & (e < E) ? (int)e : E;
            next[element[p] + 1]++;
        }
        for (int e = 0; e <= E; e++) next[e + 1] += next[e];
        for (int e = 0; e <= E; e++) env.radial.start[e] = next[e];
        for (int p = 0; p < n; p++) pair_of[next[element[p]]++] = p;
    }

    // The environment of atom i; tangent(p, c): of component c of pair p; pair_of: which pair of the atom each radial
    // neighbor is.
    template <class N, class F>
    Environment<N> environment(Memory& memory, long i, F tangent, Array<N>& row, Array<N>* g, int*& pair_of) {
        const int E = tables.spec.num_species;
        const long p0 = begin[i], n = begin[i + 1] - p0, room = padded<T>(n) + 2 * LANES<T>;
        Local local{memory.values.resize(2 * (15 * room + columns.total))};
        auto next = [&](long m) {
            T* a = local.take(m);
            return array(a, N::dual ? local.take(m) : nullptr, (N*)nullptr);
        };
        int* s = memory.indices.resize(3 * E + 4 + 3 * room);
        Array<N> a[12];
        for (int q = 0; q < 12; q++) a[q] = next(room);
        for (int c = 0; c < 3; c++) g[c] = next(room);
        row = next(columns.total);
        Environment<N> env = {
            {a[0], a[1], a[2], a[3], a[4], a[5], s}, {a[6], a[7], a[8], a[9], a[10], a[11], s + E + 1}, s + 2 * E + 2};
        pair_of = s + 2 * E + 2 + room;
        sort_by_element(env, i, pair_of + room, pair_of);
        const int num_neighbors = env.radial.start[E];
        const Array<N> to[3] = {env.radial.ux, env.radial.uy, env.radial.uz};
        for (int k = 0; k < num_neighbors; k++)
            for (int c = 0; c < 3; c++) {
                const long p = p0 + pair_of[k];
                to[c].a[k] = vectors()[3 * p + c];
                if constexpr (N::dual) to[c].b[k] = tangent(p, c);
            }
        finish_radial(tables.spec, env.radial, num_neighbors);
        select_angular(tables.spec, env);
        return env;
    }

    // Whether features stand as they do in a row in whole vectors, and need no copy.
    bool direct() const { return columns.total == length; }
    // Between features as they are given and a row in whole vectors.
    void write_row(const T* row, T* features) const {
        for (int q = 0; q < num_blocks; q++)
            memcpy(features + blocks[q].weight, row + blocks[q].feature, sizeof(T) * blocks[q].length);
    }
    void read_row(const T* features, T* row) const {
        for (int q = 0; q < num_blocks; q++)
            memcpy(row + blocks[q].feature, features + blocks[q].weight, sizeof(T) * blocks[q].length);
    }

    static T*& value_or_tangent(Array<Real<T>>& row) { return row.a; }
    static T*& value_or_tangent(Array<Dual<T>>& row) { return row.b; }

    static auto along(const T* tangent) {
        return [tangent](long p, int c) { return tangent[3 * p + c]; };
    }

    template <class F>
    void each_atom(F body) {
        parallel_ranges(
            count, pairs.num_atoms, 8,
            [&](long i0, long i1, int t) {
                for (long i = i0; i < i1; i++) body(i, threads[t]);
            },
            anipot::run_on_team);
    }

    template <class N>
    void forward(const T* tangent, T* features, T* features_tangent) {
        each_atom([&](long i, Thread& thread) {
            if (begin[i] == begin[i + 1]) {
                memset((void*)((features ? features : features_tangent) + i * length), 0, sizeof(T) * length);
                return;
            }
            Array<N> row, g[3];
            int* pair_of;
            const Environment<N> env = environment<N>(thread.memory, i, along(tangent), row, g, pair_of);
            T* out = (features ? features : features_tangent) + i * length;
            T*& computed = value_or_tangent(row);
            if (direct()) computed = out;
            aev_forward(tables, env, columns, thread.scratch((N*)nullptr), row);
            if (!direct()) write_row(computed, out);
        });
    }

    template <class N>
    void backward(const T* tangent, const T* gradient, T* out, T* out_tangent) {
        T* any = out ? out : out_tangent;
        if (pairs.num_pairs) memset((void*)any, 0, sizeof(T) * 3 * pairs.num_pairs);
        each_atom([&](long i, Thread& thread) {
            const long p0 = begin[i];
            if (p0 == begin[i + 1]) return;
            Array<N> row, g[3];
            int* pair_of;
            const Environment<N> env = environment<N>(thread.memory, i, along(tangent), row, g, pair_of);
            const T* slopes = gradient + i * length;
            if (!direct()) {
                read_row(slopes, row.a);
                slopes = row.a;
            }
            aev_backward(tables, env, columns, thread.scratch((N*)nullptr), slopes, g[0], g[1], g[2]);
            for (int j = 0; j < env.radial.start[tables.spec.num_species]; j++)
                for (int c = 0; c < 3; c++) {
                    const long to = 3 * (p0 + pair_of[j]) + c;
                    if (out) out[to] = g[c].a[j];
                    if constexpr (N::dual) out_tangent[to] = g[c].b[j];
                }
        });
    }
};

}  // namespace ANIPOT_ISA
