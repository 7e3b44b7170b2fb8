// Aligned memory: owned buffers for weights and scratch, and an arena that hands out pieces of one.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

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

// Hands out aligned pieces. Without memory behind it, it only counts, so that one function both measures and lays out.
struct Arena {
    char *base = nullptr;
    size_t used = 0;

    template <class T> T *take(size_t count) {
        T *piece = base ? reinterpret_cast<T *>(base + used) : nullptr;
        used += (count * sizeof(T) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + STAGGER;
        return piece;
    }

  private:
    // Without a stagger, panels of many sizes would start at the same cache set.
    static constexpr size_t STAGGER = ALIGNMENT;
};

}  // namespace swk
