// Where weights, keys and values lie: anonymous pages, zero and free of charge until somebody touches them.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <utility>

namespace penstock {

constexpr size_t LINE = 64, PAGE = 4096, HUGE_PAGE = size_t{1} << 21;

inline size_t rounded_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

/// Zeroed memory, aligned to a huge page. With huge pages a step over 120 MB of weights misses the TLB
/// 60 times and not 30,000 times; the kernel gives them where transparent huge pages are on.
class Pages {
 public:
  Pages() = default;
  explicit Pages(size_t bytes) : mapped_(rounded_up(bytes, PAGE) + HUGE_PAGE) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    base_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (base_ == MAP_FAILED) {
      base_ = nullptr;
      throw std::bad_alloc();
    }
    madvise(base_, mapped_, MADV_HUGEPAGE);
  }
  Pages(Pages&& other) noexcept { swap(other); }
  Pages& operator=(Pages&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Pages() {
    if (base_ != nullptr) munmap(base_, mapped_);
  }

  template <class T = char>
  T* at(size_t byte = 0) const {
    const auto start = rounded_up(reinterpret_cast<uintptr_t>(base_), HUGE_PAGE);
    return reinterpret_cast<T*>(start + byte);
  }

  bool empty() const { return base_ == nullptr; }

  /// Make `bytes` from `byte` on, whole small pages, zero again and give them back.
  void forget(size_t byte, size_t bytes) { madvise(at(byte), bytes, MADV_DONTNEED); }

 private:
  void swap(Pages& other) {
    std::swap(base_, other.base_);
    std::swap(mapped_, other.mapped_);
  }
  void* base_ = nullptr;
  size_t mapped_ = 0;
};

/// One mapping from which all weights are cut in turn: a mapping each would waste most of a huge page.
class Arena {
 public:
  explicit Arena(size_t bytes) : pages_(bytes), size_(bytes) {}

  template <class T>
  T* take(size_t count) {
    const size_t start = used_;
    used_ += room<T>(count);
    if (used_ > size_) throw std::length_error("more weights than the architecture has");
    return pages_.at<T>(start);
  }
  template <class T>
  static size_t room(size_t count) {
    return rounded_up(count * sizeof(T), LINE);
  }

 private:
  Pages pages_;
  size_t size_, used_ = 0;
};

}  // namespace penstock
