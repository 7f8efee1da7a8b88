// Products of hidden values and weights. A warp has a tile of columns at a time, and brings the next chunks of their
// weights while it multiplies. Where layers are narrower than all warps, several warps share the sum of the same
// columns.
#pragma once

#include "weights.h"

// sum += input^T (weights of a chunk)
template <bool BACKWARD>
DEVICE void add_chunk(const real* input, const real* stage, Tile& sum) {
    UNROLL for (int unit = 0; unit < UNITS; unit++) {
        Unit w[TILE_ACROSS], x[TILE_DOWN / V];
        if (!BACKWARD)
            UNROLL for (int c = 0; c < TILE_ACROSS; c++) w[c] = load(stage + spot(column_of<false>(c), unit));
        UNROLL for (int v = 0; v < V; v++) {
            const int k = unit * V + v;
            UNROLL for (int r = 0; r < TILE_DOWN; r += V) x[r / V] = load(input + k * ROWS + row_of(r));
            if (BACKWARD)
                UNROLL for (int c = 0; c < TILE_ACROSS; c += V)
                    w[c / V] = load(stage + k * COLUMNS + column_of<true>(c));
            UNROLL for (int r = 0; r < TILE_DOWN; r++)
                UNROLL for (int c = 0; c < TILE_ACROSS; c++)
                    sum[r][c] += x[r / V].v[r % V] * (BACKWARD ? w[c / V].v[c % V] : w[c].v[v]);
        }
    }
}

// Memory that the block's warps have for products.
struct Workspace {
    real* stages;  // (STAGES, STAGE), of this warp
    real* sums;    // (SHARED_TILES, 32 lanes) tiles
    bool split;
};

// The first chunks of a tile are on their way.
template <bool BACKWARD>
DEVICE void begin(const Weights<BACKWARD>& weights, real* stages, int c, int from, int to) {
    __syncwarp();  // the chunks before have been used
    UNROLL for (int s = 0; s < STAGES - 1; s++)
        if (from + s * CHUNK < to) bring(weights, stages + s * STAGE, c, from + s * CHUNK);
        else end_copies();
}

// sum += the product from `from` to `to` along the sum, for the columns from c on, after `begin`.
template <bool BACKWARD>
DEVICE void go_on(const Weights<BACKWARD>& weights, real* stages, int c, int from, int to, const real* input,
                  Tile& sum) {
    int now = 0, next = STAGES - 1;
    for (int k = from; k < to; k += CHUNK, input += CHUNK * ROWS) {
        if (STAGES > 1) await_copies<(STAGES > 1 ? STAGES - 2 : 0)>();
        __syncwarp();  // the chunk has come for all lanes, and none still reads the one before
        const int later = k + (STAGES - 1) * CHUNK;
        if (later < to) bring(weights, stages + next * STAGE, c, later);
        else end_copies();
        if (STAGES == 1) {
            await_copies<0>();
            __syncwarp();
        }
        add_chunk<BACKWARD>(input, stages + now * STAGE, sum);
        now = now + 1 == STAGES ? 0 : now + 1;
        next = next + 1 == STAGES ? 0 : next + 1;
    }
}

// For each tile of COLUMNS columns: start(first column, sum), sum += input^T weights[from:to], finish(first column,
// sum). `before` is called, and then all threads wait for each other, when the first weights are on their way.
template <bool BACKWARD, class Before, class Start, class Finish>
DEVICE void product(const Weights<BACKWARD>& weights, const Workspace& work, int turn, int from, int to,
                    const real* input, Before before, Start start, Finish finish) {
    const int tiles = ((BACKWARD ? weights.n_in : weights.n_out) + COLUMNS - 1) / COLUMNS;
    const int chunks = (to - from + CHUNK - 1) / CHUNK;
    int parts = 1, part = 0, tile = (warp_id() + turn) % WARPS;  // turns, since layers are not of WARPS tiles
    if (work.split && tiles <= WARPS / 2) {
        parts = min(chunks, min((int)WARPS, tiles + SHARED_TILES) / tiles);
        if (parts > 1) {
            tile = warp_id() % tiles;
            part = warp_id() / tiles;
            if (part >= parts) tile = tiles;  // nothing to do
        }
    }
    const int first = from + part * chunks / parts * CHUNK, end = min(to, from + (part + 1) * chunks / parts * CHUNK);
    if (tile < tiles) begin(weights, work.stages, tile * COLUMNS, first, end);
    before();
    __syncthreads();
    Tile sum;
    do {
        const bool there = tile < tiles;
        if (there) {
            if (part == 0) start(tile * COLUMNS, sum);
            else
                UNROLL for (int r = 0; r < TILE_DOWN; r++) UNROLL for (int c = 0; c < TILE_ACROSS; c++) sum[r][c] = 0;
            go_on(weights, work.stages, tile * COLUMNS, first, end, input + (first - from) * ROWS, sum);
        }
        if (parts > 1) {
            const int units = TILE_DOWN * TILE_ACROSS / V;
            real* sums = work.sums + lane_id() * V;
            if (there && part > 0) {
                real* to = sums + ((part - 1) * tiles + tile) * units * 32 * V;
                UNROLL for (int i = 0; i < units; i++) {
                    Unit x;
                    UNROLL for (int v = 0; v < V; v++) x.v[v] = sum[i * V / TILE_ACROSS][i * V % TILE_ACROSS + v];
                    store(to + i * 32 * V, x);
                }
            }
            __syncthreads();
            for (int q = 1; q < parts && part == 0; q++) {
                const real* of = sums + ((q - 1) * tiles + tile) * units * 32 * V;
                UNROLL for (int i = 0; i < units; i++) {
                    const Unit x = load(of + i * 32 * V);
                    UNROLL for (int v = 0; v < V; v++) sum[i * V / TILE_ACROSS][i * V % TILE_ACROSS + v] += x.v[v];
                }
            }
        }
        const int next = parts > 1 ? tiles : tile + WARPS;
        if (next < tiles) begin(weights, work.stages, next * COLUMNS, first, end);
        if (there && part == 0) finish(tile * COLUMNS, sum);
        tile = next;
    } while (tile < tiles);
}
