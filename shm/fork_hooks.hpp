// What the layer does around fork(), whoever calls it.
#pragma once

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

/// Held while something that lives once in a process is made: the arena, the list of nodes.
/// Such makings do not nest.
std::mutex& first_use() noexcept;

}  // namespace millrace::shm
