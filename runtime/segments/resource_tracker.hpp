// The process that unlinks what a dead program leaves in /dev/shm. Python:
// multiprocessing.resource_tracker, C11.
//
// It is started by the first tracked segment of a program, whichever of its processes makes it, and
// outlives all of them. It holds the arena and nothing else: no socket, no pipe, no descriptor but
// stderr. What is to be unlinked is noted in the arena (segment_registry.hpp); that everybody has
// ended is read from the arena's process table, whose living entries it waits for one by one.
//
// Why no exec and no messages: it cannot rely on a second program being installed, and a list in
// shared memory is complete whoever dies, the tracker too: the next one finds all of it. It is made
// by clone() without fork's handlers and afterwards calls only what is allowed in a signal handler,
// so it does not matter which locks other threads hold; it enrols nowhere and holds no object. What
// it does not need of its copy of the program's memory it gives back at once.
//
// What happens when a process dies between any two steps:
//   the starter, before the tracker runs: its claim on `tracker` is taken over by the next creator.
//     After: the tracker runs, and the next creator starts another, since nobody has told of the
//     first. Both unlink the same notes; the second finds nothing.
//   the tracker: the next tracked creation starts a new one and says so on stderr. If there is none
//     before the program ends, segments are left.
//   everybody at once with the tracker (a container's end): segments are left, if /dev/shm is.
// A process of the program that has since called exec() counts as alive until it ends.
#pragma once

namespace millrace::runtime {

/// Starts the program's tracker unless it runs. May wait for another process that is just starting
/// it. Throws std::system_error (EAGAIN, ENOMEM) when the system refuses. Any thread.
void ensure_resource_tracker();

}  // namespace millrace::runtime
