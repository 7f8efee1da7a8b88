// Networks of all elements and members: energies of atoms, and their gradients with respect to the features, in one
// launch.
//
// A block takes up to ROWS rows (atoms of one element) forward and backward through the network of one member after the
// other (layers.h). Hidden values stay in shared memory; weights are read where torch keeps them.
#include "layers.h"

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
