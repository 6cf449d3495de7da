// What the layer does around fork(), whoever calls it.
#pragma once

#include <sys/types.h>

#include <mutex>

namespace millrace::shm {

/// Registers the handlers, once a process. They
///  - give the child an id of its own and the references to shared objects that its copy of the
///    parent's memory contains, before the parent can drop its own;
///  - hold the layer's process-local locks, so the child does not inherit them taken, nor what
///  lives
///    once in a process half made;
///  - make the child forget the parent's id, object heap and places in slabs.
/// Called as the library is loaded: a fork may come before, or during, its first use. Handlers that
/// call into this layer with locks of their own must be registered after these, so that fork()
/// takes their locks first, as their other threads do.
void install_fork_hooks();

/// After fork(), in the thread that called it: the child is process `pid`.
void name_child(pid_t pid) noexcept;
/// A child that was named has ended and was waited for. One that was killed before it came to take
/// the id that the handlers had made for it would seem to be about to for ever: what it was to hold
/// is dropped.
void child_ended(pid_t pid) noexcept;

/// Held while something that lives once in a process is made: the arena, the list of nodes.
/// Such makings do not nest.
std::mutex& first_use() noexcept;

}  // namespace millrace::shm
