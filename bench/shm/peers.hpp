// What the rings are compared with: the physical limits and textbook designs, written for this
// comparison.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

#include "shm/parking.hpp"

namespace bench {

/// A flag and a payload in one cache line: nothing between two cpus is faster.
struct alignas(64) OneLine {
  std::atomic<std::uint64_t> flag{0};
  std::uint64_t payload[7]{};
};

/// A ring of slots between two indexes, each side caching the other's: published at every message.
/// The design of Rigtorp's SPSCQueue and of most SPSC rings.
template <class T>
class IndexRing {
 public:
  static constexpr std::size_t bytes_for(std::size_t slots) {
    return sizeof(IndexRing) + slots * sizeof(T);
  }
  explicit IndexRing(std::size_t slots) : mask_(slots - 1) {}
  bool push(const T& value) {
    const std::size_t at = write_.load(std::memory_order_relaxed);
    if (at - read_seen_ > mask_) {
      read_seen_ = read_.load(std::memory_order_acquire);
      if (at - read_seen_ > mask_) return false;
    }
    slots()[at & mask_] = value;
    write_.store(at + 1, std::memory_order_release);
    return true;
  }
  bool pop(T& value) {
    const std::size_t at = read_.load(std::memory_order_relaxed);
    if (at == write_seen_) {
      write_seen_ = write_.load(std::memory_order_acquire);
      if (at == write_seen_) return false;
    }
    value = slots()[at & mask_];
    read_.store(at + 1, std::memory_order_release);
    return true;
  }

 private:
  T* slots() { return reinterpret_cast<T*>(this + 1); }
  std::size_t mask_;
  alignas(64) std::atomic<std::size_t> write_{0};
  alignas(64) std::size_t read_seen_ = 0;
  alignas(64) std::atomic<std::size_t> read_{0};
  alignas(64) std::size_t write_seen_ = 0;
};

/// A byte ring that messages are copied into and out of, as pipes and message passing do.
class CopyRing {
 public:
  static constexpr std::size_t bytes_for(std::size_t capacity) {
    return sizeof(CopyRing) + capacity;
  }
  explicit CopyRing(std::size_t capacity) : capacity_(capacity) {}
  bool push(const void* data, std::size_t bytes) {
    const std::size_t at = write_.load(std::memory_order_relaxed);
    if (at + bytes - read_seen_ > capacity_) {
      read_seen_ = read_.load(std::memory_order_acquire);
      if (at + bytes - read_seen_ > capacity_) return false;
    }
    std::memcpy(place(at), data, bytes);
    write_.store(at + bytes, std::memory_order_release);
    return true;
  }
  bool pop(void* data, std::size_t bytes) {
    const std::size_t at = read_.load(std::memory_order_relaxed);
    if (write_seen_ - at < bytes) {
      write_seen_ = write_.load(std::memory_order_acquire);
      if (write_seen_ - at < bytes) return false;
    }
    std::memcpy(data, place(at), bytes);
    read_.store(at + bytes, std::memory_order_release);
    return true;
  }

 private:
  // Message sizes divide the capacity, so none wraps.
  std::byte* place(std::size_t at) {
    return reinterpret_cast<std::byte*>(this + 1) + (at & (capacity_ - 1));
  }
  std::size_t capacity_;
  alignas(64) std::atomic<std::size_t> write_{0};
  alignas(64) std::size_t read_seen_ = 0;
  alignas(64) std::atomic<std::size_t> read_{0};
  alignas(64) std::size_t write_seen_ = 0;
};

/// Vyukov's bounded queue of many producers and consumers: a sequence number in every slot, claims
/// by compare-and-swap on the two indexes. A process that dies in it blocks it for ever.
class VyukovQueue {
  struct alignas(64) Slot {
    std::atomic<std::uint64_t> turn;
    std::uint64_t value;
  };

 public:
  static constexpr std::size_t bytes_for(std::size_t slots) {
    return sizeof(VyukovQueue) + slots * sizeof(Slot);
  }
  explicit VyukovQueue(std::size_t slots) : mask_(slots - 1) {
    for (std::size_t i = 0; i < slots; ++i) slot(i).turn.store(i, std::memory_order_relaxed);
  }
  bool push(std::uint64_t value) {
    std::uint64_t at = tail_.load(std::memory_order_relaxed);
    for (;;) {
      Slot& s = slot(at);
      const auto ahead = static_cast<std::int64_t>(s.turn.load(std::memory_order_acquire) - at);
      if (ahead < 0) return false;
      if (ahead > 0) {
        at = tail_.load(std::memory_order_relaxed);
      } else if (tail_.compare_exchange_weak(at, at + 1, std::memory_order_relaxed)) {
        s.value = value;
        s.turn.store(at + 1, std::memory_order_release);
        return true;
      }
    }
  }
  bool pop(std::uint64_t& value) {
    std::uint64_t at = head_.load(std::memory_order_relaxed);
    for (;;) {
      Slot& s = slot(at);
      const auto ahead = static_cast<std::int64_t>(s.turn.load(std::memory_order_acquire) - at - 1);
      if (ahead < 0) return false;
      if (ahead > 0) {
        at = head_.load(std::memory_order_relaxed);
      } else if (head_.compare_exchange_weak(at, at + 1, std::memory_order_relaxed)) {
        value = s.value;
        s.turn.store(at + mask_ + 1, std::memory_order_release);
        return true;
      }
    }
  }

 private:
  Slot& slot(std::uint64_t at) { return reinterpret_cast<Slot*>(this + 1)[at & mask_]; }
  std::size_t mask_;
  alignas(64) std::atomic<std::uint64_t> head_{0};
  alignas(64) std::atomic<std::uint64_t> tail_{0};
};

/// Spins until `done()`; pauses between looks, and gives the cpu away once in a while so that a
/// disturbed run ends.
template <class Done>
void spin(Done&& done) {
  for (unsigned looks = 1; !done(); ++looks) {
    millrace::shm::cpu_relax();
    if (looks % 4096 == 0) sched_yield();
  }
}

}  // namespace bench
