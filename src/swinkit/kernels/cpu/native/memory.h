// Aligned memory: owned buffers for weights and scratch, and an arena that hands out pieces of one.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>

#include <mutex>
#endif

namespace swk {

constexpr size_t ALIGNMENT = 64;  // a cache line, and the largest vector

// For AddressSanitizer: `bytes` at `from` may be used, and the `fence` bytes behind them may not. One at a time, because threads that
// share a piece lay it out alike at the same moment, and the sanitizer's own record of it is not atomic.
inline void open_and_fence([[maybe_unused]] char *from, [[maybe_unused]] size_t bytes, [[maybe_unused]] size_t fence) {
#if defined(__SANITIZE_ADDRESS__)
    static std::mutex lock;
    std::lock_guard<std::mutex> hold(lock);
    ASAN_UNPOISON_MEMORY_REGION(from, bytes);
    ASAN_POISON_MEMORY_REGION(from + bytes, fence);
#endif
}

class Buffer {
  public:
    Buffer() = default;
    // Zeroed, unless it is to be `filled` by whoever takes it. Throws std::bad_alloc.
    explicit Buffer(size_t bytes, bool filled = false) : bytes_(bytes) {
        if (posix_memalign(&data_, ALIGNMENT, bytes ? bytes : ALIGNMENT)) throw std::bad_alloc();
        if (!filled) std::memset(data_, 0, bytes);
    }
    Buffer(const Buffer &) = delete;
    Buffer(Buffer &&other) noexcept : data_(other.data_), bytes_(other.bytes_) { other.data_ = nullptr, other.bytes_ = 0; }
    Buffer &operator=(Buffer &&other) noexcept {
        void *data = data_;
        size_t bytes = bytes_;
        data_ = other.data_, bytes_ = other.bytes_;
        other.data_ = data, other.bytes_ = bytes;
        return *this;
    }
    ~Buffer() { std::free(data_); }
    template <class T> T *as() const { return static_cast<T *>(data_); }
    size_t bytes() const { return bytes_; }

  private:
    void *data_ = nullptr;
    size_t bytes_ = 0;
};

// Hands out aligned pieces. Without memory behind it, it only counts, so that one function both measures and lays out. A build with
// AddressSanitizer sees the gaps between pieces as fences.
struct Arena {
    char *base = nullptr;
    size_t used = 0;

    template <class T> T *take(size_t count) {
        const size_t bytes = count * sizeof(T), start = used;
        used += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + STAGGER;
        if (!base) return nullptr;
        open_and_fence(base + start, bytes, used - start - bytes);
        return reinterpret_cast<T *>(base + start);
    }

  private:
    // Without a stagger, panels of many sizes would start at the same cache set.
    static constexpr size_t STAGGER = ALIGNMENT;
};

}  // namespace swk
