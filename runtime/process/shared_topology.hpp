// The machine's topology on its way to processes of the program that are executed, not forked, as
// hwloc's XML in the arena: the machine is read once a program, which takes milliseconds on a small
// one and seconds on a large one. Who has read it puts it there before it starts a child.
//
// A process that dies while it does so leaves the claim, so nobody else puts it there: whoever
// needs it then reads the machine. At one point the text stays too, as long as the arena. The cpus
// allowed are those of the process that read it; each process takes off what it may not use itself,
// but one that may use more, in a wider cgroup than the reader's, plans without those.
#pragma once

namespace millrace::runtime {

/// Puts it into the arena, if this process has read it and nobody has before. Without room there
/// nothing happens.
void offer_topology() noexcept;

/// In an executed child: sched::Topology::system() takes what is there, or offers what it reads.
void take_offered_topology() noexcept;

}  // namespace millrace::runtime
