// Threads that wait for work: compiled once, for the baseline, and used by all instruction sets.
#pragma once

namespace anipot {

// Calls work(context, task, worker) for task 0 ... tasks - 1 on at most `threads` threads, this one among them; worker
// is 0 ... threads - 1. Returns false if memory ran out in a task.
bool run_parallel(int threads, long tasks, void (*work)(void*, long, int), void* context);

// The same on the threads of OpenMP, between whose calls torch's stay awake; see anipot_use_team.
bool run_on_team(int threads, long tasks, void (*work)(void*, long, int), void* context);
void use_team(void* parallel);

[[noreturn]] void out_of_memory();

}  // namespace anipot
