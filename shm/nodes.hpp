// Memory nodes as the kernel numbers them, and the policies set on ranges of the arena.
#pragma once

#include <cstddef>
#include <cstdint>
#include <millrace/placement.hpp>
#include <vector>

namespace millrace::shm {

/// The nodes with memory that this process may use, ascending; {0} where the kernel has no NUMA.
const std::vector<int>& memory_nodes();

/// Replaces what memory_nodes() found, before the arena is used; policies are then set even when
/// there is one node only.
void set_memory_nodes(std::vector<int> nodes);

/// True when policies have an effect: more than one node, or set_memory_nodes() was called.
bool placement_matters();

/// Throws ValueError naming the node when `placement` asks for one that is not there, and
/// std::system_error (ENOMEM) when `bytes` do not fit on it.
void check_placement(const Placement& placement, std::size_t bytes);

/// Sets the policy of a range of the arena for pages not yet touched. Throws std::system_error.
void set_policy(void* start, std::size_t bytes, const Placement& placement);

}  // namespace millrace::shm
