// How a thread that sleeps on a descriptor learns that another thread closes what it waits for: a
// descriptor beside it, one for all sleepers of the process, that close() rings.
//
// A bell rings once, for good. Whoever it wakes without need takes the new one and sleeps again.
//
// Invariants
// 1. Who waits takes the bell first and looks whether it is closed then; who closes says so first
//    and rings then. So a sleeper hears, or does not go to sleep.
// 2. There is a bell only while somebody holds it: a process without sleepers has no descriptor.
// 3. A forked child makes its own: ringing its parent's would wake there.
#pragma once

#include <sys/types.h>

#include <memory>

#include "runtime/base/descriptor.hpp"

namespace millrace::runtime {

class CloseBell {
 public:
  /// The process's bell, which nobody has rung yet. Throws std::system_error (EMFILE).
  static std::shared_ptr<const CloseBell> take();
  /// True when it may still be slept on in this process.
  [[nodiscard]] bool is_current() const noexcept;
  /// Wakes everybody who holds it.
  static void ring() noexcept;

  CloseBell();
  /// Readable once it was rung.
  [[nodiscard]] int fd() const noexcept { return event_.get(); }

 private:
  Descriptor event_;
  pid_t owner_;
};

}  // namespace millrace::runtime
