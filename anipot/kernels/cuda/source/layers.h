// The layers of one network for the rows of a block: forward to the energies, and backward to the gradient of the
// features. Hidden values stand in shared memory, as (values of a layer, ROWS).
#pragma once

#include "activations.h"
#include "networks_arguments.h"
#include "products.h"

DEVICE int up_to(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// Features first ... first + length - 1 of the rows of a task to (length, ROWS) in shared memory, with zeros below and
// beside them, up to whole chunks.
DEVICE void bring_features(const NetworksArguments& a, const real* features, int rows, int first, int length,
                           real* to) {
    const int groups = ROWS / V, units = up_to(length, CHUNK) / V;
    for (int i = threadIdx.x; i < groups * units; i += THREADS) {
        const int r = i % groups * V, k = i / groups * V;
        Unit in[V], out;
        UNROLL for (int j = 0; j < V; j++) {
            const real* from = features + (r + j) * a.width + first + k;
            if (a.vectors && r + j < rows && k < length) in[j] = load(from);
            else
                UNROLL for (int v = 0; v < V; v++) in[j].v[v] = r + j < rows && k + v < length ? from[v] : (real)0;
        }
        UNROLL for (int v = 0; v < V; v++) {
            UNROLL for (int j = 0; j < V; j++) out.v[j] = in[j].v[v];
            store(to + (k + v) * ROWS + r, out);
        }
    }
}

// Layer l of the network forward; the features come in as many pieces as shared memory needs.
DEVICE void forward(const NetworksArguments& a, const Layer& layer, bool first_layer, const int* columns,
                    const real* features, int rows, real* hidden, const Workspace& work, int turn) {
    const int n_in = first_layer ? (int)a.width : (int)layer.n_in, n_out = (int)layer.n_out;
    const Weights<false> weights = {layer.weight, layer.n_in, n_in, n_out, columns, layer.vectors != 0};
    real *input = hidden + layer.input * ROWS, *value = hidden + layer.value * ROWS;
    const int room = first_layer ? ((int)a.hidden - (int)layer.input) / CHUNK * CHUNK : up_to(n_in, CHUNK);
    const int pieces = (n_in + room - 1) / room, length = up_to((n_in + pieces - 1) / pieces, CHUNK);
    for (int from = 0; from < n_in; from += length) {
        const int to = min(n_in, from + length);
        product(
            weights, work, turn, from, to, input,
            [&] {
                if (!first_layer) return;
                if (from) __syncthreads();  // the piece before has been used
                bring_features(a, features, rows, from, to - from, input);
            },
            [&](int at, Tile& sum) {
                UNROLL for (int c = 0; c < TILE_ACROSS; c++) {
                    const int n = at + column_of<false>(c);
                    if (from == 0) {
                        const real bias = layer.bias && n < n_out ? layer.bias[n] : (real)0;
                        UNROLL for (int r = 0; r < TILE_DOWN; r++) sum[r][c] = bias;
                    } else
                        UNROLL for (int r = 0; r < TILE_DOWN; r++)
                            sum[r][c] = n < n_out ? value[n * ROWS + row_of(r)] : (real)0;
                }
            },
            [&](int at, Tile& sum) {
                const int end = up_to(n_out, CHUNK);  // what is beyond n_out meets weights of zero, and is a number
                UNROLL for (int c = 0; c < TILE_ACROSS; c++) {
                    const int n = at + column_of<false>(c);
                    if (n < end)
                        UNROLL for (int r = 0; r < TILE_DOWN; r += V) {
                            Unit x;
                            UNROLL for (int v = 0; v < V; v++) x.v[v] = sum[r + v][c];
                            store(value + n * ROWS + row_of(r), x);
                        }
                }
                if (to < n_in) return;
                // Not on registers, so that the code of the activations is there once.
                _Pragma("unroll 1") for (int c = 0; c < TILE_ACROSS; c++) {
                    const int n = at + column_of<false>(c);
                    _Pragma("unroll 1") for (int r = 0; r < TILE_DOWN && n < end; r += V) {
                        const int spot = n * ROWS + row_of(r);
                        Unit y, d;
                        activate((int)layer.activation, (real)layer.parameter, load(value + spot), y, d);
                        store(value + spot, y);
                        if (layer.slope != layer.value) store(hidden + layer.slope * ROWS + spot, d);
                    }
                }
            });
    }
}

// Energies from the values of the last hidden layer; and in the place of slopes dE/dz of that layer, and the slopes of
// all those before.
DEVICE void turn_around(const Layer* layers, int num_layers, bool gradient, real seed, real* hidden, real* partial) {
    const Layer &top = layers[num_layers - 1], &last = layers[num_layers - 2];
    const int row = threadIdx.x % ROWS;
    const bool from_value = last.slope == last.value;
    real energy = 0;
    for (int n = threadIdx.x / ROWS; n < last.n_out; n += THREADS / ROWS) {
        const real w = top.weight[n];
        const real y = hidden[(last.value + n) * ROWS + row];
        real* slope = hidden + (last.slope + n) * ROWS + row;
        energy += w * y;
        if (gradient)
            *slope = (from_value ? slope_of((int)last.activation, (real)last.parameter, y) : *slope) * w * seed;
    }
    partial[threadIdx.x] = energy;
    for (int l = 0; l < num_layers - 2 && gradient; l++) {
        const Layer& layer = layers[l];
        if (layer.slope != layer.value) continue;
        real* y = hidden + layer.value * ROWS;
        for (int i = threadIdx.x * V; i < layer.n_out * ROWS; i += THREADS * V) {
            Unit x = load(y + i);
            UNROLL for (int v = 0; v < V; v++) x.v[v] = slope_of((int)layer.activation, (real)layer.parameter, x.v[v]);
            store(y + i, x);
        }
    }
}

// From dE/dz of a layer to that of the one before, or, from the first layer, to the gradient of the features.
DEVICE void backward(const NetworksArguments& a, const Layer& layer, real* before, const int* columns, int rows,
                     real* gradients, bool add, real* hidden, const Workspace& work, int turn) {
    const int n_in = before ? (int)layer.n_in : (int)a.width;
    const Weights<true> weights = {layer.weight, layer.n_in, n_in, (int)layer.n_out, columns, layer.vectors != 0};
    product(
        weights, work, turn, 0, (int)layer.n_out, hidden + layer.slope * ROWS, [] {},
        [&](int, Tile& sum) {
            UNROLL for (int r = 0; r < TILE_DOWN; r++) UNROLL for (int c = 0; c < TILE_ACROSS; c++) sum[r][c] = 0;
        },
        [&](int at, Tile& sum) {
            if (before) {
                UNROLL for (int c = 0; c < TILE_ACROSS; c++) {
                    const int k = at + column_of<true>(c);
                    if (k < n_in)
                        UNROLL for (int r = 0; r < TILE_DOWN; r += V) {
                            Unit x = load(before + k * ROWS + row_of(r));
                            UNROLL for (int v = 0; v < V; v++) x.v[v] *= sum[r + v][c];
                            store(before + k * ROWS + row_of(r), x);
                        }
                }
                return;
            }
            UNROLL for (int r = 0; r < TILE_DOWN; r++)
                UNROLL for (int c = 0; c < TILE_ACROSS; c += V) {
                    const int k = at + column_of<true>(c);
                    real* to = gradients + row_of(r) * a.width + k;
                    Unit x;
                    UNROLL for (int v = 0; v < V; v++) x.v[v] = sum[r][c + v];
                    if (a.vectors && k < n_in && row_of(r) < rows) {
                        const Unit old = add ? load(to) : Unit{};
                        UNROLL for (int v = 0; v < V; v++) x.v[v] += old.v[v];
                        store(to, x);
                    } else if (row_of(r) < rows)
                        UNROLL for (int v = 0; v < V; v++)
                            if (k + v < n_in) to[v] = add ? to[v] + x.v[v] : x.v[v];
                }
        });
}
