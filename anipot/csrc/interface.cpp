// The C interface (anipot/kernels calls it through ctypes) and the choice of instruction set, made once when loaded.
#include <atomic>
#include <cstring>
#include <new>

#include "kernels.h"
#include "pool.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

extern const Kernels kernels_baseline;
#if defined(ANIPOT_X86)
extern const Kernels kernels_avx2, kernels_avx512;
#endif

namespace {

struct Choice {
    const char* name;
    const Kernels* kernels;
    bool usable;
};

bool supports(const char* name) {
#if defined(ANIPOT_X86)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!strcmp(name, "avx2")) return avx2;
    if (!strcmp(name, "avx512"))
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
#endif
    return !strcmp(name, "baseline");
}

const Choice choices[] = {
#if defined(ANIPOT_X86)
    {"avx512", &kernels_avx512, supports("avx512")},
    {"avx2", &kernels_avx2, supports("avx2")},
#endif
    {"baseline", &kernels_baseline, true},
};

const Choice* best() {
    for (const Choice& choice : choices)
        if (choice.usable) return &choice;
    return nullptr;
}

std::atomic<const Choice*> chosen{best()};

const Kernels* kernels() { return chosen.load(std::memory_order_relaxed)->kernels; }

// An engine remembers whose it is, since the choice may change in between.
struct Handle {
    const Kernels* kernels;
    void* object;
};

}  // namespace

// Changes with every change of the structures in spec.h or of the functions below.
EXPORT int anipot_interface() { return 9; }

EXPORT const char* anipot_isa() { return chosen.load()->name; }

// Chooses an instruction set by name ("" for the best); 0 if this machine does not have it.
EXPORT int anipot_choose(const char* name) {
    if (!*name) {
        chosen.store(best());
        return 1;
    }
    for (const Choice& choice : choices)
        if (choice.usable && !strcmp(choice.name, name)) {
            chosen.store(&choice);
            return 1;
        }
    return 0;
}

EXPORT void* anipot_new_engine(int wide) {
    try {
        const Kernels* k = kernels();
        return new Handle{k, k->new_engine(wide)};
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}
EXPORT void anipot_delete_engine(void* handle_) {
    Handle* handle = (Handle*)handle_;
    handle->kernels->delete_engine(handle->object);
    delete handle;
}
EXPORT int64_t anipot_searches(void* handle) { return ((Handle*)handle)->kernels->searches(((Handle*)handle)->object); }

EXPORT int anipot_evaluate(void* handle, const AevSpec* aev, const HeadSpec* head, const SystemSpec* system,
                           const ResultSpec* result) {
    try {
        return ((Handle*)handle)->kernels->evaluate(((Handle*)handle)->object, aev, head, system, result);
    } catch (const std::bad_alloc&) {
        return NO_MEMORY;
    }
}

EXPORT int anipot_aev(int what, const AevSpec* aev, const PairsSpec* pairs, const void* gradient, const void* tangent,
                      void* out) {
    try {
        kernels()->aev_operation(what, aev, pairs, gradient, tangent, out);
        return OK;
    } catch (const std::bad_alloc&) {
        return NO_MEMORY;
    }
}

EXPORT int anipot_networks(int what, const HeadSpec* head, const RowsSpec* rows, const double* seeds,
                           const void* tangent, double* energies, void* out, void* const* weights) {
    try {
        kernels()->network_operation(what, head, rows, seeds, tangent, energies, out, weights);
        return OK;
    } catch (const std::bad_alloc&) {
        return NO_MEMORY;
    }
}

EXPORT int anipot_hessian(const AevSpec* aev, const PairsSpec* pairs, const HeadSpec* head, const RowsSpec* rows,
                          const void* gradient, const int64_t* neighbor, double* hessian, int64_t num_slots) {
    try {
        kernels()->hessian(aev, pairs, head, rows, gradient, neighbor, hessian, num_slots);
        return OK;
    } catch (const std::bad_alloc&) {
        return NO_MEMORY;
    }
}

EXPORT int64_t anipot_vectors(const VectorsSpec* spec, const void* coordinates, const void* cell, double* out,
                              double spot) {
    try {
        return kernels()->vectors(spec, coordinates, cell, out, spot);
    } catch (const std::bad_alloc&) {
        return -1 - NO_MEMORY;
    }
}
EXPORT int anipot_vectors_backward(const VectorsSpec* spec, const double* gradient, void* to_coordinates,
                                   void* to_cell) {
    try {
        kernels()->vectors_backward(spec, gradient, to_coordinates, to_cell);
        return OK;
    } catch (const std::bad_alloc&) {
        return NO_MEMORY;
    }
}

// The threads of the operations: GOMP_parallel of the OpenMP library that torch uses, so that its threads and ours do
// not compete for the cores; null: the pool.
EXPORT void anipot_use_team(void* parallel) { anipot::use_team(parallel); }

// Searches; returns the number of pairs, or minus an error, and a list to copy them from and to delete.
EXPORT int64_t anipot_find_pairs(const SystemSpec* system, int num_species, double cutoff, int threads, void** list) {
    const Kernels* k = kernels();
    Handle* handle = nullptr;
    *list = nullptr;
    try {
        handle = new Handle{k, nullptr};
        handle->object = k->new_list();
        *list = handle;
        return k->find_pairs(handle->object, system, num_species, cutoff, threads);
    } catch (const std::bad_alloc&) {
        return -NO_MEMORY;
    }
}
EXPORT int anipot_copy_pairs(void* list, const PairsResult* result, int threads) {
    try {
        ((Handle*)list)->kernels->copy_pairs(((Handle*)list)->object, result, threads);
        return OK;
    } catch (const std::bad_alloc&) {
        return NO_MEMORY;
    }
}
EXPORT void anipot_delete_list(void* list) {
    Handle* handle = (Handle*)list;
    if (!handle) return;
    if (handle->object) handle->kernels->delete_list(handle->object);
    delete handle;
}

EXPORT void anipot_incidence(const int64_t* first, const int64_t* second, int64_t num_pairs, int64_t num_atoms,
                             int64_t* starts, int64_t* entries) {
    kernels()->incidence(first, second, num_pairs, num_atoms, starts, entries);
}
EXPORT int anipot_messages(int what, const MessageSpec* spec) {
    try {
        kernels()->messages(what, spec);
        return OK;
    } catch (const std::bad_alloc&) {
        return NO_MEMORY;
    }
}
EXPORT int anipot_softplus(int order, const void* x, const void* factor, void* out, int64_t n, int wide, int threads) {
    try {
        kernels()->softplus(order, x, factor, out, n, wide, threads);
        return OK;
    } catch (const std::bad_alloc&) {
        return NO_MEMORY;
    }
}
EXPORT int anipot_filters(const FilterSpec* spec) {
    try {
        kernels()->filters(spec);
        return OK;
    } catch (const std::bad_alloc&) {
        return NO_MEMORY;
    }
}
