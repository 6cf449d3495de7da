// A thread's cpu affinity mask as the kernel has it, of any width.
#pragma once

#include <utility>
#include <vector>

namespace millrace::runtime {

/// The mask of a thread. An empty one stands for "could not be read" and is never applied.
class AffinityMask {
 public:
  AffinityMask() noexcept = default;
  /// From the words() of another process of the program.
  explicit AffinityMask(std::vector<unsigned long> words) noexcept : words_(std::move(words)) {}
  /// The calling thread's.
  static AffinityMask of_this_thread();
  /// The one this program was started with: what taskset, a cpuset or a batch system allows it.
  static const AffinityMask& initial() noexcept;

  [[nodiscard]] const std::vector<unsigned long>& words() const noexcept { return words_; }

  /// Gives it to the calling thread; false when the kernel refuses.
  bool apply() const noexcept;
  /// Applies it unless it equals `current`; true when it was applied.
  [[nodiscard]] bool apply_if_wider(const AffinityMask& current) const noexcept;

  friend bool operator==(const AffinityMask&, const AffinityMask&) = default;

 private:
  std::vector<unsigned long> words_;
};

}  // namespace millrace::runtime
