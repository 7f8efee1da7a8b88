// Weights of a product, and how a warp brings them from where torch keeps them, (n_out, n_in), into memory of its own.
#pragma once

#include "copies.h"
#include "tiles.h"

// Forward: sums over n_in for n_out columns; backward: sums over n_out for n_in columns.
template <bool BACKWARD>
struct Weights {
    const real* weight;
    i64 ld;
    int n_in, n_out;     // n_in: of those columns of the weight that are used
    const int* columns;  // those; null: as they stand
    bool vectors;
};

// Where unit `unit` of row n of a chunk of the forward product stands: 8 rows in turn have it in different banks.
DEVICE int spot(int n, int unit) { return n * CHUNK + (unit ^ (n / (8 / UNITS)) % UNITS) * V; }

// Brings a chunk that begins at k along the sum for the columns from c on.
template <bool BACKWARD>
DEVICE void bring(const Weights<BACKWARD>& w, real* stage, int c, int k) {
    const int lane = lane_id();
    if (BACKWARD && w.vectors) {
        const int across = lane % (COLUMNS / V), down = lane / (COLUMNS / V), column = c + across * V;
        const bool in = column < w.n_in;
        const real* from = w.weight + (w.columns && in ? w.columns[column] : column) + (k + down) * w.ld;
        UNROLL for (int i = 0; i < CHUNK; i += 32 * V / COLUMNS)
            copy_later<16>(stage + (i + down) * COLUMNS + across * V, from + i * w.ld, in && k + i + down < w.n_out);
    } else if (w.vectors) {
        const int unit = lane % UNITS, down = lane / UNITS, column = k + unit * V;
        const bool in = column < w.n_in;
        const real* from = w.weight + (w.columns && in ? w.columns[column] : column) + (c + down) * w.ld;
        UNROLL for (int i = 0; i < COLUMNS; i += 32 / UNITS)
            copy_later<16>(stage + spot(i + down, unit), from + i * w.ld, in && c + i + down < w.n_out);
    } else {
        const int length = BACKWARD ? COLUMNS : CHUNK;
        for (int i = lane; i < STAGE; i += 32) {
            const int in = i % length, out = i / length;
            const int column = (BACKWARD ? c : k) + in, row = (BACKWARD ? k : c) + out;
            const bool there = column < w.n_in && row < w.n_out;
            const real* from = w.weight + row * w.ld + (w.columns && there ? w.columns[column] : column);
            copy_later<sizeof(real)>(stage + (BACKWARD ? i : spot(out, in / V) + in % V), from, there);
        }
    }
    end_copies();
}
