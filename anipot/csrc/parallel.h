// for-loops over the pool's threads.
#pragma once

#include "pool.h"
#include "simd.h"

namespace ANIPOT_ISA {

using anipot::out_of_memory;

using Runner = bool (*)(int threads, long tasks, void (*work)(void*, long, int), void* context);

template <class F>
void parallel_for(int threads, long tasks, F body, Runner run = anipot::run_parallel) {
    if (tasks <= 0) return;
    if (threads <= 1 || tasks == 1) {
        for (long task = 0; task < tasks; task++) body(task, 0);
        return;
    }
    auto work = [](void* context, long task, int worker) { (*(F*)context)(task, worker); };
    if (!run(threads, tasks, work, &body)) out_of_memory();
}

// The same over ranges of `chunk` items.
template <class F>
void parallel_ranges(int threads, long items, long chunk, F body, Runner run = anipot::run_parallel) {
    parallel_for(
        threads, (items + chunk - 1) / chunk,
        [&](long task, int worker) { body(task * chunk, smaller(items, (task + 1) * chunk), worker); }, run);
}

}  // namespace ANIPOT_ISA
