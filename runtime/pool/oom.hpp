// Did the kernel's out-of-memory killer strike in this process's memory cgroup?
#pragma once

#include <cstdint>
#include <string>

namespace millrace::runtime {

/// Compares the count of kills in the cgroup (v1 memory.oom_control, v2 memory.events) with the one
/// seen before.
class OomWatch {
 public:
  OomWatch();
  /// True when the count has risen since the last call (or since construction).
  [[nodiscard]] bool struck();

 private:
  [[nodiscard]] std::uint64_t count() const;

  std::string file_;
  std::uint64_t seen_ = 0;
};

}  // namespace millrace::runtime
