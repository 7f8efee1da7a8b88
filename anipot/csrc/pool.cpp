// Threads that wait for work.
//
// Tasks are taken from a counter by whoever is free, the caller included, so a thread that another process keeps off
// its core delays nothing but the task it holds. Who waits spins for a moment and then sleeps: sleeping gives the core
// to a thread of ours that has none, while long spinning would stall for whole time slices of the scheduler.
#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace anipot {

void out_of_memory() { throw std::bad_alloc(); }

namespace {

constexpr auto WORKER_SPIN = std::chrono::microseconds(200), CALLER_SPIN = std::chrono::microseconds(50);

inline void pause() {
#if defined(__SSE2__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Takes denormals as zero in this thread from now on; returns the mode it had.
unsigned long flush_denormals() {
#if defined(__SSE2__)
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040);
    return mode;
#elif defined(__aarch64__)
    unsigned long mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    asm volatile("msr fpcr, %0" : : "r"(mode | 1ul << 24));
    return mode;
#else
    return 0;
#endif
}
void restore_mode(unsigned long mode) {
#if defined(__SSE2__)
    _mm_setcsr((unsigned)mode);
#elif defined(__aarch64__)
    asm volatile("msr fpcr, %0" : : "r"(mode));
#else
    (void)mode;
#endif
}

// Spins until ready() or until the time is over.
template <class F>
bool spin(std::chrono::microseconds limit, F ready) {
    const auto end = std::chrono::steady_clock::now() + limit;
    for (;;) {
        for (int i = 0; i < 32; i++) {
            if (ready()) return true;
            pause();
        }
        if (std::chrono::steady_clock::now() > end) return ready();
    }
}

class Pool {
   public:
    bool run(int threads, long tasks, void (*work)(void*, long, int), void* context) {
        // One job at a time; whoever finds the pool busy (another thread of the program) does its own work alone.
        std::unique_lock<std::mutex> job(busy, std::try_to_lock);
        if (!job.owns_lock()) {
            for (long task = 0; task < tasks; task++) work(context, task, 0);
            return true;
        }
        start(threads - 1);
        for (long first = 0; first < tasks; first += MAX_TASKS)
            batch(threads, first, tasks - first < MAX_TASKS ? tasks - first : MAX_TASKS, work, context);
        return !failed.exchange(false);
    }

    // After a fork only the calling thread exists; what the others held is abandoned.
    static void after_fork();

   private:
    static constexpr long MAX_TASKS = 1 << 20;
    // Job number (22 bits), tasks (21), next task (21): a task is taken by one compare-and-swap, which fails as soon as
    // the job is another one. The other fields of a job are read after that, and not written while tasks are out.
    std::atomic<uint64_t> state{0};
    std::atomic<long> done{0};
    std::atomic<bool> failed{false};
    std::atomic<int> sleeping{0};
    std::atomic<bool> caller_sleeps{false};
    void (*work)(void*, long, int) = nullptr;
    void* context = nullptr;
    long first_task = 0;
    std::atomic<int> allowed{1};
    std::mutex busy, mutex;
    std::condition_variable wake, finished;
    int started = 0;

    static uint64_t pack(uint64_t job, uint64_t tasks, uint64_t next) { return job << 42 | tasks << 21 | next; }
    static uint64_t tasks_of(uint64_t s) { return s >> 21 & 0x1FFFFF; }
    static uint64_t next_of(uint64_t s) { return s & 0x1FFFFF; }

    void start(int workers) {
        while (started < workers) {
            try {
                std::thread(&Pool::serve, this, started + 1).detach();
            } catch (const std::system_error&) {
                return;  // the others do the work
            }
            started++;
        }
    }

    void batch(int threads, long first, long tasks, void (*work_)(void*, long, int), void* context_) {
        work = work_;
        context = context_;
        first_task = first;
        allowed.store(threads, std::memory_order_relaxed);
        done.store(0, std::memory_order_relaxed);
        const uint64_t job = (state.load(std::memory_order_relaxed) >> 42) + 1;
        state.store(pack(job & 0x3FFFFF, tasks, 0), std::memory_order_seq_cst);
        if (sleeping.load(std::memory_order_seq_cst) > 0) {
            std::lock_guard<std::mutex> lock(mutex);
            wake.notify_all();
        }
        take_tasks(0);
        auto all_done = [&] { return done.load() == tasks; };
        if (spin(CALLER_SPIN, all_done)) return;
        std::unique_lock<std::mutex> lock(mutex);
        caller_sleeps.store(true);
        finished.wait(lock, all_done);
        caller_sleeps.store(false);
    }

    // Runs tasks of the present job until none is left to take.
    void take_tasks(int worker) {
        uint64_t seen = state.load(std::memory_order_acquire);
        while (next_of(seen) < tasks_of(seen)) {
            if (worker >= allowed.load(std::memory_order_relaxed)) return;
            if (!state.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel)) continue;
            const long tasks = (long)tasks_of(seen);
            try {
                work(context, first_task + (long)next_of(seen), worker);
            } catch (...) {
                failed.store(true);
            }
            if (done.fetch_add(1) + 1 == tasks && caller_sleeps.load()) {
                std::lock_guard<std::mutex> lock(mutex);
                finished.notify_one();
            }
            seen = state.load(std::memory_order_acquire);
        }
    }

    void serve(int worker) {
        flush_denormals();  // this thread is ours
        auto there_is_work = [&] {
            const uint64_t s = state.load(std::memory_order_seq_cst);
            return next_of(s) < tasks_of(s) && worker < allowed.load(std::memory_order_relaxed);
        };
        for (;;) {
            if (!spin(WORKER_SPIN, there_is_work)) {
                std::unique_lock<std::mutex> lock(mutex);
                sleeping.fetch_add(1, std::memory_order_seq_cst);
                wake.wait(lock, there_is_work);
                sleeping.fetch_sub(1);
            }
            take_tasks(worker);
        }
    }
};

// Never destroyed: its threads may outlive static objects.
Pool* pool = new Pool;
const int registered = pthread_atfork(nullptr, nullptr, Pool::after_fork);

// OpenMP's threads: GOMP_parallel(work, context, threads, flags) is the entry that all compilers' code calls.
typedef void (*Parallel)(void (*)(void*), void*, unsigned, unsigned);
std::atomic<Parallel> team{nullptr};

void Pool::after_fork() {
    pool = new Pool;
    team.store(nullptr);  // OpenMP does not survive a fork
}

struct TeamJob {
    long tasks;
    void (*work)(void*, long, int);
    void* context;
    std::atomic<long> next{0};
    std::atomic<int> workers{0};
    std::atomic<bool> failed{false};

    static void serve(void* job_) {
        TeamJob& job = *(TeamJob*)job_;
        const unsigned long mode = flush_denormals();
        const int worker = job.workers.fetch_add(1);
        for (long task; (task = job.next.fetch_add(1)) < job.tasks;) {
            try {
                job.work(job.context, task, worker);
            } catch (...) {
                job.failed.store(true);
            }
        }
        restore_mode(mode);
    }
};

}  // namespace

bool run_on_team(int threads, long tasks, void (*work)(void*, long, int), void* context) {
    const Parallel parallel = team.load();
    if (!parallel) return run_parallel(threads, tasks, work, context);
    TeamJob job;
    job.tasks = tasks;
    job.work = work;
    job.context = context;
    parallel(TeamJob::serve, &job, (unsigned)threads, 0);  // a team that shrinks loses threads
    return !job.failed.load();
}

void use_team(void* parallel) { team.store((Parallel)parallel); }

bool run_parallel(int threads, long tasks, void (*work)(void*, long, int), void* context) {
    (void)registered;
    return pool->run(threads, tasks, work, context);
}

}  // namespace anipot
