// The kernels of one instruction set. Compiled once for each, with -DANIPOT_ISA=name -DANIPOT_BYTES=width of a vector.
#include "kernels.h"

#include "displacements.h"
#include "hessian.h"
#include "list_impl.h"
#include "messages.h"
#include "network_operation.h"
#include "operation.h"

namespace ANIPOT_ISA {

// Denormal numbers are taken as zero within a call, and only there: products of tails of Gaussians would crawl
// otherwise.
class FlushDenormals {
   public:
    FlushDenormals() : before(read()) { write(before | FLUSH); }
    ~FlushDenormals() { write(before); }

   private:
#if defined(__SSE2__)
    static constexpr unsigned FLUSH = 0x8040;
    typedef unsigned Mode;
    static Mode read() { return _mm_getcsr(); }
    static void write(Mode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
    static constexpr unsigned long FLUSH = 1ul << 24;
    typedef unsigned long Mode;
    static Mode read() {
        Mode mode;
        asm volatile("mrs %0, fpcr" : "=r"(mode));
        return mode;
    }
    static void write(Mode mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
    static constexpr unsigned FLUSH = 0;
    typedef unsigned Mode;
    static Mode read() { return 0; }
    static void write(Mode) {}
#endif
    Mode before;
};

static void* new_engine(int wide) { return wide ? (EngineBase*)new Engine<double> : (EngineBase*)new Engine<float>; }
static void delete_engine(void* engine) { delete (EngineBase*)engine; }
static int64_t searches(void* engine) { return ((EngineBase*)engine)->list.searches; }

static int evaluate(void* engine, const AevSpec* aev, const HeadSpec* head, const SystemSpec* system,
                    const ResultSpec* result) {
    FlushDenormals mode;
    return ((EngineBase*)engine)->evaluate(*aev, *head, *system, *result);
}

template <class T>
static void apply(int what, const AevSpec* aev, const PairsSpec* pairs, const T* gradient, const T* tangent, T* out) {
    AevOperation<T> operation(*aev, *pairs);
    switch (what) {
        case FORWARD: return operation.forward(out);
        case BACKWARD: return operation.backward(gradient, out);
        case FORWARD_TANGENT: return operation.forward_tangent(tangent, out);
        case BACKWARD_TANGENT: return operation.backward_tangent(tangent, gradient, out);
    }
}
static void aev_operation(int what, const AevSpec* aev, const PairsSpec* pairs, const void* gradient,
                          const void* tangent, void* out) {
    FlushDenormals mode;
    if (pairs->wide) apply<double>(what, aev, pairs, (const double*)gradient, (const double*)tangent, (double*)out);
    else apply<float>(what, aev, pairs, (const float*)gradient, (const float*)tangent, (float*)out);
}

template <class T>
static void apply(int what, const HeadSpec& head, const RowsSpec& rows, const double* seeds, const T* direction,
                  double* energies, T* out, void* const* weights) {
    NetworkOperation<T> operation(head, rows);
    switch (what) {
        case FORWARD: return operation.forward(energies);
        case BACKWARD: return operation.backward(seeds, direction, out);
        case WEIGHTS: return operation.weight_gradient(seeds, direction, weights);
        case SECOND: return operation.second(direction, seeds, energies, out, weights);
    }
}
static void network_operation(int what, const HeadSpec* head, const RowsSpec* rows, const double* seeds,
                              const void* direction, double* energies, void* out, void* const* weights) {
    FlushDenormals mode;
    if (rows->wide) apply<double>(what, *head, *rows, seeds, (const double*)direction, energies, (double*)out, weights);
    else apply<float>(what, *head, *rows, seeds, (const float*)direction, energies, (float*)out, weights);
}

static void hessian(const AevSpec* aev, const PairsSpec* pairs, const HeadSpec* head, const RowsSpec* rows,
                    const void* gradient, const int64_t* neighbor, double* out, int64_t num_slots) {
    FlushDenormals mode;
    if (rows->wide)
        HessianOperation<double>(*aev, *pairs, *head, *rows, (const double*)gradient, neighbor).run(out, num_slots);
    else HessianOperation<float>(*aev, *pairs, *head, *rows, (const float*)gradient, neighbor).run(out, num_slots);
}

static int64_t vectors(const VectorsSpec* spec, const void* x, const void* cell, double* out, double spot) {
    if (spec->wide) return Displacements<double>(*spec).forward((const double*)x, (const double*)cell, out, spot);
    return Displacements<float>(*spec).forward((const float*)x, (const float*)cell, out, spot);
}
static void vectors_backward(const VectorsSpec* spec, const double* gradient, void* to_x, void* to_cell) {
    if (spec->wide) Displacements<double>(*spec).backward(gradient, (double*)to_x, (double*)to_cell);
    else Displacements<float>(*spec).backward(gradient, (float*)to_x, (float*)to_cell);
}

static int64_t find_pairs(void* list_, const SystemSpec* system, int num_species, double cutoff, int threads) {
    List& list = *(List*)list_;
    const int code = list.update(*system, num_species, cutoff, 0, threads);
    return code == OK ? list.start[list.num_real] : -code;
}

struct Found {
    int64_t neighbor, shift[3];
};
static int by_neighbor_and_shift(const void* a, const void* b) {
    const int64_t *x = (const int64_t*)a, *y = (const int64_t*)b;
    for (int q = 0; q < 4; q++)
        if (x[q] != y[q]) return x[q] < y[q] ? -1 : 1;
    return 0;
}
static void copy_pairs(void* list_, const PairsResult* result, int threads) {
    List& list = *(List*)list_;
    parallel_ranges(threads, list.num_real, 64, [&](long i0, long i1, int) {
        Buffer<Found> row;
        for (long i = i0; i < i1; i++) {
            const long p0 = list.start[i], n = list.start[i + 1] - p0;
            row.resize(n + 1);
            bool in_order = true;
            for (long p = 0; p < n; p++) {
                const long k = list.candidate[p0 + p], j = list.source[k];
                row[p].neighbor = list.slot[j];
                for (int a = 0; a < 3; a++) row[p].shift[a] = list.shift[3 * k + a] - list.wrap[3 * i + a];
                in_order = in_order && (p == 0 || by_neighbor_and_shift(&row[p - 1], &row[p]) < 0);
            }
            if (!in_order) qsort(row.data, n, sizeof(Found), by_neighbor_and_shift);  // small molecules are in order
            for (long p = 0; p < n; p++) {
                result->center[p0 + p] = list.slot[i];
                result->neighbor[p0 + p] = row[p].neighbor;
                for (int a = 0; a < 3 && result->shift; a++) result->shift[3 * (p0 + p) + a] = row[p].shift[a];
            }
        }
    });
}
static void* new_list() { return new List; }
static void delete_list(void* list) { delete (List*)list; }

static void messages(int what, const MessageSpec* spec) {
    FlushDenormals mode;
    if (spec->wide) Messages<double>::run(what, *spec);
    else Messages<float>::run(what, *spec);
}
static void apply_softplus(int order, const void* x, const void* factor, void* out, int64_t n, int wide, int threads) {
    FlushDenormals mode;
    if (wide) softplus<double>(order, (const double*)x, (const double*)factor, (double*)out, n, threads);
    else softplus<float>(order, (const float*)x, (const float*)factor, (float*)out, n, threads);
}
static void filters(const FilterSpec* spec) {
    FlushDenormals mode;
    if (spec->wide) Filters<double>(*spec).run();
    else Filters<float>(*spec).run();
}

}  // namespace ANIPOT_ISA

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
extern const Kernels JOIN(kernels_, ANIPOT_ISA);
const Kernels JOIN(kernels_, ANIPOT_ISA) = {
    ANIPOT_ISA::new_engine,       ANIPOT_ISA::delete_engine,     ANIPOT_ISA::searches,    ANIPOT_ISA::evaluate,
    ANIPOT_ISA::aev_operation,    ANIPOT_ISA::network_operation, ANIPOT_ISA::hessian,     ANIPOT_ISA::vectors,
    ANIPOT_ISA::vectors_backward, ANIPOT_ISA::new_list,          ANIPOT_ISA::delete_list, ANIPOT_ISA::find_pairs,
    ANIPOT_ISA::copy_pairs,       ANIPOT_ISA::incidence,         ANIPOT_ISA::messages,    ANIPOT_ISA::apply_softplus,
    ANIPOT_ISA::filters,
};
