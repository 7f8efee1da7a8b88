// Networks of all elements and members: energies of atoms, and their gradients with respect to the features, in one
// launch.
//
// A block takes up to ROWS rows (atoms of one element) forward and backward through the network of one member after the
// other. Hidden values stay in shared memory, as (values of a layer, ROWS). Weights are read where torch keeps them,
// (n_out, n_in): each warp brings those of its COLUMNS columns of a product into memory of its own, CHUNK along the
// sum at a time, the next chunks while it multiplies. Lanes stand in a grid of LANES_DOWN along the rows and LANES_ACROSS
// along the columns, and each has a tile of TILE_DOWN rows and TILE_ACROSS columns in registers.
//
// Where layers are narrower than all warps, several warps share the sum of the same columns.
#include "common.h"

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
    V = 16 / sizeof(real),  // numbers in a unit of 16 bytes
    CHUNK = UNITS * V,
    LANES_ACROSS = 32 / LANES_DOWN,
    COLUMNS = LANES_ACROSS * TILE_ACROSS,
    STAGE = COLUMNS * CHUNK,
    SHARED_TILES = WARPS / 2,  // sums that warps can leave for others to add
};
static_assert(ROWS == LANES_DOWN * TILE_DOWN && TILE_DOWN % V == 0 && TILE_ACROSS % V == 0 && COLUMNS == 64, "");

// A dense layer and where its values stand in shared memory, in rows of ROWS numbers (networks.py has the same).
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

struct __align__(16) Unit {
    real v[V];
};
DEVICE Unit load(const real* at) { return *(const Unit*)at; }
DEVICE void store(real* at, const Unit& x) { *(Unit*)at = x; }
DEVICE int up_to(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// ---- activations: numbers as in csrc/spec.h -------------------------------------------------------------------------

enum { NO_ACTIVATION, CELU, TANH, SILU, SHIFTED_SOFTPLUS, GAUSSIAN, GELU, GELU_TANH };

DEVICE real erfc_of(real x) { return sizeof(real) == 4 ? (real)erfcf((float)x) : (real)erfc((double)x); }

// y = f(x), d = f'(x), for a unit. NaN where x is NaN.
DEVICE void activate(int kind, real p, const Unit& in, Unit& y, Unit& d) {
    const real one = 1;
#define EACH(...) UNROLL for (int i = 0; i < V; i++) { const real x = in.v[i]; __VA_ARGS__ }
    switch (kind) {
        case CELU: {
            const real scale = one / p;
            EACH({
                const real e = exp_of(x * scale);
                y.v[i] = x > 0 ? x : p * (e - one);
                d.v[i] = x > 0 ? one : e;
            })
            return;
        }
        case TANH:
            EACH({
                y.v[i] = one - 2 / (exp_of(2 * x) + one);
                d.v[i] = one - y.v[i] * y.v[i];
            })
            return;
        case SILU:
            EACH({
                const real s = one / (exp_of(-x) + one);
                y.v[i] = x * s;
                d.v[i] = s + x * s * (one - s);
            })
            return;
        case SHIFTED_SOFTPLUS:
            EACH({
                const real e = exp_of(x > 0 ? -x : x);
                y.v[i] = (x > 0 ? x : 0) + log_of(e + one) - (real)0.69314718055994530942;
                d.v[i] = (x > 0 ? one : e) / (e + one);
            })
            return;
        case GAUSSIAN:
            EACH({
                y.v[i] = exp_of(-x * x);
                d.v[i] = -2 * x * y.v[i];
            })
            return;
        case GELU:  // x (1 + erf(x / sqrt(2))) / 2
            EACH({
                const real phi = (real)0.5 * erfc_of(x * (real)-0.70710678118654752440);
                y.v[i] = x * phi;
                d.v[i] = phi + x * exp_of(x * x * (real)-0.5) * (real)0.39894228040143267794;
            })
            return;
        case GELU_TANH:  // x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
            EACH({
                const real a = (real)(2 * 0.79788456080286535588);
                const real s = one / (exp_of(-a * (x + (real)0.044715 * x * x * x)) + one);
                y.v[i] = x * s;
                d.v[i] = s + x * s * (one - s) * a * (one + (real)(3 * 0.044715) * x * x);
            })
            return;
        default:
            EACH({
                y.v[i] = x;
                d.v[i] = one;
            })
    }
#undef EACH
}

// f'(x) from y = f(x), for those activations that have it (networks.py, FROM_VALUE).
DEVICE real slope_of(int kind, real p, real y) {
    switch (kind) {
        case CELU: return y > 0 ? (real)1 : y / p + 1;
        case TANH: return 1 - y * y;
        case SHIFTED_SOFTPLUS: return 1 - (real)0.5 * exp_of(-y);
        default: return 1;
    }
}

// ---- weights --------------------------------------------------------------------------------------------------------

// Copies from global to shared memory that go on while the warp computes; zeros where `there` is false.
#ifndef ANIPOT_HOST
template <int BYTES>
DEVICE void copy_later(real* to, const real* from, bool there) {
#if __CUDA_ARCH__ >= 800
    const unsigned address = (unsigned)__cvta_generic_to_shared(to);
    const int bytes = there ? BYTES : 0;
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(address), "l"(from), "r"(bytes), "n"(BYTES)
                     : "memory");
#else
    UNROLL for (int i = 0; i < BYTES / (int)sizeof(real); i++) to[i] = there ? __ldg(from + i) : (real)0;
#endif
}
DEVICE void end_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// All but the last PENDING groups of copies have come.
template <int PENDING>
DEVICE void await_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}
#endif

// The weights of a product: forward, sums over n_in for n_out columns; backward, sums over n_out for n_in columns.
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

// ---- products -------------------------------------------------------------------------------------------------------

typedef real Tile[TILE_DOWN][TILE_ACROSS];

DEVICE int lane_down() { return lane_id() % LANES_DOWN; }
DEVICE int lane_across() { return lane_id() / LANES_DOWN; }
// Row and column of the elements of a lane's tile.
DEVICE int row_of(int r) { return (lane_down() + LANES_DOWN * (r / V)) * V + r % V; }
template <bool BACKWARD>
DEVICE int column_of(int c) {
    return BACKWARD ? (lane_across() + LANES_ACROSS * (c / V)) * V + c % V : lane_across() + LANES_ACROSS * c;
}

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
                UNROLL for (int c = 0; c < TILE_ACROSS; c += V) w[c / V] = load(stage + k * COLUMNS + column_of<true>(c));
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
DEVICE void go_on(const Weights<BACKWARD>& weights, real* stages, int c, int from, int to, const real* input, Tile& sum) {
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

// For each tile of COLUMNS columns: start(first column, sum), sum += input^T weights[from:to], finish(first column, sum).
// `before` is called, and then all threads wait for each other, when the first weights are on their way.
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

// ---- networks -------------------------------------------------------------------------------------------------------

// Features first ... first + length - 1 of the rows of a task to (length, ROWS) in shared memory, with zeros below and
// beside them, up to whole chunks.
DEVICE void bring_features(const NetworksArguments& a, const real* features, int rows, int first, int length, real* to) {
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
        if (gradient) *slope = (from_value ? slope_of((int)last.activation, (real)last.parameter, y) : *slope) * w * seed;
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

// Registers for two blocks on a multiprocessor, so that one computes while the other waits, where that many have room.
#ifdef ANIPOT_HOST
#define BOUNDS THREADS
#else
#define BOUNDS THREADS, (sizeof(real) == 4 || ROWS == 32 ? 2 : 1)
#endif

KERNEL(networks, NetworksArguments, BOUNDS) {
    DYNAMIC_SHARED(real, hidden);
    real* stages = hidden + a.hidden * ROWS;
    real* partial = stages + WARPS * STAGES * STAGE;
    real* sums = partial + THREADS;
    Layer* layers = (Layer*)(sums + (a.split ? SHARED_TILES * COLUMNS * ROWS : 0));
    int* columns = (int*)(layers + a.deepest);
    const Workspace work = {stages + warp_id() * STAGES * STAGE, sums, a.split != 0};
    const int* task = a.tasks + 4 * (i64)blockIdx.x;
    const int element = task[0], first = task[1], rows = task[2], group = task[3];
    const real* features = a.features + first * a.width;
    real* gradients = a.gradients ? a.gradients + (group * a.rows + first) * a.width : nullptr;
    for (int k = threadIdx.x; k < a.width; k += THREADS) columns[k] = a.columns[k];
    for (int m = group; m < a.members; m += (int)a.groups) {
        const int* ends = a.first_layer + m * a.elements + element;
        const int num_layers = ends[1] - ends[0], size = sizeof(Layer) / sizeof(i64);
        const i64* from = (const i64*)(a.layers + ends[0]);
        __syncthreads();  // the member before is done with
        for (int i = threadIdx.x; i < num_layers * size; i += THREADS) ((i64*)layers)[i] = from[i];
        __syncthreads();
        const int turn = blockIdx.x;
        for (int l = 0; l < num_layers - 1; l++)
            forward(a, layers[l], l == 0, l ? nullptr : columns, features, rows, hidden, work, turn + l);
        __syncthreads();
        turn_around(layers, num_layers, gradients != nullptr, (real)a.seed, hidden, partial);
        __syncthreads();
        if (threadIdx.x < rows) {
            const real* bias = layers[num_layers - 1].bias;
            double energy = bias ? (double)*bias : 0;
            for (int i = threadIdx.x; i < THREADS; i += ROWS) energy += (double)partial[i];
            a.energies[m * a.rows + first + threadIdx.x] = energy;
        }
        for (int l = num_layers - 2; l >= 0 && gradients; l--)
            backward(a, layers[l], l ? hidden + layers[l - 1].slope * ROWS : nullptr, l ? nullptr : columns, rows,
                     gradients, m != group, hidden, work, turn + l);
    }
}
