// Plain data that crosses the C interface: what the Python side (kernels/library.py) fills in, field by field in this
// order.
#pragma once

#include <cstdint>

enum { COSINE_CUTOFF = 0, SMOOTH_CUTOFF = 1 };
enum { NO_ACTIVATION = 0, CELU = 1, TANH = 2, SILU = 3, SHIFTED_SOFTPLUS = 4, GAUSSIAN = 5, GELU = 6, GELU_TANH = 7 };
enum { OK = 0, BAD_INPUT = 1, NO_MEMORY = 2 };

// Constants of an AEV (representation/aev.py), float64.
struct AevSpec {
    double Rcr, Rca, cutoff_eps;
    int32_t num_species, cutoff_kind, cutoff_order;
    int32_t num_EtaR, num_ShfR, num_EtaA, num_Zeta, num_ShfA, num_ShfZ;
    const double *EtaR, *ShfR, *EtaA, *Zeta, *ShfA, *ShfZ;
};

// One dense layer: weight (n_out, n_in), rows one after the other, and bias (n_out) or null.
struct LayerSpec {
    const void *weight, *bias;
    double parameter;  // alpha of CELU
    int32_t n_in, n_out, activation;
};

// The networks of an ensemble: layers of member m and element e from first_layer[m * E + e] to the next entry.
struct HeadSpec {
    int32_t members, num_species;
    const int32_t* first_layer;
    const LayerSpec* layers;
    const double* self_energies;  // (E [+ 1])
    int32_t intercept;
};

// A padded batch (B, A). Strides count elements from one molecule to the next, 0 where one value serves all.
struct SystemSpec {
    int64_t num_molecules, num_atoms;
    const int64_t* species;  // (B, A); ghosts are negative
    const int64_t*
        index_of;  // element index of species 0 ... num_index - 1, negative if unknown; null: species are indices
    int64_t num_index;
    const void* coordinates;  // (B, A, 3)
    const void* cell;         // (3, 3) for each molecule, or null
    const uint8_t* pbc;       // (3) for each molecule, or null
    int64_t cell_stride, pbc_stride;
    int32_t wide_coordinates;  // float64, else float32; the cell alike
};

// Where results go; null where they are not asked for. All of coordinates' type but energies, which are float64.
struct ResultSpec {
    double* energies;         // (B), or (M, B) with members
    double* atomic_energies;  // (B, A), or (M, B, A) with members
    void* forces;             // (B, A, 3), or (M, B, A, 3)
    void* stress;             // (B, 3, 3), or (M, B, 3, 3): dE/dstrain / volume
    int32_t members;          // every member by itself, not the mean
    int32_t threads;
    double skin;       // Angstrom; of the list, which is kept if this is above 0
    int32_t* present;  // (E) whether an element occurs
};

// Neighborhoods given from outside: P pairs with ascending centers 0 ... num_atoms - 1.
struct PairsSpec {
    int64_t num_pairs, num_atoms;
    const int64_t *center, *neighbor_species;
    const void* vectors;  // (P, 3)
    int32_t wide;         // everything of the operation is float64, else float32
    int32_t threads;
};

// Rows of features of any atoms, and what the networks remember of them between calls (network_operation.h).
struct RowsSpec {
    int64_t num_rows, num_features;
    const void* features;    // (N, F)
    const int64_t* species;  // (N); negative: a ghost
    int64_t* order;          // (2, N): the rows as they are computed, and masks of their columns
    void* state;             // (M, N, W), hidden values before the activation, in that order
    int64_t state_width;
    int32_t wide, threads;
    int32_t sparse;  // gradients are wanted only for columns that are not zero
};

// Pairs of a padded batch (B, A) with ascending centers, whose vectors are wanted.
struct VectorsSpec {
    int64_t num_pairs, num_molecules, num_atoms;
    const int64_t *center, *neighbor, *shift;  // (P), (P), (P, 3) or null
    int32_t wide, threads;                     // coordinates and cells are float64, else float32
};

// A list as the Python side wants it: sorted by center, neighbor and shift.
struct PairsResult {
    int64_t *center, *neighbor, *shift;  // (P), (P), (P, 3) or null
};

// What messages.h computes, and of which form.
enum { GATHER = 0, PRODUCTS = 1, CONTRACTIONS = 2 };
enum { EVEN = 0, UP = 1, DOWN = 2 };

// Features of N atoms, and P pairs that stand for both of their directions.
struct MessageSpec {
    int64_t num_pairs, num_atoms, num_features, components;  // the latter of EVEN
    const int64_t *first, *second, *starts, *entries;        // (P), (P), (N + 1), (2 P): see `incidence`
    const void *x, *y, *w, *u;                               // (N, K, F), (N, K, F), (P, F), (P, 1 or 3) or null
    int64_t x_stride, y_stride, w_stride;                    // from row to row; components follow each other
    int64_t num_batches;                                     // of x, y, w, u and out, for the same pairs
    int64_t x_batch, y_batch, w_batch, u_batch, out_batch;   // from one to the next, 0 where one serves all
    void* out;
    int32_t kind, wide, threads;
};

// The filters of SchNet: distances (P) go in, filters and their slopes (P, F) come out.
struct FilterSpec {
    int64_t num_pairs;
    const void *distances, *centers, *gammas;  // the constants in the type of the rest, padded with zeros by a vector
    const LayerSpec* layers;                   // two
    void *filters, *slopes;
    double cutoff, cutoff_eps;
    int32_t cutoff_kind, cutoff_order;  // a negative kind: none
    int32_t wide, threads;
};
