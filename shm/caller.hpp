// Who calls: process and thread, as locks write it down.
#pragma once

#include <cstdint>

#include "shm/process_table.hpp"

namespace millrace::shm {

struct Caller {
  ProcessId id = 0;
  std::uint32_t thread = 0;  // a number within the process, from 1, never given twice
  std::uint32_t pid = 0;

  /// Process and thread in one word: {pid:32, thread:32}.
  [[nodiscard]] std::uint64_t name() const noexcept {
    return std::uint64_t{pid} << 32U | std::uint64_t{thread};
  }
};

namespace callers {
/// Of this thread, filled in by enter_caller(). In a forked child its id is not self() any more.
extern thread_local constinit Caller current [[gnu::tls_model("initial-exec")]];
}  // namespace callers

/// Fills in the calling thread's Caller. Throws what self() throws.
const Caller& enter_caller();

/// The calling thread if it has asked before, in this process, else null. Costs no call.
inline const Caller* known_caller() noexcept {
  const Caller& caller = callers::current;
  // relaxed: see self()
  const ProcessId id = this_process_id.load(std::memory_order_relaxed);
  return id != 0 && caller.id == id ? &caller : nullptr;
}
/// The calling thread.
inline const Caller& this_caller() {
  const Caller* known = known_caller();
  return known != nullptr ? *known : enter_caller();
}

}  // namespace millrace::shm
