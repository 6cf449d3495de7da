// What the layer does around fork(), whoever calls it.
#pragma once

namespace millrace::shm {

/// Registers the handlers, once a process. They
///  - give the child an id of its own and the references to shared objects that its copy of the
///    parent's memory contains, before the parent can drop its own;
///  - hold the layer's process-local locks, so the child does not inherit them taken;
///  - make the child forget the parent's id, object heap and places in slabs.
void install_fork_hooks();

}  // namespace millrace::shm
