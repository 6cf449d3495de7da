// Freeing what a dead process owned.
#pragma once

#include "shm/layout.hpp"

namespace millrace::shm {

/// Marks the process dead, if nobody has yet, and frees what it owned: its references to shared
/// objects, its object heap if that is empty (else its objects stay where they are), its memory.
/// Then its entry is free. Whoever notices the death may call it: one process at a time does the
/// work, others return at once, and when that one dies in the middle the next caller goes on.
/// Whoever reads messages of the dead process from memory that it owned does so before.
void reap(ProcessId dead) noexcept;

}  // namespace millrace::shm
