// CUDA C++ on the host, for tests: the threads of a block are fibers that take turns where they wait for each other.
//
// Blocks run one after the other. The order in which threads run between two barriers is shuffled, so that results that
// depend on a barrier which is not there change with the seed. What CUDA leaves undefined stops the program: collectives
// of a warp without all of its lanes, or different ones at a time, and barriers that not all threads reach.
#pragma once

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static  // blocks run one after the other
#define __restrict__

#define KERNEL(name, Arguments, threads)                                                                    \
    static void name##_body(const Arguments& a);                                                            \
    extern "C" int name##_threads() { return threads; }                                                     \
    extern "C" int name##_size() { return (int)sizeof(Arguments); }                                         \
    extern "C" void name(const void* arguments) { name##_body(*(const Arguments*)arguments); }              \
    static void name##_body(const Arguments& a)
#define DYNAMIC_SHARED(T, name) T* const name = (T*)host::shared

struct dim3 {
    unsigned x, y, z;
};
struct float2 { float x, y; };
struct __align__(16) float4 { float x, y, z, w; };
struct double2 { double x, y; };
struct int2 { int x, y; };

namespace host {

typedef void (*Body)(const void*);
enum State { RUNS, AT_WARP, AT_BLOCK, DONE };
struct Fiber {
    jmp_buf at;
    ucontext_t first;
    bool started;
    State state;
    int parity;
};
struct Slot {
    int what;
    alignas(16) unsigned char value[16];
};

#ifndef HOST_STACK
#define HOST_STACK (64 * 1024)
#endif
static const size_t STACK = HOST_STACK;
static std::vector<Fiber> fibers;
static std::vector<Slot> slots;  // two for each thread
static std::vector<char> stacks, memory;
static unsigned char* shared;
static size_t dynamic_size;
static std::vector<unsigned char> static_shared;  // of programs in PTX; sources have variables
static jmp_buf scheduler;
static Body body;
static const void* arguments;
static int current;

inline void fail(const char* message) {
    fprintf(stderr, "cuda_on_host: %s\n", message);
    abort();
}
inline void run_body() {
    body(arguments);
    fibers[current].state = DONE;
    _longjmp(scheduler, 1);
}
inline void wait(State state) {
    fibers[current].state = state;
    const int self = current;
    if (!_setjmp(fibers[self].at)) _longjmp(scheduler, 1);
}
inline void resume(int i) {
    if (_setjmp(scheduler)) return;
    current = i;
    if (fibers[i].started) _longjmp(fibers[i].at, 1);
    fibers[i].started = true;
    setcontext(&fibers[i].first);
}

}  // namespace host

static struct ThreadIndex {
    struct X {
        operator unsigned() const { return (unsigned)host::current; }
    } x;
} threadIdx;
static dim3 blockIdx, blockDim, gridDim;

namespace host {

// Threads that may go on, after those that wait have been let go where all have come.
inline bool release(int threads) {
    int at_block = 0, done = 0;
    for (int i = 0; i < threads; i++) {
        at_block += fibers[i].state == AT_BLOCK;
        done += fibers[i].state == DONE;
    }
    if (done == threads) return false;
    if (at_block + done == threads) {
        if (done) fail("threads returned before a barrier that others wait at");
        for (int i = 0; i < threads; i++) fibers[i].state = RUNS;
        return true;
    }
    bool any = false;
    for (int w = 0; w < threads; w += 32) {
        int waiting = 0;
        const int end = std::min(threads, w + 32);
        for (int i = w; i < end; i++) {
            waiting += fibers[i].state == AT_WARP;
            any |= fibers[i].state == RUNS;
        }
        if (waiting < 32) {
            if (waiting) fail("a collective of a warp that not all lanes take part in");
            continue;
        }
        for (int i = w; i < end; i++) {
            if (slots[2 * i + fibers[i].parity].what != slots[2 * w + fibers[w].parity].what)
                fail("lanes of a warp wait at different collectives");
            fibers[i].state = RUNS;
        }
        any = true;
    }
    if (!any) fail("threads wait for each other for ever");
    return true;
}

// With the seed 0 warps go on together; else some are slow, so that those that do not wait for them where they have to
// are found out.
inline void run_block(int threads, bool together, std::mt19937& random) {
    std::vector<int> order(threads);
    const unsigned slow = together ? 0 : random();
    for (int i = 0; i < threads; i++) {
        order[i] = i;
        Fiber& f = fibers[i];
        f.started = false;
        f.state = RUNS;
        f.parity = 0;
        getcontext(&f.first);
        f.first.uc_stack.ss_sp = &stacks[i * STACK];
        f.first.uc_stack.ss_size = STACK;
        f.first.uc_link = nullptr;
        makecontext(&f.first, run_body, 0);
    }
    do {
        std::shuffle(order.begin(), order.end(), random);
        const unsigned held = slow ? slow & (random() | random()) : 0;
        for (int i : order)
            while (fibers[i].state == RUNS && !(held >> i / 32 & 1)) resume(i);
    } while (release(threads));
}

inline void collective(int what) {
    Fiber& f = fibers[current];
    f.parity ^= 1;
    slots[2 * current + f.parity].what = what;
    wait(AT_WARP);
}
template <class T>
T exchange(int what, T value, int from) {
    static_assert(sizeof(T) <= 16, "");
    memcpy(slots[2 * current + (fibers[current].parity ^ 1)].value, &value, sizeof(T));
    collective(what);
    const int source = current / 32 * 32 + (from & 31);
    T result;
    memcpy(&result, slots[2 * source + fibers[current].parity].value, sizeof(T));
    return result;
}
inline unsigned ballot(int what, bool value) {
    const int mine = value;
    memcpy(slots[2 * current + (fibers[current].parity ^ 1)].value, &mine, sizeof(int));
    collective(what);
    unsigned bits = 0;
    for (int i = 0; i < 32; i++) {
        const int source = current / 32 * 32 + i;
        int theirs;
        memcpy(&theirs, slots[2 * source + fibers[current].parity].value, sizeof(int));
        bits |= (unsigned)(theirs != 0) << i;
    }
    return bits;
}

}  // namespace host

extern "C" int anipot_host_launch(host::Body body, long long x, long long y, long long z, int threads,
                                  long long shared, const void* arguments, unsigned seed) {
    using namespace host;
    if (threads % 32 || threads < 32 || threads > 1024) fail("blocks must be of whole warps, 1024 threads at most");
    std::mt19937 random(seed);
    fibers.resize(threads);
    slots.resize(2 * threads);
    stacks.resize(threads * STACK);
    memory.resize(shared + 64);
    host::shared = (unsigned char*)(((size_t)memory.data() + 15) / 16 * 16);
    host::dynamic_size = shared;
    host::body = body;
    host::arguments = arguments;
    blockDim = {(unsigned)threads, 1, 1};
    gridDim = {(unsigned)x, (unsigned)y, (unsigned)z};
    for (unsigned k = 0; k < z; k++)
        for (unsigned j = 0; j < y; j++)
            for (unsigned i = 0; i < x; i++) {
                blockIdx = {i, j, k};
                memset(host::shared, 0xff, shared);  // NaN, and -1
                std::fill(static_shared.begin(), static_shared.end(), 0xff);
                run_block(threads, seed == 0, random);
            }
    return 0;
}

inline void __syncthreads() { host::wait(host::AT_BLOCK); }
inline void __syncwarp(unsigned = 0xffffffffu) { host::collective(1); }
template <class T>
T __shfl_sync(unsigned, T x, int from) { return host::exchange(2, x, from); }
template <class T>
T __shfl_xor_sync(unsigned, T x, int mask) { return host::exchange(3, x, (host::current & 31) ^ mask); }
template <class T>
T __shfl_up_sync(unsigned, T x, int by) {
    const int lane = host::current & 31;
    return host::exchange(4, x, lane < by ? lane : lane - by);
}
template <class T>
T __shfl_down_sync(unsigned, T x, int by) {
    const int lane = host::current & 31;
    return host::exchange(5, x, lane + by > 31 ? lane : lane + by);
}
inline unsigned __ballot_sync(unsigned, bool x) { return host::ballot(6, x); }
inline int __any_sync(unsigned, bool x) { return host::ballot(7, x) != 0; }
inline int __all_sync(unsigned, bool x) { return host::ballot(8, x) == 0xffffffffu; }

// Copies that go on while a thread computes: they are made where it waits for them.
namespace host {
struct Copy {
    void* to;
    unsigned char value[16];
    int bytes;
};
static std::vector<std::vector<std::vector<Copy>>> copies;  // groups of each thread; the last is open
inline std::vector<std::vector<Copy>>& groups() {
    if (copies.size() < fibers.size()) copies.resize(fibers.size());
    if (copies[current].empty()) copies[current].emplace_back();
    return copies[current];
}
}  // namespace host
template <int BYTES, class T>
void copy_later(T* to, const T* from, bool there) {
    if ((size_t)to % BYTES || (there && (size_t)from % BYTES)) host::fail("a copy that is not aligned");
    host::Copy copy = {to, {}, BYTES};
    if (there) memcpy(copy.value, from, BYTES);
    host::groups().back().push_back(copy);
    memset((void*)to, 0xff, BYTES);
}
inline void end_copies() { host::groups().emplace_back(); }
template <int PENDING>
void await_copies() {
    auto& groups = host::groups();
    while ((int)groups.size() > PENDING + 1) {
        for (const host::Copy& copy : groups.front()) memcpy(copy.to, copy.value, copy.bytes);
        groups.erase(groups.begin());
    }
}

inline void __threadfence() {}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }

// Threads take turns only where they wait: these are atomic as they are.
template <class T, class U>
T atomicAdd(T* at, U x) { T old = *at; *at = old + (T)x; return old; }
template <class T, class U>
T atomicMax(T* at, U x) { T old = *at; *at = old < (T)x ? (T)x : old; return old; }
template <class T, class U>
T atomicMin(T* at, U x) { T old = *at; *at = old > (T)x ? (T)x : old; return old; }
template <class T, class U>
T atomicOr(T* at, U x) { T old = *at; *at = old | (T)x; return old; }
template <class T, class U>
T atomicExch(T* at, U x) { T old = *at; *at = (T)x; return old; }
template <class T>
T __ldg(const T* at) { return *at; }
inline void sincospi(double x, double* s, double* c) {
    *s = std::sin(M_PI * x);
    *c = std::cos(M_PI * x);
}
inline void sincospif(float x, float* s, float* c) {
    *s = (float)std::sin(M_PI * x);
    *c = (float)std::cos(M_PI * x);
}
using std::min;
using std::max;
