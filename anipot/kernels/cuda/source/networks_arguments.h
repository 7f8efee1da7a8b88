// What the kernel of networks takes (networks.py has the same).
#pragma once

#include "common.h"

// A dense layer and where its values stand in shared memory, in rows of ROWS numbers.
struct Layer {
    const real *weight, *bias;  // (n_out, n_in), (n_out) or null
    i64 n_in, n_out;
    i64 activation;
    double parameter;
    i64 input, value;  // rows of shared memory
    i64 slope;         // of the derivative of the activation; as `value`: to be had from the value
    i64 vectors;       // rows of the weight, in the order of the input, are whole units
};

struct NetworksArguments {
    const Layer* layers;
    const int* first_layer;  // (members * elements + 1), member-major
    const int* tasks;        // element, first row, number of rows, group
    const int* columns;      // of the first weights, for each feature
    const real* features;    // (rows, width)
    double* energies;        // (members, rows)
    real* gradients;         // (groups, rows, width) or null
    i64 rows, width, elements, members, groups;
    i64 hidden;   // rows of shared memory for hidden values and features
    i64 deepest;  // largest number of layers
    i64 split;    // there is memory for sums that warps share
    i64 vectors;  // rows of features and gradients are whole units
    double seed;
};
