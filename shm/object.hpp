// Shared objects: memory that lives as long as any process refers to it.
//
// A handle is one pointer, to the object's payload. In front of the payload lies an ObjectPrefix,
// which names the object's record; records come from a slab class of their own, whose memory is
// never used for anything else, so a stale pointer to a record can be read safely for ever.
//
// How many hold an object is nowhere counted: it is held by the processes in whose RefTable it is
// counted, and by handles and messages in shared memory, which have a RefTable together. The
// record's word {epoch:36, owner:26, state:2} decides about its end:
//   kVoid   no object
//   kLive   an object; epoch grows with every process that begins to hold it (announce_holder)
//   kDying  `owner` frees it
// Whoever drops a process's last reference marks its own entry kDeciding, reads the epoch, looks
// whether anybody holds the object, and CASes kLive of that epoch to kDying. A holder that the
// search missed because the reference was moving raised the epoch before the place it came from
// let go, so the CAS fails and the search is repeated. Among several droppers the last one sees
// nobody; one CAS wins.
//
// Killed between any two steps, a process leaves
//   an entry held            its reaper drops it
//   an entry kDeciding       its reaper decides again, which is harmless when it was decided
//   a record kDying          the decider that meets it takes over; the payload's address in the
//                            record is cleared after the payload became the destroyer's own and
//                            before it is freed, so it is freed once: by the successor or by the
//                            sweep of the dead destroyer, which comes after its references
//   a new object not linked  payload and record belong to the dead process and are swept
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <millrace/handle.hpp>
#include <vector>

#include "shm/layout.hpp"

namespace millrace::shm {

/// The decision about an object's life. Type-stable memory.
struct alignas(kCacheLine) ObjectRecord {
  std::atomic<std::uint64_t> word;
  std::atomic<std::uint64_t> block;  // address of the object's memory while kLive
};

/// As ObjectPrefix::links: the object is a queue (queue_parts.hpp), which holds items and memory.
inline constexpr std::uint64_t kQueueObject = 1U << 16;

/// For RefTable: a new holder was entered.
void announce_holder(ObjectRecord* record) noexcept;
/// True when `record` points to memory for records.
bool is_record(const ObjectRecord* record) noexcept;

/// For the reaper, before it sweeps: drops all references of a dead process.
void drop_references(ProcessId dead) noexcept;

/// An object as somebody sees it who does not hold it. Its memory may serve others by now: whoever
/// believes is_live() compares a number of his own in the payload as well.
struct ObjectWatch {
  ObjectRecord* record = nullptr;
  std::uint64_t block = 0;
};
/// Of an object that the caller holds.
ObjectWatch watch_object(const void* payload) noexcept;
/// True while the object lives, or another that took its place. Memory ordering: acquire of its
/// end.
bool is_live(const ObjectWatch& watch) noexcept;

/// Who holds an object.
struct Holders {
  bool on_the_way = false;           // a message or a handle in shared memory
  std::vector<ProcessId> processes;  // those that live
  [[nodiscard]] bool none() const noexcept { return !on_the_way && processes.empty(); }
};
/// Asks the kernel about each process: some microseconds. None only if at one instant nobody that
/// lives held it. Throws std::bad_alloc.
Holders holders_of(const ObjectWatch& watch);

/// For fork_hooks.cpp: no thread of this process changes its table between these two.
void lock_references() noexcept;
void unlock_references() noexcept;

}  // namespace millrace::shm
