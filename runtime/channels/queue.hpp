// A queue as it lies in the arena: the slots of shm/queue_ring.hpp, who has closed it, and how many
// items of a JoinableQueue are not dealt with.
//
// Invariants
//  1. An item is encoded before a slot is claimed: an encoder that throws has changed nothing.
//  2. A large item lies in a block. The block is the producer's until it is named by the cell of a
//     slot that the producer holds; from then on it is the cell's, and nobody's of the arena. Who
//     takes the word out of the cell frees the block.
//  3. An item is decoded where it lies, while its slot is held, and with references of its own; it
//     is taken when its cell is emptied, then the slot becomes free. A reader that dies before has
//     taken nothing, the item is delivered again; one that dies between leaves an empty cell,
//     which the next reader passes.
//  4. A JoinableQueue's count and the publication of an item change together: under a lock that
//     names its holder, after a note that whoever inherits the lock carries out.
//
// When a process dies between any two steps: of a slot's, see queue_ring.hpp. Between giving a
// block away and naming it, or between emptying a cell and freeing what it named, the block is lost
// until the program ends; so are references of an item that was encoded and not yet put. A lock
// held by the dead is inherited, with the note in it.
#pragma once

#include <atomic>
#include <cstdint>
#include <millrace/queue_handles.hpp>

#include "shm/process_table.hpp"
#include "shm/queue_ring.hpp"
#include "shm/shared_lock.hpp"

namespace millrace::runtime {

/// Items that were put and not dealt with.
struct Unfinished {
  shm::SharedLock lock;
  // The note, by the lock's holder. Valid while `slot` is not 0: the item there, held by `owner`,
  // is put, and `count` items are unfinished.
  std::atomic<std::uint64_t> slot;
  std::uint64_t lap;
  std::uint32_t owner;
  std::uint64_t count;

  alignas(shm::kCacheLine) std::atomic<std::uint64_t> items;  // written under the lock
  shm::ParkingSpot none;                                      // those in join() sleep here
};

struct QueueState {
  static constexpr std::size_t kClosers = 11;

  shm::QueueHeader ring;
  // Constants.
  std::uint64_t id;     // of no other queue of the program
  std::uint64_t limit;  // of a chain that is bounded all the same, 0: none
  std::uint32_t plain_bytes;
  QueueKind kind;
  // Which processes have closed it: words are taken, and taken over from the dead, by
  // compare-and-swap; when they do not suffice a table, by process index, ring.extra.
  std::atomic<std::uint32_t> closed;  // 1 once any has; read by every call
  std::atomic<std::uint32_t> closers[kClosers];
  alignas(shm::kCacheLine) Unfinished unfinished;
};

/// What a ring of slots needs to know, for one call of a process.
class QueueDeaths {
 public:
  explicit QueueDeaths(QueueState& state) : table_(shm::ProcessTable::instance()), state_(state) {}
  [[nodiscard]] bool is_dead(std::uint32_t id) const noexcept { return table_.is_dead(id); }
  [[nodiscard]] const std::atomic<std::uint64_t>& deaths() const noexcept {
    return table_.deaths();
  }
  void check_alive(std::uint32_t id) { table_.check_alive(id); }
  /// Gives up what a dead producer was writing.
  void abandon(shm::QueueSlot& slot, std::uint64_t seen);

 private:
  shm::ProcessTable& table_;
  QueueState& state_;
};

/// The cell of a slot of a queue with cells.
inline shm::QueueCell& cell_of(shm::QueueSlot& slot) noexcept {
  return *reinterpret_cast<shm::QueueCell*>(slot.value());
}

/// Publishes the item in a slot that this process holds, and counts it.
void publish_counted(Unfinished& unfinished, const shm::QueueHeld& held, std::uint32_t me);
/// Holds the lock of a JoinableQueue's count; what a dead holder had noted is carried out.
class CountingLock {
 public:
  explicit CountingLock(Unfinished& unfinished);
  CountingLock(const CountingLock&) = delete;
  CountingLock& operator=(const CountingLock&) = delete;
  ~CountingLock() { unfinished_.lock.free(); }

 private:
  Unfinished& unfinished_;
};

/// Waits until every item of a JoinableQueue is dealt with: true, or false at the end of `timeout`.
bool wait_finished(const shm::ObjectRef& queue, Timeout timeout);

/// True when the process has closed the queue; see queue_close.cpp.
bool has_closed(const QueueState& state, shm::ProcessId process) noexcept;
/// Notes that it has.
void note_closed(QueueState& state, shm::ProcessId process);

}  // namespace millrace::runtime
