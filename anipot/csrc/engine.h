// The whole potential in one call: list, AEVs, networks, gradients, for the atoms of a batch in blocks.
#pragma once

#include "aev.h"
#include "list.h"
#include "network.h"

namespace ANIPOT_ISA {

// Atoms whose features exist at one time.
constexpr long BLOCK_ATOMS = 2048;
// Rows that one task takes through the networks at most.
constexpr long TASK_ROWS = 1024;

struct EngineBase {
    virtual ~EngineBase() {}
    virtual int evaluate(const AevSpec&, const HeadSpec&, const SystemSpec&, const ResultSpec&) = 0;
    List list;
};

// Where the neighbors of the atoms of a block are kept between forward and backward. Offsets per atom are upper bounds
// from its candidates, with pads of two vectors.
template <class T>
struct Arena {
    Buffer<T> values;     // 9 arrays for radial neighbors, 6 for angular ones
    Buffer<int> indices;  // extended atom of each radial neighbor; radial neighbor of each angular one
    Buffer<int> starts;   // per atom: radial (E + 1), angular (E + 1)
    long size = 0;

    void reserve(long candidates, long atoms, int num_species) {
        size = candidates + (2 * atoms + 1) * LANES<T>;
        values.resize(15 * size);
        indices.resize(2 * size);
        starts.resize(atoms * (2 * num_species + 2));
    }
    T* array(int k, long at) { return values.data + k * size + at; }
    Shell<Real<T>> shell(int k, long at, int* start) {
        Array<Real<T>> a[6];
        for (int q = 0; q < 6; q++) a[q] = {array(k + q, at)};
        return {a[0], a[1], a[2], a[3], a[4], a[5], start};
    }
    Environment<Real<T>> environment(long atom, long at, int num_species) {
        int* s = &starts[atom * (2 * num_species + 2)];
        return {shell(0, at, s), shell(6, at, s + num_species + 1), indices.data + size + at};
    }
    int* extended(long at) { return indices.data + at; }
    T* gradient(int c, long at) { return array(12 + c, at); }
};

// r, unit vector and cutoff function of n neighbors whose vectors stand in ux, uy, uz; entries up to the next whole
// vector become neighbors at the cutoff, which count for nothing.
template <class N>
INLINE void finish_radial(const AevSpec& spec, const Shell<N>& shell, long n) {
    typedef typename N::T T;
    for (long i = 0; i < n; i += LANES<T>) {
        N x, y, z;
        shell.unit(i, x, y, z);
        x = nfirst(n - i, x, N::of((T)spec.Rcr));
        y = nfirst(n - i, y, N::of(0));
        z = nfirst(n - i, z, N::of(0));
        const N r = nsqrt(x * x + y * y + z * z), inverse = N::of(1) / r;
        N f, df;
        cutoff(spec, spec.Rcr, r, f, df);
        shell.r.put(i, r);
        shell.f.put(i, nfirst(n - i, f, N::of(0)));
        shell.df.put(i, nfirst(n - i, df, N::of(0)));
        shell.ux.put(i, x * inverse);
        shell.uy.put(i, y * inverse);
        shell.uz.put(i, z * inverse);
    }
}

// The radial neighbors within Rca, one after the other, with their own cutoff function. A vector's worth of neighbors
// behind the last one count for nothing.
template <class N>
INLINE void select_angular(const AevSpec& spec, const Environment<N>& env) {
    typedef typename N::T T;
    int n = 0;
    for (int e = 0; e < spec.num_species; e++) {
        env.angular.start[e] = n;
        for (int j = env.radial.start[e]; j < env.radial.start[e + 1]; j++) {
            env.angular.r.copy_one(n, env.radial.r, j);
            env.angular.ux.copy_one(n, env.radial.ux, j);
            env.angular.uy.copy_one(n, env.radial.uy, j);
            env.angular.uz.copy_one(n, env.radial.uz, j);
            env.radial_of[n] = j;
            n += env.radial.r.a[j] < (T)spec.Rca;
        }
    }
    env.angular.start[spec.num_species] = n;
    const N zero = N::of(0);
    env.angular.r.put(n, N::of((T)spec.Rca));
    env.angular.ux.put(n, zero);
    env.angular.uy.put(n, zero);
    env.angular.uz.put(n, zero);
    for (int j = 0; j < n; j += LANES<T>) {
        N f, df;
        cutoff(spec, spec.Rca, env.angular.r.get(j), f, df);
        env.angular.f.put(j, f);
        env.angular.df.put(j, df);
    }
    env.angular.f.put(n, zero);
    env.angular.df.put(n, zero);
}

template <class T>
class Engine : public EngineBase {
   public:
    ~Engine() {
        delete tables;
        delete[] threads;
    }

    int evaluate(const AevSpec& aev, const HeadSpec& head_, const SystemSpec& system,
                 const ResultSpec& result_) override {
        head = &head_;
        result = &result_;
        num_threads = larger(1, result->threads);
        use(aev);
        const int code = list.update(system, aev.num_species, aev.Rcr, result->skin, num_threads);
        if (code != OK) return code;
        memcpy(result->present, list.present.data, sizeof(int) * aev.num_species);
        num_molecules = system.num_molecules;
        num_atoms = system.num_atoms;
        if (result->stress && !stress_defined()) return BAD_INPUT;
        lay_out();
        begin();
        for (long i0 = 0; i0 < list.num_real; i0 += block_atoms) {
            block(i0, smaller(list.num_real, i0 + block_atoms));
            if (on_one_spot) return BAD_INPUT;
        }
        finish(system.wide_coordinates);
        return OK;
    }

   private:
    struct Task {
        int element, layout, group;
        long from, to;
    };
    // Columns of features for some elements, and how they map to the first weights.
    struct Layout {
        uint64_t elements = 0;
        Columns columns;
        Buffer<Segment> segments;
        Buffer<int> vector_columns;
        FirstLayer first_layer{};
    };
    // The first is for all elements of the batch, the others for those of many of its molecules.
    static constexpr int MAX_LAYOUTS = 8;
    static constexpr long SUM_NUMBERS = 1L << 28;  // of all threads' sums of gradients: 2 GiB
    // Atoms that must share a layout to have it: fewer are computed faster together with others.
    static constexpr long LAYOUT_ATOMS = 192;
    struct Thread {
        Scratch<Real<T>> scratch;
        Network<T> network;
        Buffer<T> row;
        Buffer<double> force, virial, energy;
    };

    AevTables<T>* tables = nullptr;
    AevSpec known{};  // of the tables, with its own copy of the constants
    Buffer<double> constants;
    Layout layouts[MAX_LAYOUTS];
    int num_layouts = 0;
    long width = 0;                // of a row of features: columns of the first layout
    Buffer<int> layout_of;         // elements present for which the first is made
    Buffer<uint64_t> elements_of;  // of each molecule, as bits
    Buffer<int> layout_of_molecule;
    const HeadSpec* head = nullptr;
    const ResultSpec* result = nullptr;
    int num_threads = 1, thread_count = 0;
    int gradient_threads = 1;  // each with sums of its own, as far as these fit
    Thread* threads = nullptr;
    long num_molecules = 0, num_atoms = 0, block_atoms = BLOCK_ATOMS;
    int outputs = 1;  // gradients kept apart: 1, or one for each member
    int groups = 1;   // of members, each with its own sum of gradients
    bool wants_gradient = false, on_one_spot = false;
    Arena<T> arena;
    Buffer<long> row_of, rows_of;  // of each atom of the block; where rows of each element and layout begin
    Buffer<T> features, gradients;
    Buffer<double> row_energies, energies;  // (M, rows of the block), (M, real atoms)
    Buffer<Task> tasks;

    // Takes over the constants if they are not those of the last call.
    void use(const AevSpec& aev) {
        const double* from[6] = {aev.EtaR, aev.ShfR, aev.EtaA, aev.Zeta, aev.ShfA, aev.ShfZ};
        const int n[6] = {aev.num_EtaR, aev.num_ShfR, aev.num_EtaA, aev.num_Zeta, aev.num_ShfA, aev.num_ShfZ};
        const double** known_from[6] = {&known.EtaR, &known.ShfR, &known.EtaA, &known.Zeta, &known.ShfA, &known.ShfZ};
        bool same = tables && !memcmp(&known, &aev, offsetof(AevSpec, num_ShfZ) + sizeof known.num_ShfZ);
        for (int q = 0; q < 6 && same; q++) same = !memcmp(*known_from[q], from[q], sizeof(double) * n[q]);
        if (same) return;
        delete tables;
        tables = nullptr;
        known = aev;
        long total = 0;
        for (int q = 0; q < 6; q++) total += n[q];
        double* to = constants.resize(total);
        for (int q = 0; q < 6; q++) {
            memcpy(to, from[q], sizeof(double) * n[q]);
            *known_from[q] = to;
            to += n[q];
        }
        layout_of.resize(aev.num_species);
        for (int e = 0; e < aev.num_species; e++) layout_of[e] = -1;
        tables = new AevTables<T>(known);
    }

    bool stress_defined() const {
        if (!list.periodic) return false;
        for (long b = 0; b < num_molecules; b++) {
            const Lattice& l = list.lattice[b];
            if (!(l.pbc[0] || l.pbc[1] || l.pbc[2]) || !(l.volume > 0)) return false;
        }
        return true;
    }

    void lay_out() {
        const int E = known.num_species;
        if (memcmp(layout_of.data, list.present.data, sizeof(int) * E)) {
            memcpy(layout_of.data, list.present.data, sizeof(int) * E);
            make(layouts[0], [&](int e) { return list.present[e] != 0; });
            num_layouts = 1;
        }
        width = layouts[0].columns.total;
        elements_of.resize(num_molecules + 1);
        layout_of_molecule.resize(num_molecules + 1);
        for (long b = 0; b < num_molecules; b++) {
            elements_of[b] = 0;
            layout_of_molecule[b] = 0;
            for (long i = list.molecule_start[b]; i < list.molecule_start[b + 1] && E <= 64; i++)
                elements_of[b] |= 1ull << list.kind[i];
        }
    }
    template <class F>
    void make(Layout& layout, F present) {
        const int E = known.num_species;
        Columns& columns = layout.columns;
        Buffer<Segment>& segments = layout.segments;
        columns.radial.resize(E);
        columns.angular.resize(E * E);
        segments.resize(E + E * E);
        int at = 0, weight = 0, n = 0;
        bool whole = true;
        auto add = [&](bool there, int length, int room) {
            const int column = there ? at : -1;
            if (there) {
                if (n && segments[n - 1].weight + segments[n - 1].length == weight &&
                    segments[n - 1].feature + segments[n - 1].length == at)
                    segments[n - 1].length += length;
                else segments[n++] = {at, weight, length};
                whole &= length == room;
                at += room;
            }
            weight += length;
            return column;
        };
        for (int e = 0; e < E; e++) columns.radial[e] = add(present(e), tables->num_radial, tables->padded_radial);
        for (int e = 0; e < E; e++)
            for (int f = e; f < E; f++)
                columns.angular[e * E + f] = add(present(e) && present(f), tables->num_angular, tables->padded_angular);
        columns.total = at;
        layout.vector_columns.resize(at / LANES<T> + 1);
        for (int s = 0; s < n && whole; s++)
            for (int k = 0; k < segments[s].length; k += LANES<T>)
                layout.vector_columns[(segments[s].feature + k) / LANES<T>] = segments[s].weight + k;
        layout.first_layer = {segments.data, n, layout.vector_columns.data, at, whole};
    }

    // Which layout the molecules b0 ... b1 - 1 take: their own if many atoms of the block i0 ... i1 - 1 share it.
    void choose_layouts(long i0, long i1) {
        const long b0 = list.molecule[i0], b1 = list.molecule[i1 - 1] + 1;
        if (num_molecules == 1 || known.num_species > 64) return;
        uint64_t all = 0;
        for (int e = 0; e < known.num_species; e++) all |= (uint64_t)(list.present[e] != 0) << e;
        for (long b = b0; b < b1; b++) layout_of_molecule[b] = -1;
        for (long b = b0; b < b1; b++) {
            if (layout_of_molecule[b] >= 0) continue;
            const uint64_t elements = elements_of[b];
            long atoms = 0;
            for (long c = b; c < b1; c++)
                if (elements_of[c] == elements) atoms += list.molecule_start[c + 1] - list.molecule_start[c];
            const int layout = elements == all || atoms < LAYOUT_ATOMS ? 0 : layout_for(elements);
            for (long c = b; c < b1; c++)
                if (elements_of[c] == elements) layout_of_molecule[c] = layout;
        }
    }
    int layout_for(uint64_t elements) {
        for (int k = 1; k < num_layouts; k++)
            if (layouts[k].elements == elements) return k;
        if (num_layouts == MAX_LAYOUTS) return 0;
        layouts[num_layouts].elements = elements;
        make(layouts[num_layouts], [&](int e) { return elements >> e & 1; });
        return num_layouts++;
    }
    Layout& layout_of_atom(long i) { return layouts[layout_of_molecule[list.molecule[i]]]; }

    void begin() {
        if (num_threads > thread_count) {
            delete[] threads;
            threads = nullptr;
            thread_count = 0;
            threads = new Thread[num_threads];
            thread_count = num_threads;
        }
        wants_gradient = result->forces || result->stress;
        outputs = result->members ? head->members : 1;
        on_one_spot = false;
        block_atoms = larger<long>(BLOCK_ATOMS, 128L * num_threads);
        energies.resize(head->members * list.num_real + 1);
        const long each = 3L * outputs * list.num_real, of_cells = result->stress ? 9L * outputs * num_molecules : 0;
        gradient_threads = (int)larger<long>(1, smaller<long>(num_threads, SUM_NUMBERS / (each + of_cells + 1)));
        if (!wants_gradient) return;
        auto clear = [&](long t, int) {
            memset((void*)threads[t].force.resize(each + 1), 0, sizeof(double) * each);
            memset((void*)threads[t].virial.resize(of_cells + 1), 0, sizeof(double) * of_cells);
        };
        if (each > 100000) parallel_for(gradient_threads, gradient_threads, clear);
        else
            for (int t = 0; t < gradient_threads; t++) clear(t, t);
    }

    void block(long i0, long i1) {
        const long n = i1 - i0;
        const int E = known.num_species;
        choose_layouts(i0, i1);
        const int kinds = E * num_layouts;
        auto kind = [&](long i) { return list.kind[i] * num_layouts + layout_of_molecule[list.molecule[i]]; };
        row_of.resize(n);
        rows_of.resize(kinds + 1);
        for (int k = 0; k <= kinds; k++) rows_of[k] = 0;
        for (long i = i0; i < i1; i++) rows_of[kind(i) + 1]++;
        for (int k = 0; k < kinds; k++) rows_of[k + 1] += rows_of[k];
        for (long i = i0; i < i1; i++) row_of[i - i0] = rows_of[kind(i)]++;
        for (int k = kinds; k > 0; k--) rows_of[k] = rows_of[k - 1];
        rows_of[0] = 0;
        arena.reserve(list.start[i1] - list.start[i0], n, E);
        plan_tasks();
        features.resize(n * width);
        if (wants_gradient) gradients.resize(groups * n * width);
        row_energies.resize(head->members * n);

        const long chunk = larger<long>(1, smaller<long>(16, n / (8 * num_threads)));
        parallel_ranges(num_threads, n, chunk, [&](long a0, long a1, int t) {
            for (long a = a0; a < a1; a++) forward_atom(i0, a, threads[t]);
        });
        if (__atomic_load_n(&on_one_spot, __ATOMIC_RELAXED)) return;
        parallel_for(num_threads, num_tasks, [&](long task, int t) { run_networks(tasks[task], n, threads[t]); });
        for (int m = 0; m < head->members; m++)
            for (long a = 0; a < n; a++) energies[m * list.num_real + i0 + a] = row_energies[m * n + row_of[a]];
        if (wants_gradient)
            parallel_ranges(gradient_threads, n, chunk, [&](long a0, long a1, int t) {
                for (long a = a0; a < a1; a++) backward_atom(i0, a, n, threads[t]);
            });
    }

    long arena_offset(long i0, long a) const { return list.start[i0 + a] - list.start[i0] + 2 * a * LANES<T>; }

    void forward_atom(long i0, long a, Thread& thread) {
        const int E = known.num_species;
        const long i = i0 + a, at = arena_offset(i0, a);
        const Environment<Real<T>> env = arena.environment(a, at, E);
        T *ux = env.radial.ux.a, *uy = env.radial.uy.a, *uz = env.radial.uz.a;
        int* extended = arena.extended(at);
        const double* home = &list.home[4 * i];
        const double limit = known.Rcr * known.Rcr;
        const int* candidates = &list.candidate[list.start[i]];
        const int* elements = &list.elements[i * (E + 1)];
        int n = 0;
        bool spot = false;
        for (int e = 0; e < E; e++) {
            env.radial.start[e] = n;
            for (int c = elements[e]; c < elements[e + 1]; c++) {
                const int k = candidates[c];
                const double* there = &list.extended[4L * k];
                const double x = there[0] - home[0], y = there[1] - home[1], z = there[2] - home[2];
                const double square = x * x + y * y + z * z;
                ux[n] = (T)x;
                uy[n] = (T)y;
                uz[n] = (T)z;
                extended[n] = k;
                n += square < limit;
                spot |= square < 1e-12;
            }
        }
        env.radial.start[E] = n;
        finish_radial(known, env.radial, n);
        if (spot) __atomic_store_n(&on_one_spot, true, __ATOMIC_RELAXED);
        select_angular(known, env);
        aev_forward(*tables, env, layout_of_atom(i).columns, thread.scratch,
                    Array<Real<T>>{&features[row_of[a] * width]});
    }

    // Tasks small enough to share the work evenly, large enough to read the weights seldom.
    void plan_tasks() {
        const int M = head->members, kinds = known.num_species * num_layouts;
        const long wanted = num_threads == 1 ? 1 : 4L * num_threads;
        auto count = [&](long rows) {
            long n = 0;
            for (int k = 0; k < kinds; k++) n += (rows_of[k + 1] - rows_of[k] + rows - 1) / rows;
            return n;
        };
        long rows = TASK_ROWS;
        groups = outputs > 1 ? M : 1;
        while (groups < M && groups * count(rows) < wanted) groups = smaller(M, 2 * groups);
        while (rows > TILE_ROWS && groups * count(rows) < wanted) rows = larger<long>(TILE_ROWS, rows / 2);
        tasks.resize(groups * count(rows) + 1);
        num_tasks = 0;
        for (int k = 0; k < kinds; k++) {
            const long n = rows_of[k + 1] - rows_of[k], parts = (n + rows - 1) / rows;
            for (int g = 0; g < groups; g++)
                for (long p = 0; p < parts; p++)
                    tasks[num_tasks++] = {k / num_layouts, k % num_layouts, g, rows_of[k] + p * n / parts,
                                          rows_of[k] + (p + 1) * n / parts};
        }
    }
    long num_tasks = 0;

    void run_networks(const Task& task, long n, Thread& thread) {
        const int E = known.num_species, M = head->members;
        const long rows = task.to - task.from;
        const T seed = (T)(outputs > 1 ? 1.0 : 1.0 / M);
        const long blocks = (rows + MAX_ROWS - 1) / MAX_ROWS;
        for (int m = task.group; m < M; m += groups) {
            const int* first = &head->first_layer[m * E + task.element];
            thread.network.prepare(head->layers + first[0], first[1] - first[0], layouts[task.layout].first_layer);
            for (long b = 0; b < blocks; b++) {
                const long r0 = task.from + b * rows / blocks, r1 = task.from + (b + 1) * rows / blocks;
                T* g = wants_gradient ? &gradients[(task.group * n + r0) * width] : nullptr;
                thread.network.run((int)(r1 - r0), &features[r0 * width], width, &row_energies[m * n + r0], seed, g,
                                   width, m != task.group);
            }
        }
    }

    void backward_atom(long i0, long a, long n, Thread& thread) {
        const int E = known.num_species;
        const long i = i0 + a, at = arena_offset(i0, a);
        const Columns& columns = layout_of_atom(i).columns;
        const Environment<Real<T>> env = arena.environment(a, at, E);
        T *gx = arena.gradient(0, at), *gy = arena.gradient(1, at), *gz = arena.gradient(2, at);
        for (int o = 0; o < outputs; o++) {
            const T* g = &gradients[(o * n + row_of[a]) * width];
            if (outputs == 1 && groups > 1) {
                T* sum = thread.row.resize(width);
                memcpy(sum, g, sizeof(T) * columns.total);
                for (int k = 1; k < groups; k++) {
                    const T* other = &gradients[(k * n + row_of[a]) * width];
                    for (long c = 0; c < columns.total; c += LANES<T>)
                        store<T>(sum + c, load<T>(sum + c) + load<T>(other + c));
                }
                g = sum;
            }
            aev_backward(*tables, env, columns, thread.scratch, g, Array<Real<T>>{gx}, Array<Real<T>>{gy},
                         Array<Real<T>>{gz});
            scatter(env, i, o, at, thread);
        }
    }

    // dE/dvector of the neighbors of atom i to the forces of both ends and to the virial.
    void scatter(const Environment<Real<T>>& env, long i, int o, long at, Thread& thread) {
        const T *gx = arena.gradient(0, at), *gy = arena.gradient(1, at), *gz = arena.gradient(2, at);
        const int* extended = arena.extended(at);
        double* force = &thread.force[3 * o * list.num_real];
        double own[3] = {0, 0, 0}, v[9] = {0};
        for (int e = 0; e < known.num_species; e++)
            for (int j = env.radial.start[e]; j < env.radial.start[e + 1]; j++) {
                double* to = force + 3L * list.source[extended[j]];
                const double g[3] = {(double)gx[j], (double)gy[j], (double)gz[j]};
                for (int c = 0; c < 3; c++) {
                    to[c] -= g[c];
                    own[c] += g[c];
                }
                if (!result->stress) continue;
                const double r = env.radial.r.a[j];
                const double u[3] = {r * env.radial.ux.a[j], r * env.radial.uy.a[j], r * env.radial.uz.a[j]};
                for (int p = 0; p < 3; p++)
                    for (int q = 0; q < 3; q++) v[3 * p + q] += u[p] * g[q];
            }
        for (int c = 0; c < 3; c++) force[3 * i + c] += own[c];
        if (result->stress)
            for (int q = 0; q < 9; q++) thread.virial[9 * (o * num_molecules + list.molecule[i]) + q] += v[q];
    }

    void finish(bool wide) {
        const int M = head->members;
        const long B = num_molecules, A = num_atoms, n = list.num_real;
        if (result->atomic_energies) memset((void*)result->atomic_energies, 0, sizeof(double) * outputs * B * A);
        for (int o = 0; o < outputs; o++)
            for (long b = 0; b < B; b++) {
                double total = 0;
                for (long i = list.molecule_start[b]; i < list.molecule_start[b + 1]; i++) {
                    double e = 0;
                    if (outputs > 1) e = energies[o * n + i];
                    else {
                        for (int m = 0; m < M; m++) e += energies[m * n + i];
                        e /= M;
                    }
                    e += head->self_energies[list.kind[i]];
                    if (result->atomic_energies) result->atomic_energies[o * B * A + list.slot[i]] = e;
                    total += e;
                }
                if (head->intercept && list.molecule_start[b + 1] > list.molecule_start[b])
                    total += head->self_energies[known.num_species];
                result->energies[o * B + b] = total;
            }
        if (wide) write_gradients<double>();
        else write_gradients<float>();
    }

    template <class X>
    void write_gradients() {
        const long B = num_molecules, A = num_atoms, n = list.num_real;
        if (result->forces) {
            X* forces = (X*)result->forces;
            memset((void*)forces, 0, sizeof(X) * 3 * outputs * B * A);
            for (int o = 0; o < outputs; o++)
                parallel_ranges(num_threads, n, 4096, [&](long i0, long i1, int) {
                    for (long i = i0; i < i1; i++)
                        for (int c = 0; c < 3; c++) {
                            double f = 0;
                            for (int t = 0; t < gradient_threads; t++) f += threads[t].force[3 * (o * n + i) + c];
                            forces[3 * (o * B * A + list.slot[i]) + c] = (X)f;
                        }
                });
        }
        if (result->stress) {
            X* stress = (X*)result->stress;
            for (long b = 0; b < outputs * B; b++) {
                double v[9];
                for (int q = 0; q < 9; q++) {
                    v[q] = 0;
                    for (int t = 0; t < gradient_threads; t++) v[q] += threads[t].virial[9 * b + q];
                    v[q] /= list.lattice[b % B].volume;
                }
                for (int p = 0; p < 3; p++)
                    for (int q = 0; q < 3; q++) stress[9 * b + 3 * p + q] = (X)((v[3 * p + q] + v[3 * q + p]) / 2);
            }
        }
    }
};

}  // namespace ANIPOT_ISA
