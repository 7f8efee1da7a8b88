// Dense networks of one element and one member: energies of a few atoms at a time and their gradient.
//
// Up to MAX_ROWS rows (atoms) go forward and backward through all layers of a network while its weights sit in the
// second cache; within a layer a few columns of the weights meet all rows before the next ones do. Weights are read
// where torch keeps them, so that they cannot be stale: for the backward product G W they stand in the right order; the
// forward product X W^T is taken as dot products where rows are few, and through a transposed copy of the few columns
// at hand where they are many.
#pragma once

#include "memory.h"
#include "spec.h"

namespace ANIPOT_ISA {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int TILE_ROWS = 12, DOT_ROWS = 6;  // 32 registers
#else
constexpr int TILE_ROWS = 6, DOT_ROWS = 2;  // 16 registers
#endif
// From this many rows on a transposed copy of the weights costs less than the sums over lanes of dot products.
constexpr long COPY_ROWS = 24;
// Rows that go through the layers together.
constexpr int MAX_ROWS = 96;

// ---- products -------------------------------------------------------------------------------------------------------

enum { STORE, MULTIPLY, ADD };

// C (R, V vectors) = A (R, depth) B, where vector v of row k of B stands at B[v] + k * ldb. Then: store; multiply by D,
// which has the shape of C; or add to C.
template <class T, int R, int V, int THEN>
__attribute__((noinline)) void product(const T* A, long lda, long depth, const T* const* B, long ldb, T* C, long ldc,
                                       const T* D, long ldd) {
    constexpr int L = LANES<T>;
    Vec<T> sum[R][V];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) sum[r][v] = Vec<T>{};
    const T* b[V];
    UNROLL for (int v = 0; v < V; v++) b[v] = B[v];
    for (long k = 0; k < depth; k++) {
        Vec<T> w[V];
        UNROLL for (int v = 0; v < V; v++) {
            w[v] = load(b[v]);
            b[v] += ldb;
        }
        UNROLL for (int r = 0; r < R; r++) {
            const Vec<T> a = splat<T>(A[r * lda + k]);
            UNROLL for (int v = 0; v < V; v++) sum[r][v] += a * w[v];
        }
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) {
        T* c = C + r * ldc + v * L;
        if (THEN == STORE) store<T>(c, sum[r][v]);
        if (THEN == MULTIPLY) store<T>(c, sum[r][v] * load<T>(D + r * ldd + v * L));
        if (THEN == ADD) store<T>(c, load<T>(c) + sum[r][v]);
    }
}

template <class T>
using Product = void (*)(const T*, long, long, const T* const*, long, T*, long, const T*, long);

template <class T, int V, int THEN, int R>
struct Choice {
    static Product<T> of(int rows) { return rows == R ? product<T, R, V, THEN> : Choice<T, V, THEN, R - 1>::of(rows); }
};
template <class T, int V, int THEN>
struct Choice<T, V, THEN, 0> {
    static Product<T> of(int) { return nullptr; }
};

// As `product`, for any number of rows, in tiles of equal size, and V vectors of columns.
template <class T, int V, int THEN>
void multiply_columns(int rows, int tile, const T* A, long lda, long depth, const T* const* B, long ldb, T* C, long ldc,
                      const T* D, long ldd) {
    const int tiles = (rows + tile - 1) / tile, size = rows / tiles, larger_ones = rows % tiles;
    constexpr int R = V == 4 ? TILE_ROWS / 2 : TILE_ROWS;
    const Product<T> plain = Choice<T, V, THEN, R>::of(size),
                     larger_ = larger_ones ? Choice<T, V, THEN, R>::of(size + 1) : plain;
    for (int t = 0; t < tiles; t++) {
        (t < larger_ones ? larger_ : plain)(A, lda, depth, B, ldb, C, ldc, D, ldd);
        const int n = size + (t < larger_ones);
        A += n * lda;
        C += n * ldc;
        D += n * ldd;
    }
}

// The same for all `width` columns of C. Column c of C is column `columns[c / LANES]` of B, or c.
template <class T, int THEN>
void multiply(int rows, const T* A, long lda, long depth, const T* B, long ldb, const int* columns, long width, T* C,
              long ldc, const T* D, long ldd) {
    constexpr int L = LANES<T>, NARROW = TILE_ROWS / 2;
    for (long c = 0; c < width;) {
        const long left = (width - c) / L;
        const int vectors = rows <= NARROW && left >= 4 ? 4 : left >= 2 ? 2 : 1;
        const T* at[4];
        for (int v = 0; v < vectors; v++) at[v] = B + (columns ? columns[c / L + v] : c + v * L);
        (vectors == 4   ? multiply_columns<T, 4, THEN>
         : vectors == 2 ? multiply_columns<T, 2, THEN>
                        : multiply_columns<T, 1, THEN>)(rows, vectors == 4 ? NARROW : TILE_ROWS, A, lda, depth, at, ldb,
                                                        C + c, ldc, D + c, ldd);
        c += vectors * L;
    }
}

// Part of a row of features and where it stands in the rows of the first weight.
struct Segment {
    int feature, weight, length;
};

// Rows of W whose dot products are summed at once.
template <class T>
constexpr int DOT_COLUMNS = LANES<T> < 4 ? LANES<T> : 4;

// Dot products of R rows of X with a few rows of W. Their lanes are joined as far as that goes with so few: out[r] is a
// vector with LANES / DOT_COLUMNS parts of each sum.
template <class T, int R>
INLINE void dots(const T* X, long ldx, const Segment* segments, int num_segments, const T* W, long ldw, T* out,
                 long ldo) {
    constexpr int L = LANES<T>, C = DOT_COLUMNS<T>;
    Vec<T> sum[R][C];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++) sum[r][c] = Vec<T>{};
    for (int s = 0; s < num_segments; s++) {
        const T *x = X + segments[s].feature, *w = W + segments[s].weight;
        for (long k = 0; k < segments[s].length; k += L) {
            Vec<T> a[R];
            UNROLL for (int r = 0; r < R; r++) a[r] = load<T>(x + r * ldx + k);
            UNROLL for (int c = 0; c < C; c++) {
                const Vec<T> b = load<T>(w + c * ldw + k);
                __builtin_prefetch(w + (C + c) * ldw + k);
                UNROLL for (int r = 0; r < R; r++) sum[r][c] += a[r] * b;
            }
        }
    }
    UNROLL for (int r = 0; r < R; r++) store<T>(out + r * ldo, Join<T, C / 2, 1>::run(sum[r]));
}

// Y (rows, n_out) = X W^T by dot products; n_out and the lengths of the segments are whole vectors.
template <class T, int R>
__attribute__((noinline)) void dot_products(const T* X, long ldx, const Segment* segments, int num_segments, const T* W,
                                            long ldw, T* Y, long ldy) {
    constexpr int L = LANES<T>, C = DOT_COLUMNS<T>;
    alignas(64) T partial[R * L * L / C];
    for (int c = 0; c < L; c += C)
        dots<T, R>(X, ldx, segments, num_segments, W + c * ldw, ldw, partial + c / C * L, L * L / C);
    for (int r = 0; r < R; r++) {
        Vec<T> lanes[L / C];
        UNROLL for (int l = 0; l < L / C; l++) lanes[l] = load<T>(partial + (r * (L / C) + l) * L);
        store<T>(Y + r * ldy, Join<T, L / 2, C>::run(lanes));
    }
}
template <class T, int R>
void choose_dot_products(int rows, const T* X, long ldx, const Segment* s, int n, const T* W, long ldw, T* Y,
                         long ldy) {
    if constexpr (R > 0) {
        if (rows == R) return dot_products<T, R>(X, ldx, s, n, W, ldw, Y, ldy);
        choose_dot_products<T, R - 1>(rows, X, ldx, s, n, W, ldw, Y, ldy);
    }
}

// ---- activations ----------------------------------------------------------------------------------------------------

// y <- f(x), d <- f'(x) for one vector of numbers.
template <class T>
INLINE void activate_numbers(int kind, T parameter, Vec<T> x, Vec<T>& y, Vec<T>& d) {
    const Vec<T> zero = {}, one = splat<T>(1);
    switch (kind) {
        case CELU: {
            d = vexp(vmin<T>(x, zero) * (1 / parameter));
            y = vmax<T>(x, zero) + (d - one) * parameter;
            return;
        }
        case TANH: {
            y = one - one / (vexp(x * (T)2) + one) * (T)2;
            d = one - y * y;
            return;
        }
        case SILU: {
            const Vec<T> s = one / (vexp(-x) + one);
            y = x * s;
            d = s + y * (one - s);
            return;
        }
        case SHIFTED_SOFTPLUS: {
            const Vec<T> e = vexp(vmin<T>(x, -x));
            y = vmax<T>(x, zero) + vlog(e + one) - (T)0.69314718055994530942;
            d = (x > zero ? one : e) / (e + one);
            return;
        }
        case GAUSSIAN: {
            y = vexp(-x * x);
            d = x * y * (T)-2;
            return;
        }
        case GELU: {  // 0.5 x (1 + erf(x / sqrt(2)))
            Vec<T> phi;
            UNROLL for (int i = 0; i < LANES<T>; i++) phi[i] = (T)(0.5 * erfc(-(double)x[i] * M_SQRT1_2));
            y = x * phi;
            d = phi + x * vexp(x * x * (T)-0.5) * (T)0.39894228040143267794;
            return;
        }
        case GELU_TANH: {  // 0.5 x (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
            const Vec<T> s = one / (vexp((x + x * x * x * (T)0.044715) * (T)(-2 * 0.79788456080286535588)) + one);
            y = x * s;
            d = s + y * (one - s) * (x * x * (T)(3 * 0.044715) + one) * (T)(2 * 0.79788456080286535588);
            return;
        }
        default: y = x; d = one;
    }
}
// The same, and NaN where x is NaN: a fit that has diverged must not look like one that has not.
template <class T>
INLINE void activate(int kind, T parameter, Vec<T> x, Vec<T>& y, Vec<T>& d) {
    activate_numbers<T>(kind, parameter, x, y, d);
    y = x == x ? y : x;
    d = x == x ? d : x;
}
template <class T, int KIND>
void activate_rows(T parameter, const T* bias, long rows, long width, T* y, T* d) {
    for (long r = 0; r < rows; r++)
        for (long i = r * width, k = 0; k < width; i += LANES<T>, k += LANES<T>) {
            Vec<T> value, slope;
            activate<T>(KIND, parameter, load<T>(y + i) + load<T>(bias + k), value, slope);
            store<T>(y + i, value);
            store<T>(d + i, slope);
        }
}
template <class T>
void activate_all(int kind, T parameter, const T* bias, long rows, long width, T* y, T* d) {
    switch (kind) {
        case CELU: return activate_rows<T, CELU>(parameter, bias, rows, width, y, d);
        case TANH: return activate_rows<T, TANH>(parameter, bias, rows, width, y, d);
        case SILU: return activate_rows<T, SILU>(parameter, bias, rows, width, y, d);
        case SHIFTED_SOFTPLUS: return activate_rows<T, SHIFTED_SOFTPLUS>(parameter, bias, rows, width, y, d);
        case GAUSSIAN: return activate_rows<T, GAUSSIAN>(parameter, bias, rows, width, y, d);
        case GELU: return activate_rows<T, GELU>(parameter, bias, rows, width, y, d);
        case GELU_TANH: return activate_rows<T, GELU_TANH>(parameter, bias, rows, width, y, d);
        default: return activate_rows<T, NO_ACTIVATION>(parameter, bias, rows, width, y, d);
    }
}

// ---- networks -------------------------------------------------------------------------------------------------------

// How the features of a row map onto the columns of the first weight.
struct FirstLayer {
    const Segment* segments;
    int num_segments;
    const int* columns;  // column of the weight for each vector of features; only if `whole`
    long width;          // of a row of features
    bool whole;          // all segments are whole vectors and leave no padding in between
};

// One layer as this thread computes with it: torch's own memory, or copies in whole vectors where that has other sizes.
template <class T>
struct Layer {
    const T *weight, *bias;  // (n_out, ld), and (width) padded with zeros
    const int* columns;      // of the weight, for each vector of the input; null: as they stand
    const Segment* segments;
    int num_segments;
    long ld;
    long depth, width;  // n_in and n_out in whole vectors
    long n_out;
    bool copied;  // the weight has whole vectors of columns in the order of the input
    int activation;
    T parameter;
};

constexpr int MAX_LAYERS = 32;

template <class T>
class Network {
   public:
    // Prepares for atoms whose features are laid out as `first` says.
    void prepare(const LayerSpec* specs, int num_layers_, const FirstLayer& first) {
        num_layers = num_layers_;
        long room = 0, widest = 0, slopes = 0, deepest = 0;
        for (int l = 0; l < num_layers; l++) {
            const long n_in = l ? padded<T>(specs[l].n_in) : first.width, n_out = padded<T>(specs[l].n_out);
            room += n_in * n_out + n_out;
            widest = larger(widest, n_out);
            deepest = larger(deepest, n_in);
            slopes += n_out;
        }
        T* copy = copies.resize(room);
        T* d = derivatives.resize(slopes * MAX_ROWS);
        for (int b = 0; b < 2; b++) values[b].resize(widest * MAX_ROWS);
        panels.resize(2 * deepest * LANES<T>);
        for (int l = 0; l < num_layers; l++) {
            set(layers[l], specs[l], l ? nullptr : &first, l, copy);
            slope[l] = d;
            d += layers[l].width * MAX_ROWS;
        }
    }

    // Energies of up to MAX_ROWS atoms; the gradient times `seed` is stored in, or added to, G (rows, ldg) if not null.
    void run(int rows, const T* X, long ldx, double* energies, T seed, T* G, long ldg, bool add) {
        const T* input = X;
        long ld = ldx;
        const int last = num_layers - 1;
        for (int l = 0; l < last; l++) {
            T* out = values[l & 1].data;
            const Layer<T>& layer = layers[l];
            forward(layer, rows, input, ld, out, layer.width);
            activate_all<T>(layer.activation, layer.parameter, layer.bias, rows, layer.width, out, slope[l]);
            input = out;
            ld = layer.width;
        }
        const Layer<T>& top = layers[last];
        for (int r = 0; r < rows; r++) energies[r] = (double)dot(top, input + r * ld) + (double)top.bias[0];
        if (!G) return;
        if (last == 0) return gradient_of_linear(top, rows, seed, G, ldg, add);
        T *g = values[0].data, *next = values[1].data;
        const long width = layers[last - 1].width;
        for (int r = 0; r < rows; r++)
            for (long i = 0; i < width; i += LANES<T>)
                store<T>(g + r * width + i, load<T>(top.weight + i) * load<T>(slope[last - 1] + r * width + i) * seed);
        for (int l = last - 1; l > 0; l--) {
            const Layer<T>& layer = layers[l];
            multiply<T, MULTIPLY>(rows, g, layer.width, layer.n_out, layer.weight, layer.ld, nullptr, layer.depth, next,
                                  layer.depth, slope[l - 1], layer.depth);
            T* swap = g;
            g = next;
            next = swap;
        }
        const Layer<T>& layer = layers[0];
        (add ? multiply<T, ADD> : multiply<T, STORE>)(rows, g, layer.width, layer.n_out, layer.weight, layer.ld,
                                                      layer.columns, layer.depth, G, ldg, G, ldg);
    }

   protected:
    int num_layers = 0;
    Layer<T> layers[MAX_LAYERS];
    Buffer<T> panels;

    // One output: the product with its only row.
    static T dot(const Layer<T>& top, const T* x) {
        Vec<T> sum = {};
        for (long i = 0; i < top.depth; i += LANES<T>) sum += load<T>(x + i) * load<T>(top.weight + i);
        return sum_lanes<T>(sum);
    }
    // Y = X W^T
    void forward(const Layer<T>& layer, int rows, const T* X, long ldx, T* Y, long ldy) {
        constexpr int L = LANES<T>;
        if (layer.copied || layer.n_out % L || rows >= COPY_ROWS) {
            for (long o = 0; o < layer.width; o += 2 * L) {
                const int vectors = o + L < layer.width ? 2 : 1;
                const T* at[2];
                for (int v = 0; v < vectors; v++) {
                    at[v] = &panels[v * L * layer.depth];
                    transpose(layer, o + v * L, (T*)at[v]);
                }
                (vectors == 2 ? multiply_columns<T, 2, STORE> : multiply_columns<T, 1, STORE>)(rows, TILE_ROWS, X, ldx,
                                                                                               layer.depth, at, L,
                                                                                               Y + o, ldy, Y, 0);
            }
            return;
        }
        const int tiles = (rows + DOT_ROWS - 1) / DOT_ROWS;
        for (long o = 0; o < layer.width; o += L)
            for (int t = 0; t < tiles; t++) {
                const int r = t * rows / tiles, n = (t + 1) * rows / tiles - r;
                choose_dot_products<T, DOT_ROWS>(n, X + r * ldx, ldx, layer.segments, layer.num_segments,
                                                 layer.weight + o * layer.ld, layer.ld, Y + r * ldy + o, ldy);
            }
    }

   private:
    T* slope[MAX_LAYERS];
    Segment whole_row[MAX_LAYERS];
    Buffer<T> copies, derivatives, values[2];

    void set(Layer<T>& layer, const LayerSpec& spec, const FirstLayer* first, int l, T*& copy) {
        constexpr int L = LANES<T>;
        layer.weight = (const T*)spec.weight;
        layer.ld = spec.n_in;
        layer.n_out = spec.n_out;
        layer.depth = first ? first->width : padded<T>(spec.n_in);
        layer.width = padded<T>(spec.n_out);
        layer.activation = spec.activation;
        layer.parameter = (T)spec.parameter;
        layer.columns = first ? first->columns : nullptr;
        whole_row[l] = {0, 0, (int)spec.n_in};
        layer.segments = first ? first->segments : &whole_row[l];
        layer.num_segments = first ? first->num_segments : 1;
        layer.bias = (const T*)spec.bias;
        if (!spec.bias || spec.n_out % L) {
            layer.bias = copy;
            for (long i = 0; i < layer.width; i++) copy[i] = spec.bias && i < spec.n_out ? ((const T*)spec.bias)[i] : 0;
            copy += layer.width;
        }
        // The only row of the last layer is copied too if the features are its input: it is read in their order.
        layer.copied = first ? !first->whole || spec.n_out == 1 : spec.n_in % L != 0;
        if (layer.copied) {
            copy_rows(layer, copy);
            layer.weight = copy;
            layer.ld = layer.depth;
            layer.columns = nullptr;
            copy += layer.depth * spec.n_out;
        }
    }

    // W with the columns where the features have them, zeros in between.
    static void copy_rows(const Layer<T>& layer, T* to) {
        memset((void*)to, 0, sizeof(T) * layer.depth * layer.n_out);
        for (long o = 0; o < layer.n_out; o++)
            for (int s = 0; s < layer.num_segments; s++) {
                const Segment& segment = layer.segments[s];
                memcpy(to + o * layer.depth + segment.feature, layer.weight + o * layer.ld + segment.weight,
                       sizeof(T) * segment.length);
            }
    }

    // LANES rows of W from row o on, as columns: (depth, LANES).
    static void transpose(const Layer<T>& layer, long o, T* panel) {
        constexpr int L = LANES<T>;
        const int count = (int)smaller<long>(L, layer.n_out - o);
        long line = 0, row = 0;
        for (long k = 0; k < layer.depth; k += L) {
            const T* from = layer.weight + o * layer.ld + (layer.columns ? layer.columns[k / L] : k);
            if (count < L) {
                for (int i = 0; i < L; i++)
                    for (int j = 0; j < L; j++) panel[(k + i) * L + j] = j < count ? from[j * layer.ld + i] : 0;
                continue;
            }
            Vec<T> v[L];
            UNROLL for (int j = 0; j < L; j++) v[j] = load<T>(from + j * layer.ld);
            // As much of the next rows, line after line: the order in which memory is fast.
            for (int j = 0; j < L; j++) {
                const T* next = layer.weight + (o + L + row) * layer.ld;
                __builtin_prefetch(next + (layer.columns ? layer.columns[line / L] : line));
                if ((line += L) == layer.depth) line = 0, row++;
            }
            transpose_square<1>(v);
            UNROLL for (int i = 0; i < L; i++) store<T>(panel + (k + i) * L, v[i]);
        }
    }
    // Swaps off-diagonal blocks of H, 2 H, 4 H ... lanes.
    template <int H>
    static INLINE void transpose_square(Vec<T>* v) {
        if constexpr (H < LANES<T>) {
            const Int<T> lane = lane_numbers<T>();
            UNROLL for (int i = 0; i < LANES<T>; i++) if (!(i & H)) {
                const Vec<T> a = v[i], b = v[i + H];
#if defined(__clang__)
                UNROLL for (int l = 0; l < LANES<T>; l++) {
                    v[i][l] = l & H ? b[l ^ H] : a[l];
                    v[i + H][l] = l & H ? b[l] : a[l ^ H];
                }
#else
                const Int<T> upper = (lane & H) != 0 ? splat_int<T>(-1) : splat_int<T>(0);
                v[i] = __builtin_shuffle(a, b, upper ? (lane ^ H) + LANES<T> : lane);
                v[i + H] = __builtin_shuffle(a, b, upper ? lane + LANES<T> : lane ^ H);
#endif
            }
            transpose_square<2 * H>(v);
        }
    }

    static void gradient_of_linear(const Layer<T>& top, int rows, T seed, T* G, long ldg, bool add) {
        for (int r = 0; r < rows; r++)
            for (long i = 0; i < top.depth; i += LANES<T>) {
                T* g = G + r * ldg + i;
                store<T>(g, (add ? load<T>(g) : Vec<T>{}) + load<T>(top.weight + i) * seed);
            }
    }
};

}  // namespace ANIPOT_ISA
