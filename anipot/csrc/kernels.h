// What one instruction set offers: a table of functions.
#pragma once

#include "spec.h"

enum { FORWARD = 0, BACKWARD = 1, FORWARD_TANGENT = 2, BACKWARD_TANGENT = 3 };
enum { WEIGHTS = 2, SECOND = 3 };

struct Kernels {
    void* (*new_engine)(int wide);
    void (*delete_engine)(void* engine);
    int64_t (*searches)(void* engine);
    int (*evaluate)(void* engine, const AevSpec*, const HeadSpec*, const SystemSpec*, const ResultSpec*);
    void (*aev_operation)(int what, const AevSpec*, const PairsSpec*, const void* gradient, const void* tangent,
                          void* out);
    void (*network_operation)(int what, const HeadSpec*, const RowsSpec*, const double* seeds, const void* tangent,
                              double* energies, void* out, void* const* weights);
    void (*hessian)(const AevSpec*, const PairsSpec*, const HeadSpec*, const RowsSpec*, const void* gradient,
                    const int64_t* neighbor, double* hessian, int64_t num_slots);
    int64_t (*vectors)(const VectorsSpec*, const void* coordinates, const void* cell, double* vectors, double spot);
    void (*vectors_backward)(const VectorsSpec*, const double* gradient, void* to_coordinates, void* to_cell);
    void* (*new_list)();
    void (*delete_list)(void* list);
    int64_t (*find_pairs)(void* list, const SystemSpec*, int num_species, double cutoff, int threads);
    void (*copy_pairs)(void* list, const PairsResult*, int threads);
    void (*incidence)(const int64_t* first, const int64_t* second, int64_t num_pairs, int64_t num_atoms,
                      int64_t* starts, int64_t* entries);
    void (*messages)(int what, const MessageSpec*);
    void (*softplus)(int order, const void* x, const void* factor, void* out, int64_t n, int wide, int threads);
    void (*filters)(const FilterSpec*);
};
