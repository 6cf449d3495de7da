// What a small process forked from a large one does with its copy of the large one's memory.
#pragma once

namespace millrace::runtime {

/// Gives back the large private anonymous mappings of this process (allocations from 128 MiB on),
/// so that its parent need not copy pages before writing to them. What the calling thread stands
/// on, modules' data and shared mappings stay. For a process that has one thread and never uses the
/// heap again; calls only what is allowed in a signal handler. Without /proc nothing happens.
void shed_memory() noexcept;

}  // namespace millrace::runtime
