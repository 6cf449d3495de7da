// Freeing what a dead process owned.
//
// A process that begins anew is sent a message, a block of its own which holds references that this
// layer knows nothing of: whoever reaps it has them given back by the function that whoever sends
// such messages has set. What holds for the rest holds for them: killed in the middle, the next
// reaper goes on.
#pragma once

#include "shm/layout.hpp"

namespace millrace::shm {

/// Marks the process dead, if nobody has yet, and frees what it owned: its references to shared
/// objects, its object heap if that is empty (else its objects stay where they are), its memory.
/// Then its entry is free. Whoever notices the death may call it: one process at a time does the
/// work, others return at once, and when that one dies in the middle the next caller goes on.
/// Whoever reads messages of the dead process from memory that it owned does so before.
void reap(ProcessId dead) noexcept;

/// Gives the references of a dead process's message back, those that are left. Called by one
/// process at a time; called again, for the rest, when that one dies.
using SettleMessage = void (*)(ProcessId dead, void* message) noexcept;
/// Before main(), or when a library that brings this layer is loaded.
void set_message_settler(SettleMessage settle) noexcept;

/// Reaps the dead that have left a message and nobody else to reap them: for whoever waits for the
/// end of something that such a message may hold. Costs some nanoseconds where there never was a
/// message, else a look at the table. Does nothing inside a NoReaping.
void reap_messages() noexcept;

/// Before something is called full: asks the kernel about every process and reaps the dead, but for
/// those whose messages a living process has yet to read (ProcessTable::set_heir). Does nothing
/// inside a NoReaping.
void reap_all_dead() noexcept;

/// While one lives, this thread holds a lock that reaping needs.
class NoReaping {
 public:
  NoReaping() noexcept { ++depth_; }
  ~NoReaping() { --depth_; }
  NoReaping(const NoReaping&) = delete;
  NoReaping& operator=(const NoReaping&) = delete;
  static bool here() noexcept { return depth_ != 0; }

 private:
  static inline thread_local constinit int depth_ = 0;
};

}  // namespace millrace::shm
