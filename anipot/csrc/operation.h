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

    // The environment of atom i; tangent(p, c): of component c of pair p; pair_of: which pair of the atom each radial
    // neighbor is.
    template <class N, class F>
    Environment<N> environment(Memory& memory, long i, F tangent, Array<N>& row, Array<N>* g, int*& pair_of) {
        const int E = tables.spec.num_species;
        const long p0 = begin[i], n = begin[i + 1] - p0, room = padded<T>(n) + (E + 1) * LANES<T>;
        Local local{memory.values.resize(2 * (15 * room + columns.total))};
        auto next = [&](long m) {
            T* a = local.take(m);
            return array(a, N::dual ? local.take(m) : nullptr, (N*)nullptr);
        };
        int* s = memory.indices.resize(3 * E + 2 + 2 * room);
        Array<N> a[12];
        for (int q = 0; q < 12; q++) a[q] = next(room);
        for (int c = 0; c < 3; c++) g[c] = next(room);
        row = next(columns.total);
        Environment<N> env = {{a[0], a[1], a[2], a[3], a[4], a[5], s},
                              s + E + 1,
                              {a[6], a[7], a[8], a[9], a[10], a[11], s + 2 * E + 1},
                              s + 3 * E + 2};
        pair_of = s + 3 * E + 2 + room;
        sort_neighbors(env, p0, n, pair_of, tangent);
        for (int e = 0; e < E; e++) finish_radial(tables.spec, env.radial, env.radial.start[e], env.count[e]);
        select_angular(tables.spec, env);
        return env;
    }

    // Vectors of the n pairs from p0 on that are within Rcr, by element.
    template <class N, class F>
    void sort_neighbors(const Environment<N>& env, long p0, long n, int* pair_of, F tangent) const {
        const int E = tables.spec.num_species;
        const T limit = (T)(tables.spec.Rcr * tables.spec.Rcr), *vectors = (const T*)pairs.vectors;
        auto near = [&](long p) {
            const T *v = vectors + 3 * p, square = v[0] * v[0] + v[1] * v[1] + v[2] * v[2];
            return square < limit && pairs.neighbor_species[p] >= 0 && pairs.neighbor_species[p] < E;
        };
        for (int e = 0; e < E; e++) env.count[e] = 0;
        for (long p = p0; p < p0 + n; p++)
            if (near(p)) env.count[pairs.neighbor_species[p]]++;
        int from = 0, *next = env.angular.start;  // written by select_angular later
        for (int e = 0; e <= E; e++) {
            env.radial.start[e] = next[e] = from;
            if (e < E) from += (int)padded<T>(env.count[e]);
        }
        const Array<N> to[3] = {env.radial.ux, env.radial.uy, env.radial.uz};
        for (long p = p0; p < p0 + n; p++) {
            if (!near(p)) continue;
            const int k = next[pairs.neighbor_species[p]]++;
            for (int c = 0; c < 3; c++) {
                to[c].a[k] = vectors[3 * p + c];
                if constexpr (N::dual) to[c].b[k] = tangent(p, c);
            }
            pair_of[k] = (int)(p - p0);
        }
    }

    // Whether features stand as they do in a row in whole vectors, and need no copy.
    bool direct() const { return columns.total == length; }
    // Between features as they are given and a row in whole vectors.
    void write_row(const T* row, T* features) const {
        for (int q = 0; q < num_blocks; q++)
            memcpy(features + blocks[q].weight, row + blocks[q].feature, sizeof(T) * blocks[q].length);
    }
    template <class N>
    void read_row(const T* features, Array<N> row) const {
        for (int q = 0; q < num_blocks; q++)
            memcpy(row.a + blocks[q].feature, features + blocks[q].weight, sizeof(T) * blocks[q].length);
        if constexpr (N::dual) memset((void*)row.b, 0, sizeof(T) * columns.total);
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
            if (N::dual || !direct()) read_row(gradient + i * length, row);
            else row.a = (T*)gradient + i * length;  // which is only read
            aev_backward(tables, env, columns, thread.scratch((N*)nullptr), row, g[0], g[1], g[2]);
            for (int e = 0; e < tables.spec.num_species; e++)
                for (int j = env.radial.start[e]; j < env.radial.start[e] + env.count[e]; j++)
                    for (int c = 0; c < 3; c++) {
                        const long to = 3 * (p0 + pair_of[j]) + c;
                        if (out) out[to] = g[c].a[j];
                        if constexpr (N::dual) out_tangent[to] = g[c].b[j];
                    }
        });
    }
};

}  // namespace ANIPOT_ISA
