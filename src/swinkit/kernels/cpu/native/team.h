// Threads that run one function together. Not OpenMP: a library of its own pool lives in peace with whatever PyTorch was built with,
// several callers do not wait for each other, and a forked child starts with a new pool instead of waiting for threads it has not.
#pragma once
#include <atomic>

namespace swk {

// Runs work(context, i) for i in [0, threads), the last of them in the calling thread, and returns when all are done. Where a thread
// cannot be had, fewer run: `work` gets their number.
void run_together(int threads, void (*work)(void *context, int index, int threads), void *context);

// Where threads wait for each other. It spins, since the wait is short while all of them compute, and gives its core away when it is not.
class Barrier {
  public:
    static void pause(int spins);  // a moment of waiting, the longer the more spins there were
    void wait(int threads) {
        const int round = round_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
            arrived_.store(0, std::memory_order_relaxed);
            round_.store(round + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; round_.load(std::memory_order_acquire) == round; spins++) pause(spins);
    }

  private:
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int> round_{0};
};

}  // namespace swk
