// Scratch of finished work, for the next: fresh memory costs more than most of what is computed in it, since the system clears each page.
#pragma once
#include <mutex>
#include <utility>
#include <vector>

#include "memory.h"

namespace swk {

class Spares {
  public:
    // Holds anything. Throws std::bad_alloc.
    Buffer take(size_t bytes) {
        {
            // Not waited for: in a forked child somebody may have held it who is not there.
            std::unique_lock<std::mutex> hold(lock_, std::try_to_lock);
            if (!hold) return opened(Buffer(bytes, true));
            for (Buffer &spare : buffers_)
                if (spare.bytes() >= bytes) {
                    std::swap(spare, buffers_.back());
                    Buffer taken = std::move(buffers_.back());
                    buffers_.pop_back();
                    return opened(std::move(taken));
                }
            buffers_.clear();  // too small for what is asked for now
        }
        return opened(Buffer(bytes, true));
    }
    void give(Buffer &&buffer) {
        std::unique_lock<std::mutex> hold(lock_, std::try_to_lock);
        if (hold && buffers_.size() < MOST && buffer.bytes() <= LARGEST) buffers_.push_back(std::move(buffer));
    }

  private:
    // A build for tests fills scratch with NaN, so that nothing can rely on what it holds.
    static Buffer opened(Buffer buffer) {
        open_and_fence(buffer.as<char>(), buffer.bytes(), 0);
#ifdef SWK_POISON
        std::memset(buffer.as<char>(), 0xff, buffer.bytes());
#endif
        return buffer;
    }
    static constexpr size_t MOST = 4, LARGEST = (size_t)256 << 20;
    std::mutex lock_;
    std::vector<Buffer> buffers_;
};

}  // namespace swk
