// Dense networks as a differentiable operation on given features: energies, their gradients with respect to features
// and weights, and the gradients of the gradient with respect to features. The latter end at z (see below); from there
// on they go through the layers together with those of the energies.
//
// Notation, for a row x0 = features: z[l] = W[l] x[l] + b[l], x[l + 1] = f(z[l]), energy = w x[last] + b[last]. Kept
// between the calls are the z of all hidden layers, each padded to 16, and an order of the rows in which neighbors have
// the same element and the same columns of zeros: only the others are multiplied.
#pragma once

#include "network.h"
#include "parallel.h"

namespace ANIPOT_ISA {

// Layers in the state, and gradients of weights, have room for a multiple of 16 numbers with all instruction sets.
INLINE long in_sixteens(long n) { return (n + 15) / 16 * 16; }

// Columns of features come in chunks; bit i of a mask says that chunk i is not all zero.
struct Chunks {
    long num_features, length;
    explicit Chunks(long n) : num_features(n), length(16 * larger<long>(1, (n + 1023) / 1024)) {}
    int count() const { return (int)((num_features + length - 1) / length); }
    uint64_t all() const { return count() == 64 ? ~0ull : (1ull << count()) - 1; }
    template <class T>
    uint64_t mask(const T* row) const {
        uint64_t mask = 0;
        for (int c = 0; c < count(); c++) {
            const long k1 = smaller(num_features, (c + 1) * length);
            long k = c * length;
            Int<T> any = {};
            for (; k + LANES<T> <= k1; k += LANES<T>) any |= load<T>(row + k) != Vec<T>{};
            bool is = any_lane(any);
            for (; k < k1; k++) is |= row[k] != 0;
            mask |= (uint64_t)is << c;
        }
        return mask;
    }
};

// C (R, V vectors) += A^T B, where A (depth, R) and vector v of row k of B stands at B[v] + k * ldb, of C at C[v].
template <class T, int R, int V>
__attribute__((noinline)) void outer(const T* A, long lda, long depth, const T* const* B, long ldb, T* const* C,
                                     long ldc) {
    Vec<T> sum[R][V];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) sum[r][v] = load<T>(C[v] + r * ldc);
    const T* b[V];
    UNROLL for (int v = 0; v < V; v++) b[v] = B[v];
    for (long k = 0; k < depth; k++, A += lda) {
        Vec<T> w[V];
        UNROLL for (int v = 0; v < V; v++) {
            w[v] = load(b[v]);
            b[v] += ldb;
        }
        UNROLL for (int r = 0; r < R; r++) {
            const Vec<T> a = splat<T>(A[r]);
            UNROLL for (int v = 0; v < V; v++) sum[r][v] += a * w[v];
        }
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) store<T>(C[v] + r * ldc, sum[r][v]);
}
template <class T, int V, int R>
void choose_outer(int rows, const T* A, long lda, long depth, const T* const* B, long ldb, T* const* C, long ldc) {
    if constexpr (R > 0) {
        if (rows == R) return outer<T, R, V>(A, lda, depth, B, ldb, C, ldc);
        choose_outer<T, V, R - 1>(rows, A, lda, depth, B, ldb, C, ldc);
    }
}

// C (n, width) += A^T B; column c of B is column columns[c / LANES] of C, or c.
template <class T>
void add_outer(const T* A, long lda, long depth, long n, const T* B, long ldb, long width, const int* columns, T* C,
               long ldc) {
    constexpr int L = LANES<T>;
    const long tiles = (n + TILE_ROWS - 1) / TILE_ROWS;
    for (long c = 0; c < width; c += 2 * L) {
        const int vectors = c + L < width ? 2 : 1;
        const T* b[2] = {B + c, B + c + L};
        T* to[2];
        for (int v = 0; v < vectors; v++) to[v] = C + (columns ? columns[c / L + v] : c + v * L);
        for (long t = 0; t < tiles; t++) {
            const long o = t * n / tiles, rows = (t + 1) * n / tiles - o;
            T* out[2] = {to[0] + o * ldc, to[vectors - 1] + o * ldc};
            (vectors == 2 ? choose_outer<T, 2, TILE_ROWS> : choose_outer<T, 1, TILE_ROWS>)((int)rows, A + o, lda, depth,
                                                                                           b, ldb, out, ldc);
        }
    }
}

// Where the gradients of one network's weights are summed: of each layer (n_out, whole vectors), then the bias.
template <class T>
struct WeightSums {
    T *weight[MAX_LAYERS], *bias[MAX_LAYERS];
    long ld[MAX_LAYERS];
    Buffer<T> memory;

    void clear(const LayerSpec* specs, int num_layers) {
        long total = 0;
        for (int l = 0; l < num_layers; l++) total += (padded<T>(specs[l].n_in) + 1) * specs[l].n_out + LANES<T>;
        T* p = memory.resize(total);
        memset((void*)p, 0, sizeof(T) * total);
        for (int l = 0; l < num_layers; l++) {
            ld[l] = padded<T>(specs[l].n_in);
            weight[l] = p;
            p += ld[l] * specs[l].n_out;
            bias[l] = p;
            p += padded<T>(specs[l].n_out);
        }
    }
};

// f'(z), f''(z) and f(z) of one vector.
template <class T>
INLINE void activate_twice(int kind, T parameter, Vec<T> x, Vec<T>& y, Vec<T>& d, Vec<T>& dd) {
    const Vec<T> zero = {}, one = splat<T>(1);
    activate<T>(kind, parameter, x, y, d);
    switch (kind) {
        case CELU: dd = x < zero ? d * (1 / parameter) : zero; return;
        case TANH: dd = y * d * (T)-2; return;
        case SILU: {
            const Vec<T> s = one / (vexp(-x) + one);
            dd = s * (one - s) * (x * (one - s * (T)2) + (T)2);
            return;
        }
        case SHIFTED_SOFTPLUS: dd = d * (one - d); return;
        case GAUSSIAN: dd = (x * x * (T)4 - (T)2) * y; return;
        case GELU: dd = vexp(x * x * (T)-0.5) * (T)0.39894228040143267794 * ((T)2 - x * x); return;
        case GELU_TANH: {  // y = x s(v)
            const T a = (T)(2 * 0.79788456080286535588), b = (T)(3 * 0.044715);
            const Vec<T> s = one / (vexp((x + x * x * x * (T)0.044715) * -a) + one);
            const Vec<T> v1 = (x * x * b + one) * a, v2 = x * (2 * a * b), s1 = s * (one - s);
            dd = s1 * v1 * (T)2 + x * s1 * ((one - s * (T)2) * v1 * v1 + v2);
            return;
        }
        default: dd = zero;
    }
}

// The rows that one thread computes together.
template <class T>
class Tile : public Network<T> {
    typedef Network<T> Base;
    using Base::layers;
    using Base::num_layers;

   public:
    WeightSums<T>* sums = nullptr;

    // Lays out the chunks of features in `mask` and the layers of a network for it.
    void prepare(const LayerSpec* specs_, int num_layers_, const Chunks& chunks, uint64_t mask) {
        if (known == specs_ && mask == known_mask) return;
        known = specs_;
        known_mask = mask;
        const long F = chunks.num_features;
        segments.resize(64);
        columns.resize(padded<T>(F) / LANES<T> + 1);
        int n = 0;
        width = 0;
        for (int c = 0; c < chunks.count(); c++) {
            if (!(mask >> c & 1)) continue;
            const int from = (int)(c * chunks.length), length = (int)(smaller(F, from + chunks.length) - from);
            for (int k = 0; k < length; k += LANES<T>) columns[width / LANES<T> + k / LANES<T>] = from + k;
            if (n && segments[n - 1].weight + segments[n - 1].length == from) segments[n - 1].length += length;
            else segments[n++] = {(int)width, from, length};
            width += padded<T>(length);
        }
        num_segments = n;
        whole = F % LANES<T> == 0;
        Base::prepare(specs_, num_layers_, {segments.data, n, columns.data, width, whole});
        hidden = 0;
        for (int l = 0; l + 1 < num_layers; l++) {
            at[l] = hidden * MAX_ROWS;
            hidden += layers[l].width;
        }
        features.resize(width * MAX_ROWS);
        value.resize(hidden * MAX_ROWS);
        slope.resize(hidden * MAX_ROWS);
        curved.resize(hidden * MAX_ROWS);
        for (Buffer<T>& b : flow) b.resize(larger(hidden, width) * MAX_ROWS);
    }

    // The addresses of layers mean something else in the next operation.
    void forget() { known = nullptr; }

    // Row `r` of the input, from a row of all features.
    void gather(int r, const T* row) {
        T* to = &features[r * width];
        if (!whole) memset((void*)to, 0, sizeof(T) * width);
        for (int s = 0; s < num_segments; s++)
            memcpy(to + segments[s].feature, row + segments[s].weight, sizeof(T) * segments[s].length);
    }

    // Energies of the gathered rows; z goes to a row of `state` for each.
    void energies(int rows, T* state, long ld, double* out) {
        const T* input = features.data;
        long depth = width;
        for (int l = 0; l + 1 < num_layers; l++) {
            const Layer<T>& layer = layers[l];
            T* y = flow[l & 1].data;
            Base::forward(layer, rows, input, depth, y, layer.width);
            for (int r = 0; r < rows; r++) {
                T *row = y + r * layer.width, *z = state + r * ld;
                for (long i = 0; i < layer.width; i += LANES<T>) {
                    const Vec<T> sum = load<T>(row + i) + load<T>(layer.bias + i);
                    Vec<T> v, d;
                    activate<T>(layer.activation, layer.parameter, sum, v, d);
                    store<T>(z + i, sum);
                    store<T>(row + i, v);
                }
                for (long k = layer.width; k < in_sixteens(layer.n_out); k++) z[k] = 0;
            }
            state += in_sixteens(layer.n_out);
            input = y;
            depth = layer.width;
        }
        const Layer<T>& top = layers[num_layers - 1];
        for (int r = 0; r < rows; r++) out[r] = (double)Base::dot(top, input + r * depth) + (double)top.bias[0];
    }

    // f(z), f'(z) of row r, and f''(z) if `second`, from its row of the state.
    void recall(int r, const T* state, bool second) {
        for (int l = 0; l + 1 < num_layers; l++) {
            const Layer<T>& layer = layers[l];
            T *row = &slope[at[l] + r * layer.width], *y = &value[at[l] + r * layer.width];
            T* dd = &curved[at[l] + r * layer.width];
            for (long i = 0; i < layer.width; i += LANES<T>) {
                Vec<T> v, d, c = {};
                if (second) activate_twice<T>(layer.activation, layer.parameter, load<T>(state + i), v, d, c);
                else activate<T>(layer.activation, layer.parameter, load<T>(state + i), v, d);
                store<T>(y + i, v);
                store<T>(row + i, d);
                if (second) store<T>(dd + i, c);
            }
            state += in_sixteens(layer.n_out);
        }
    }

    // From dE/denergies of the rows recalled, and dE/dz (a row of `of_state` for each) if that is not null: the
    // gradient of the features, or of the weights, added to `sums`.
    const T* gradient(int rows, const T* seed, const T* of_state, long ld, bool of_weights) {
        const int top = num_layers - 1, h = top - 1;
        T *g = flow[0].data, *next = flow[1].data;
        for (int r = 0; r < rows; r++)
            for (long i = 0, w = layers[h].width; i < w; i += LANES<T>)
                store<T>(g + r * w + i, load<T>(layers[top].weight + i) * load<T>(&slope[at[h] + r * w + i]) * seed[r]);
        add_state(h, rows, of_state, ld, g);
        if (of_weights) add_top(rows, seed, &value[at[h]], true);
        for (int l = h; l > 0; l--) {
            const Layer<T>& layer = layers[l];
            if (of_weights) {
                add_weight(l, g, rows, &value[at[l - 1]]);
                add_bias(l, g, rows);
            }
            multiply<T, MULTIPLY>(rows, g, layer.width, layer.n_out, layer.weight, layer.ld, nullptr, layer.depth, next,
                                  layer.depth, &slope[at[l - 1]], layer.depth);
            add_state(l - 1, rows, of_state, ld, next);
            T* swap = g;
            g = next;
            next = swap;
        }
        if (of_weights) {
            add_weight(0, g, rows, features.data);
            add_bias(0, g, rows);
            return nullptr;
        }
        const Layer<T>& layer = layers[0];
        multiply<T, STORE>(rows, g, layer.width, layer.n_out, layer.weight, layer.ld, layer.columns, layer.depth, next,
                           width, nullptr, 0);
        return next;
    }

    // Of the derivatives of the energies along tangents of the features, which are the gathered rows: their values;
    // what they depend on z directly, to a row of `of_state` for each; and the same of the weights, added to `sums`.
    // How z depends on features and weights is left to `gradient`, together with all else that depends on z.
    void second(int rows, const T* seed, double* tangents, T* of_state, long ld, bool of_weights) {
        const int top = num_layers - 1, h = top - 1;
        const T* input = features.data;
        long depth = width;
        for (int l = 0; l < top; l++) {  // curved <- f'' dz, and flow[2] <- dx
            const Layer<T>& layer = layers[l];
            T *x = &flow[2][at[l]], *d = &slope[at[l]], *dd = &curved[at[l]];
            Base::forward(layer, rows, input, depth, x, layer.width);
            for (long i = 0, size = rows * layer.width; i < size; i += LANES<T>) {
                const Vec<T> dz = load<T>(x + i);
                store<T>(dd + i, load<T>(dd + i) * dz);
                store<T>(x + i, load<T>(d + i) * dz);
            }
            input = x;
            depth = layer.width;
        }
        for (int r = 0; r < rows; r++) tangents[r] = (double)Base::dot(layers[top], input + r * depth);
        T *g = flow[0].data, *next = flow[1].data;
        for (int r = 0; r < rows; r++)
            for (long i = 0, w = layers[h].width; i < w; i += LANES<T>)
                store<T>(g + r * w + i, load<T>(layers[top].weight + i) * seed[r]);
        if (of_weights) add_top(rows, seed, input, false);
        for (int l = h;; l--) {
            const Layer<T>& layer = layers[l];
            turn(l, rows, g, of_state, ld);
            if (of_weights) add_weight(l, g, rows, l ? &flow[2][at[l - 1]] : features.data);
            if (l == 0) return;
            multiply<T, STORE>(rows, g, layer.width, layer.n_out, layer.weight, layer.ld, nullptr, layer.depth, next,
                               layer.depth, nullptr, 0);
            T* swap = g;
            g = next;
            next = swap;
        }
    }

    long num_hidden() const { return hidden; }

    // Of one row of the state: f'(z), and f''(z) dE/df(z) times `seed`, kept for `tangents` and `curve`.
    void curvature(const T* state, T seed) {
        const int top = num_layers - 1, h = top - 1;
        recall(0, state, true);
        T *p = flow[0].data, *next = flow[1].data;
        for (long i = 0; i < layers[h].width; i += LANES<T>) store<T>(p + i, load<T>(layers[top].weight + i) * seed);
        for (int l = h;; l--) {
            const Layer<T>& layer = layers[l];
            for (long i = 0; i < layer.width; i += LANES<T>) {
                T* dd = &curved[at[l] + i];
                store<T>(dd, load<T>(dd) * load<T>(p + i));
                store<T>(p + i, load<T>(&slope[at[l] + i]) * load<T>(p + i));
            }
            if (l == 0) return;
            multiply<T, STORE>(1, p, layer.width, layer.n_out, layer.weight, layer.ld, nullptr, layer.depth, next,
                               layer.depth, nullptr, 0);
            T* swap = p;
            p = next;
            next = swap;
        }
    }
    // The tangents of all z, from the gathered tangents of the features of that row.
    void tangents(int rows, T* Z) {
        const T* input = features.data;
        long depth = width;
        for (int l = 0; l + 1 < num_layers; l++) {
            const Layer<T>& layer = layers[l];
            const T* d = &slope[at[l]];
            T* x = flow[l & 1].data;
            Base::forward(layer, rows, input, depth, Z, hidden);
            for (int r = 0; r < rows; r++)
                for (long i = 0; i < layer.width; i += LANES<T>)
                    store<T>(x + r * layer.width + i, load<T>(Z + r * hidden + i) * load<T>(d + i));
            Z += layer.width;
            input = x;
            depth = layer.width;
        }
    }
    // Multiplies the tangents of all z with the curvature.
    void curve(int rows, const T* Z, T* out) const {
        for (int r = 0; r < rows; r++)
            for (int l = 0; l + 1 < num_layers; l++) {
                const T* c = &curved[at[l]];
                const long from = r * hidden + at[l] / MAX_ROWS;
                for (long i = 0; i < layers[l].width; i += LANES<T>)
                    store<T>(out + from + i, load<T>(Z + from + i) * load<T>(c + i));
            }
    }
    // Y (rows, whole vectors of n) = A B^T, both with rows of all hidden values.
    void products(int rows, const T* A, const T* B, long n, T* Y) {
        Layer<T> all = {};
        all.weight = B;
        all.ld = all.depth = hidden;
        all.n_out = n;
        all.width = padded<T>(n);
        all.copied = true;
        Base::panels.resize(2 * hidden * LANES<T>);
        Base::forward(all, rows, A, hidden, Y, all.width);
    }

    // Row r of a gradient of features to a row of all of them, of which there are n: stored, with zeros in between, or
    // added.
    void scatter(int r, const T* gradient, T* row, long n, bool add) const {
        long done = 0;
        for (int s = 0; s < num_segments; s++) {
            const T* g = gradient + r * width + segments[s].feature;
            const long from = segments[s].weight, length = segments[s].length;
            for (long k = 0; k < length && add; k++) row[from + k] += g[k];
            if (add) continue;
            memset((void*)(row + done), 0, sizeof(T) * (from - done));
            memcpy(row + from, g, sizeof(T) * length);
            done = from + length;
        }
        if (!add) memset((void*)(row + done), 0, sizeof(T) * (n - done));
    }

   private:
    const LayerSpec* known = nullptr;
    uint64_t known_mask = 0;
    Buffer<Segment> segments;
    Buffer<int> columns;
    int num_segments = 0;
    bool whole = false;                          // no padding between segments
    long width = 0, hidden = 0, at[MAX_LAYERS];  // of a row; of all hidden layers; where each layer begins
    Buffer<T> features, value, slope, curved, flow[3];

    // Where layer l begins in a row of the state.
    long in_state(int l) const {
        long at = 0;
        for (int k = 0; k < l; k++) at += in_sixteens(layers[k].n_out);
        return at;
    }
    void add_state(int l, int rows, const T* of_state, long ld, T* g) const {
        if (!of_state) return;
        of_state += in_state(l);
        for (int r = 0; r < rows; r++, of_state += ld, g += layers[l].width)
            for (long i = 0; i < layers[l].width; i += LANES<T>)
                store<T>(g + i, load<T>(g + i) + load<T>(of_state + i));
    }
    // From the gradient of dx to that of dz and, to `of_state`, to that of z.
    void turn(int l, int rows, T* g, T* of_state, long ld) const {
        const long w = layers[l].width;
        of_state += in_state(l);
        for (int r = 0; r < rows; r++, of_state += ld, g += w) {
            const T *d = &slope[at[l] + r * w], *dd = &curved[at[l] + r * w];
            for (long i = 0; i < w; i += LANES<T>) {
                const Vec<T> p = load<T>(g + i);
                store<T>(of_state + i, p * load<T>(dd + i));
                store<T>(g + i, p * load<T>(d + i));
            }
            for (long k = w; k < in_sixteens(layers[l].n_out); k++) of_state[k] = 0;
        }
    }
    void add_weight(int l, const T* g, int rows, const T* x) {
        const Layer<T>& layer = layers[l];
        add_outer<T>(g, layer.width, rows, layer.n_out, x, l ? layer.depth : width, layer.depth,
                     l ? nullptr : columns.data, sums->weight[l], sums->ld[l]);
    }
    void add_bias(int l, const T* g, int rows) {
        const long w = layers[l].width;
        for (long i = 0; i < w; i += LANES<T>) {
            Vec<T> sum = load<T>(sums->bias[l] + i);
            for (int r = 0; r < rows; r++) sum += load<T>(g + r * w + i);
            store<T>(sums->bias[l] + i, sum);
        }
    }
    void add_top(int rows, const T* seed, const T* x, bool bias) {
        const int top = num_layers - 1;
        const long w = layers[top].depth;
        T* to = sums->weight[top];
        for (long i = 0; i < w; i += LANES<T>) {
            Vec<T> sum = load<T>(to + i);
            for (int r = 0; r < rows; r++) sum += load<T>(x + r * w + i) * seed[r];
            store<T>(to + i, sum);
        }
        for (int r = 0; r < rows && bias; r++) sums->bias[top][0] += seed[r];
    }
};

// Memory that a thread which calls operations keeps for the next: new pages cost as much as the products in them.
template <class T>
struct Workers {
    int num_threads = 0, num_ranges = 0, num_species = 0;
    Tile<T>* tiles = nullptr;
    WeightSums<T>* sums = nullptr;
    ~Workers() { release(); }
    void reserve(int threads, int ranges, int species) {
        if (threads > num_threads || ranges > num_ranges || species > num_species) {
            release();
            tiles = new Tile<T>[threads];
            sums = new WeightSums<T>[(long)ranges * species];
            num_threads = threads;
            num_ranges = ranges;
            num_species = species;
        }
        for (int t = 0; t < threads; t++) tiles[t].forget();
    }

   private:
    void release() {
        delete[] tiles;
        delete[] sums;
        tiles = nullptr;
        sums = nullptr;
        num_threads = num_ranges = num_species = 0;
    }
};

template <class T>
class NetworkOperation {
   public:
    NetworkOperation(const HeadSpec& head_, const RowsSpec& spec)
        : head(head_),
          rows(spec),
          chunks(spec.num_features),
          num_threads(larger(1, spec.threads)),
          num_ranges(num_threads == 1 ? 1 : smaller(4 * num_threads, MAX_RANGES)) {
        static thread_local Workers<T> workers;
        workers.reserve(num_threads, num_ranges, head.num_species);
        tiles_of = workers.tiles;
        sums = workers.sums;
        touched.resize(num_ranges * head.num_species);
    }

    void forward(double* energies) {
        sort((const T*)rows.features);
        plan();
        memset((void*)energies, 0, sizeof(double) * head.members * rows.num_rows);
        clear_rest((T*)rows.state);
        each_tile([&](const Part& part, Tile<T>& tile, int) {
            double out[MAX_ROWS];
            const uint64_t mask = mask_of(part);
            for (int m = 0; m < head.members; m++) {
                prepare(tile, m, part, mask);
                if (m == 0)
                    for (int r = 0; r < part.rows; r++) tile.gather(r, feature_row(part.from + r));
                tile.energies(part.rows, state((T*)rows.state, m, part.from), rows.state_width, out);
                for (int r = 0; r < part.rows; r++) energies[m * rows.num_rows + order(part.from + r)] = out[r];
            }
        });
    }

    // From dE/denergies and, if that is not null, dE/dstate.
    void backward(const double* seeds, const T* of_state, T* out) {
        plan();
        each_tile([&](const Part& part, Tile<T>& tile, int) {
            T seed[MAX_ROWS];
            const uint64_t mask = rows.sparse ? mask_of(part) : chunks.all();
            for (int m = 0; m < head.members; m++) {
                prepare(tile, m, part, mask);
                recall(tile, m, part, seeds, seed, false);
                const T* g = tile.gradient(part.rows, seed, state(of_state, m, part.from), rows.state_width, false);
                for (int r = 0; r < part.rows; r++)
                    tile.scatter(r, g, out + order(part.from + r) * rows.num_features, rows.num_features, m > 0);
            }
        });
        clear_ghosts(out);
    }

    // out: where the gradients of weight and bias of all layers go, each with room for a multiple of 16 numbers; null
    // where a layer has no bias
    void weight_gradient(const double* seeds, const T* of_state, void* const* out) {
        plan();
        for (int m = 0; m < head.members; m++) {
            begin_sums();
            each_range([&](const Part& part, Tile<T>& tile, int range) {
                T seed[MAX_ROWS];
                prepare(tile, m, part, mask_of(part));
                tile.sums = sums_of(range, m, part.element);
                for (int r = 0; r < part.rows; r++) tile.gather(r, feature_row(part.from + r));
                recall(tile, m, part, seeds, seed, false);
                tile.gradient(part.rows, seed, state(of_state, m, part.from), rows.state_width, true);
            });
            end_sums(m, out);
        }
    }

    // Of sum(seeds * tangent energies); `weights` may be null. Columns that `backward` left out have no say here.
    void second(const T* tangent, const double* seeds, double* energies, T* of_state, void* const* weights) {
        plan();
        memset((void*)energies, 0, sizeof(double) * head.members * rows.num_rows);
        clear_rest(of_state);
        for (int m = 0; m < head.members; m++) {
            if (weights) begin_sums();
            each_range([&](const Part& part, Tile<T>& tile, int range) {
                T seed[MAX_ROWS];
                double along[MAX_ROWS];
                prepare(tile, m, part, rows.sparse ? mask_of(part) : mask_of(part, tangent));
                if (weights) tile.sums = sums_of(range, m, part.element);
                for (int r = 0; r < part.rows; r++) tile.gather(r, tangent + order(part.from + r) * rows.num_features);
                recall(tile, m, part, seeds, seed, true);
                T* to = state(of_state, m, part.from);
                tile.second(part.rows, seed, along, to, rows.state_width, weights != nullptr);
                for (int r = 0; r < part.rows; r++) energies[m * rows.num_rows + order(part.from + r)] = along[r];
            });
            if (weights) end_sums(m, weights);
        }
    }

   private:
    struct Part {
        long from;
        int rows, element;
    };
    struct Key {
        uint64_t mask;
        int64_t row;
    };
    const HeadSpec& head;
    const RowsSpec& rows;
    Chunks chunks;
    static constexpr int MAX_RANGES = 32;
    int num_threads, num_ranges;
    Tile<T>* tiles_of;
    WeightSums<T>* sums;
    Buffer<int> touched;
    Buffer<Part> parts;
    long num_parts = 0;

    int64_t& order(long r) const { return rows.order[r]; }
    uint64_t mask(long r) const { return (uint64_t)rows.order[rows.num_rows + r]; }
    template <class X>
    X* state(X* all, int m, long r) const {
        return all ? all + (m * rows.num_rows + r) * rows.state_width : nullptr;
    }
    const T* feature_row(long r) const { return (const T*)rows.features + order(r) * rows.num_features; }
    int network_of(int64_t species) const {
        return species >= 0 && species < head.num_species && head.first_layer[species + 1] > head.first_layer[species]
                   ? (int)species
                   : -1;
    }

    static int compare(const void* a_, const void* b_) {
        const Key &a = *(const Key*)a_, &b = *(const Key*)b_;
        if (a.mask != b.mask) return a.mask < b.mask ? -1 : 1;
        return a.row < b.row ? -1 : a.row > b.row;
    }
    // Rows by element, then by mask; ghosts last.
    void sort(const T* matrix) {
        const long N = rows.num_rows;
        const int E = head.num_species;
        Buffer<Key> keys;
        Buffer<long> start;
        keys.resize(N + 1);
        memset((void*)start.resize(E + 2), 0, sizeof(long) * (E + 2));
        auto place = [&](long i) { return network_of(rows.species[i]) < 0 ? E : (int)rows.species[i]; };
        for (long i = 0; i < N; i++) start[place(i) + 1]++;
        for (int e = 0; e <= E; e++) start[e + 1] += start[e];
        for (long i = 0; i < N; i++) keys[start[place(i)]++].row = i;
        for (int e = E + 1; e > 0; e--) start[e] = start[e - 1];
        start[0] = 0;
        parallel_ranges(
            num_threads, start[E], 64,
            [&](long r0, long r1, int) {
                for (long r = r0; r < r1; r++) {
                    const int64_t i = keys[r].row;
                    keys[r].mask = chunks.mask(matrix + i * rows.num_features);
                }
            },
            anipot::run_on_team);
        parallel_for(
            num_threads, E, [&](long e, int) { qsort(&keys[start[e]], start[e + 1] - start[e], sizeof(Key), compare); },
            anipot::run_on_team);
        for (long r = 0; r < N; r++) {
            rows.order[r] = keys[r].row;
            rows.order[N + r] = r < start[E] ? (int64_t)keys[r].mask : 0;
        }
    }
    uint64_t mask_of(const Part& part) const {
        uint64_t all = 0;
        for (int r = 0; r < part.rows; r++) all |= mask(part.from + r);
        return all;
    }

    uint64_t mask_of(const Part& part, const T* matrix) const {
        uint64_t all = 0;
        for (int r = 0; r < part.rows; r++) all |= chunks.mask(matrix + order(part.from + r) * rows.num_features);
        return all;
    }

    // Parts of equal size, at most MAX_ROWS rows of one element.
    void plan() {
        long n = 0;
        while (n < rows.num_rows && network_of(rows.species[order(n)]) >= 0) n++;
        const long share = n / (4 * num_threads) + 1,
                   size = num_threads == 1 ? MAX_ROWS : smaller<long>(MAX_ROWS, larger<long>(share, TILE_ROWS));
        num_parts = 0;
        for (long r = 0; r < n;) {
            const int e = (int)rows.species[order(r)];
            long end = r;
            while (end < n && rows.species[order(end)] == e) end++;
            const long count = (end - r + size - 1) / size, total = end - r;
            parts.grow(num_parts + count, num_parts);
            for (long p = 0; p < count; p++) {
                const long from = r + p * total / count;
                parts[num_parts++] = {from, (int)(r + (p + 1) * total / count - from), e};
            }
            r = end;
        }
    }
    // As each_tile, in ranges with sums of their own: which parts are added up together does not depend on who computes
    // them, so that the result is the same every time.
    template <class F>
    void each_range(F body) {
        parallel_for(
            num_threads, num_ranges,
            [&](long range, int t) {
                for (long p = range * num_parts / num_ranges; p < (range + 1) * num_parts / num_ranges; p++)
                    body(parts[p], tiles_of[t], (int)range);
            },
            anipot::run_on_team);
    }
    template <class F>
    void each_tile(F body) {
        parallel_for(
            num_threads, num_parts, [&](long p, int t) { body(parts[p], tiles_of[t], t); }, anipot::run_on_team);
    }
    void prepare(Tile<T>& tile, int m, const Part& part, uint64_t mask) {
        const int* first = head.first_layer + m * head.num_species + part.element;
        tile.prepare(head.layers + first[0], first[1] - first[0], chunks, mask);
    }
    void recall(Tile<T>& tile, int m, const Part& part, const double* seeds, T* seed, bool second) {
        for (int r = 0; r < part.rows; r++) {
            tile.recall(r, state((const T*)rows.state, m, part.from + r), second);
            seed[r] = (T)seeds[m * rows.num_rows + order(part.from + r)];
        }
    }
    void clear_ghosts(T* out) const {
        for (long i = 0; i < rows.num_rows; i++)
            if (network_of(rows.species[i]) < 0)
                memset((void*)(out + i * rows.num_features), 0, sizeof(T) * rows.num_features);
    }

    // Zeros where nobody writes: behind the layers of small networks, and in rows of ghosts.
    void clear_rest(T* all) const {
        for (int m = 0; m < head.members; m++)
            for (long r = 0; r < rows.num_rows; r++) {
                const int e = network_of(rows.species[order(r)]);
                const long used = e < 0 ? 0 : state_length(m, e);
                memset((void*)(state(all, m, r) + used), 0, sizeof(T) * (rows.state_width - used));
            }
    }
    long state_length(int m, int e) const {
        const int* first = head.first_layer + m * head.num_species + e;
        long length = 0;
        for (int l = first[0]; l + 1 < first[1]; l++) length += in_sixteens(head.layers[l].n_out);
        return length;
    }

    void begin_sums() { memset((void*)touched.data, 0, sizeof(int) * num_ranges * head.num_species); }
    WeightSums<T>* sums_of(int range, int m, int e) {
        const int at = range * head.num_species + e, *first = head.first_layer + m * head.num_species + e;
        if (!touched[at]) sums[at].clear(head.layers + first[0], first[1] - first[0]);
        touched[at] = 1;
        return &sums[at];
    }
    // Sums of all ranges to where they are wanted; zero for networks without rows.
    void end_sums(int m, void* const* out) {
        const int E = head.num_species, *first = head.first_layer + m * E;
        parallel_for(
            num_threads, first[E] - first[0],
            [&](long l_, int) {
                const int l = (int)l_ + first[0];
                int e = 0;
                while (first[e + 1] <= l) e++;
                const LayerSpec& spec = head.layers[l];
                T *weight = (T*)out[2 * l], *bias = (T*)out[2 * l + 1];
                memset((void*)weight, 0, sizeof(T) * in_sixteens((long)spec.n_out * spec.n_in));
                if (bias) memset((void*)bias, 0, sizeof(T) * in_sixteens(spec.n_out));
                for (int r = 0; r < num_ranges; r++) {
                    if (!touched[r * E + e]) continue;
                    const WeightSums<T>& sum = sums[r * E + e];
                    const int k = l - first[e];
                    for (long o = 0; o < spec.n_out; o++)
                        for (long i = 0; i < spec.n_in; i++)
                            weight[o * spec.n_in + i] += sum.weight[k][o * sum.ld[k] + i];
                    for (long o = 0; o < spec.n_out && bias; o++) bias[o] += sum.bias[k][o];
                }
            },
            anipot::run_on_team);
    }
};

}  // namespace ANIPOT_ISA
