// Aligned memory: owned buffers for weights and scratch, and an arena that hands out pieces of one.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define SWK_FENCE(from, bytes) ASAN_POISON_MEMORY_REGION(from, bytes)
#define SWK_OPEN(from, bytes) ASAN_UNPOISON_MEMORY_REGION(from, bytes)
#else
#define SWK_FENCE(from, bytes) ((void)0)
#define SWK_OPEN(from, bytes) ((void)0)
#endif

namespace swk {

constexpr size_t ALIGNMENT = 64;  // a cache line, and the largest vector

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
        SWK_OPEN(base + start, bytes);
        SWK_FENCE(base + start + bytes, used - start - bytes);
        return reinterpret_cast<T *>(base + start);
    }

  private:
    // Without a stagger, panels of many sizes would start at the same cache set.
    static constexpr size_t STAGGER = ALIGNMENT;
};

}  // namespace swk
