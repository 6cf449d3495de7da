// The deaths view of a test: ids 0 to 63, dead when the test says so.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

namespace millrace::shm {

class FakeTable {
 public:
  [[nodiscard]] bool is_dead(std::uint32_t id) const {
    return dead_[id % dead_.size()].load(std::memory_order_acquire);
  }
  [[nodiscard]] const std::atomic<std::uint64_t>& deaths() const { return deaths_; }
  void check_alive(std::uint32_t id) {
    asked_.store(id, std::memory_order_relaxed);
    if (dying_.load(std::memory_order_acquire) == id) mark_dead(id);
  }

  void mark_dead(std::uint32_t id) {
    if (dead_[id].exchange(true, std::memory_order_acq_rel)) return;
    deaths_.fetch_add(1, std::memory_order_release);
  }
  /// This id is dead, but only who asks learns it.
  void die_unnoticed(std::uint32_t id) { dying_.store(id, std::memory_order_release); }
  [[nodiscard]] std::uint32_t asked() const { return asked_.load(std::memory_order_relaxed); }

 private:
  std::array<std::atomic<bool>, 64> dead_{};
  std::atomic<std::uint64_t> deaths_{0};
  std::atomic<std::uint32_t> asked_{0};
  std::atomic<std::uint32_t> dying_{0};
};

}  // namespace millrace::shm
