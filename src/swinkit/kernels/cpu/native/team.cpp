#include "team.h"

#include <pthread.h>

#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace swk {
namespace {

struct Task {
    void (*work)(void *, int, int);
    void *context;
    int threads;
    std::atomic<int> left;
};

// A thread that sleeps until it gets a share of a task.
struct Worker {
    std::mutex lock;
    std::condition_variable wake;
    Task *task = nullptr;
    int index = 0;

    void give(Task *given, int share) {
        std::lock_guard<std::mutex> hold(lock);
        task = given, index = share;
        wake.notify_one();
    }
    void loop();
};

struct Pool {
    std::mutex lock;
    std::vector<Worker *> idle;

    Worker *take() {
        {
            std::lock_guard<std::mutex> hold(lock);
            if (!idle.empty()) {
                Worker *worker = idle.back();
                idle.pop_back();
                return worker;
            }
        }
        Worker *worker = new Worker;
        try {
            std::thread([worker] { worker->loop(); }).detach();
        } catch (const std::system_error &) {
            delete worker;
            return nullptr;
        }
        return worker;
    }
    void give_back(Worker *worker) {
        std::lock_guard<std::mutex> hold(lock);
        idle.push_back(worker);
    }
};

// Never destroyed: workers sleep in it until the process ends.
alignas(Pool) char pool_memory[sizeof(Pool)];

Pool &pool() {
    static Pool *const made = [] {
        Pool *first = new (pool_memory) Pool;
        // A forked child has none of the threads, and perhaps a lock that somebody held.
        pthread_atfork(nullptr, nullptr, [] { new (pool_memory) Pool; });
        return first;
    }();
    return *made;
}

void Worker::loop() {
    for (;;) {
        std::unique_lock<std::mutex> hold(lock);
        wake.wait(hold, [this] { return task != nullptr; });
        Task *mine = task;
        task = nullptr;
        hold.unlock();
        mine->work(mine->context, index, mine->threads);
        pool().give_back(this);  // before the caller may go on and ask for workers again
        mine->left.fetch_sub(1, std::memory_order_acq_rel);
    }
}

}  // namespace

void run_together(int threads, void (*work)(void *, int, int), void *context) {
    std::vector<Worker *> workers;
    workers.reserve(threads);
    while ((int)workers.size() < threads - 1) {
        Worker *worker = pool().take();
        if (!worker) break;
        workers.push_back(worker);
    }
    const int count = (int)workers.size();
    Task task{work, context, count + 1, {count}};
    for (int i = 0; i < count; i++) workers[i]->give(&task, i);
    work(context, count, count + 1);
    for (int spins = 0; task.left.load(std::memory_order_acquire);) Barrier::pause(spins++);
}

void Barrier::pause(int spins) {
    if (spins >= 4096) {
        std::this_thread::yield();
        return;
    }
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace swk
