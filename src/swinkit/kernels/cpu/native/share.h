// Work that threads take from a common heap: those of the caller's OpenMP if it gives them, the library's own otherwise.
#pragma once
#include <atomic>

#include "kernels.h"
#include "spares.h"
#include "team.h"

namespace swk {

// Runs work(context) in so many threads and returns when all are done, as OpenMP's GOMP_parallel does.
using Parallel = void (*)(void (*work)(void *), void *context, unsigned threads, unsigned flags);

struct Crew {
    int threads;
    Parallel parallel;  // or null
};

// The memory of one call: pieces for all threads, then some for each of them, which start on pages of their own.
class Workspace {
  public:
    // lay_out(arena) takes the common pieces; it is called twice, to measure and to lay out.
    template <class LayOut> Workspace(int threads, size_t each, LayOut lay_out) : each_((each + 4095) / 4096 * 4096 + 2 * ALIGNMENT) {
        Arena measured;
        lay_out(measured);
        buffer_ = spares().take(measured.used + each_ * threads);
        Arena arena{buffer_.as<char>()};
        lay_out(arena);
        own_ = arena.base + arena.used;
    }
    ~Workspace() { spares().give(std::move(buffer_)); }
    char *of(int thread) const { return own_ + each_ * thread; }

  private:
    static Spares &spares() {
        static Spares *const all = new Spares;  // never destroyed: a thread may be at work when the process ends
        return *all;
    }
    size_t each_;
    Buffer buffer_;
    char *own_;
};

// work(task, scratch) for each task, whichever thread comes first; each thread has its own part of the workspace.
template <class Work> struct Shared {
    const Work &work;
    long tasks;
    const Workspace &space;
    std::atomic<long> next{0};
    std::atomic<int> thread{0};

    void go() {
        char *const own = space.of(thread.fetch_add(1, std::memory_order_relaxed));
        for (long i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) work(i, own);
    }
};

template <class Work> void share(const Crew &crew, long tasks, const Workspace &space, const Work &work) {
    const int threads = (int)(crew.threads < tasks ? crew.threads : tasks);
    Shared<Work> shared{work, tasks, space};
    if (threads <= 1) shared.go();
    else if (crew.parallel) crew.parallel([](void *it) { static_cast<Shared<Work> *>(it)->go(); }, &shared, (unsigned)threads, 0);
    else run_together(threads, [](void *it, int, int) { static_cast<Shared<Work> *>(it)->go(); }, &shared);
}

// A call of the C interface. Nothing may be thrown through it; all that can be thrown here is a lack of memory.
template <class Job> int call(int isa, int dtype, const Job &job, bool fits, void (*work)(const Kernels &, const Job &)) {
    const Kernels *known = dtype == SWK_INT8 ? nullptr : kernels(isa, dtype);
    if (!known || !fits) return SWK_BAD_ARGUMENT;
    try {
        work(*known, job);
    } catch (...) {
        return SWK_NO_MEMORY;
    }
    return SWK_OK;
}

}  // namespace swk
