// The object heap behind mp::shared_allocator: one a process, from which only that process
// allocates.
//
// A heap grows by regions, runs of spans in each of which a Boost.Interprocess best-fit algorithm
// manages the bytes; requests above kDirectBytes get a run of their own. Region and direct run
// begin with a RunHead that names the heap's HeapControl. Invariants
//  1. Only the owner touches a region's bookkeeping, under a mutex of its own. Anybody else gives a
//     block back by pushing it onto the control's list (lock-free, taken whole by the owner).
//  2. Runs are kHeap in the span table: a sweep of their dead owner makes them nobody's.
//  3. allocated - released = blocks that somebody may still use, whoever lives.
// When the owner dies, wherever it was, the heap is frozen: its bookkeeping is never read again,
// its objects stay, and when the last one is given back its regions are freed. Killed in the middle
// of that, a process leaves regions that nobody frees before the program ends; killed in the middle
// of giving a block back, one block.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "shm/layout.hpp"

namespace millrace::shm {

/// Requests above this size get a run of spans of their own.
inline constexpr std::size_t kDirectBytes = 512 * kKiB;

/// For the reaper, before it sweeps: freezes the heap of a dead process, and frees it if nothing
/// in it is in use.
void freeze_heap(ProcessId dead) noexcept;

/// For fork_hooks.cpp: no thread of this process is in its heap between these two.
void lock_heap() noexcept;
void unlock_heap() noexcept;
/// In a forked child: the heap is the parent's.
void forget_heap() noexcept;

}  // namespace millrace::shm
