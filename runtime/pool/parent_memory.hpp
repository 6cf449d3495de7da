// A worker's direct way to the private memory of its pool's parent, where the kernel permits it.
#pragma once

#include <sys/types.h>

namespace millrace::runtime {

/// In a worker: whose memory read_parent() and write_parent() reach.
void set_parent_memory(pid_t parent) noexcept;

/// In a worker: true when the parent's memory can be read and written; tries it on one word of the
/// parent's, which keeps its value.
bool probe_parent_memory(const void* word) noexcept;

}  // namespace millrace::runtime
