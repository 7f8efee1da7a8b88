// How the threads of a block share a product of hidden values and weights, by the rows that it takes (network_plan.py,
// SHAPES). Each warp has COLUMNS columns, and brings CHUNK of their weights along the sum at a time. Lanes stand in a
// grid of LANES_DOWN along the rows and LANES_ACROSS along the columns, and each has a tile of TILE_DOWN rows and
// TILE_ACROSS columns in registers.
#pragma once

#include "units.h"

#if ANIPOT_ROWS == 8
enum { LANES_DOWN = 2, TILE_DOWN = 4, TILE_ACROSS = 4, WARPS = 8, UNITS = 4 };
#elif ANIPOT_ROWS == 16
enum { LANES_DOWN = 4, TILE_DOWN = 4, TILE_ACROSS = 8, WARPS = 8, UNITS = 2 };
#elif ANIPOT_ROWS == 32
enum { LANES_DOWN = 4, TILE_DOWN = 8, TILE_ACROSS = 8, WARPS = 4, UNITS = 4 };
#else
#error "ANIPOT_ROWS is 8, 16 or 32"
#endif
enum {
    ROWS = ANIPOT_ROWS,
    STAGES = ANIPOT_STAGES,  // chunks of weights that a warp has memory for
    THREADS = 32 * WARPS,
    CHUNK = UNITS * V,
    LANES_ACROSS = 32 / LANES_DOWN,
    COLUMNS = LANES_ACROSS * TILE_ACROSS,
    STAGE = COLUMNS * CHUNK,
    SHARED_TILES = WARPS / 2,  // sums that warps can leave for others to add
};
static_assert(ROWS == LANES_DOWN * TILE_DOWN && TILE_DOWN % V == 0 && TILE_ACROSS % V == 0 && COLUMNS == 64, "");

typedef real Tile[TILE_DOWN][TILE_ACROSS];

DEVICE int lane_down() { return lane_id() % LANES_DOWN; }
DEVICE int lane_across() { return lane_id() / LANES_DOWN; }
// Row and column of the elements of a lane's tile.
DEVICE int row_of(int r) { return (lane_down() + LANES_DOWN * (r / V)) * V + r % V; }
template <bool BACKWARD>
DEVICE int column_of(int c) {
    return BACKWARD ? (lane_across() + LANES_ACROSS * (c / V)) * V + c % V : lane_across() + LANES_ACROSS * c;
}
