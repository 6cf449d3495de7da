// The processes of a program: a table in the arena's header that gives each a small id with a
// generation, and remembers how it ended.
//
// Any process may call anything. All of an entry's state is one 64-bit word, so a process killed
// between any two instructions leaves one of these states, and each has somebody who moves it on:
//   FREE      nobody's; reserve() takes it with a new generation
//   RESERVED  for a child about to be forked; the word holds the pid of the process that reserved
//             it, so a reservation whose maker died is given up by check_alive(); from entrust()
//             on the pid of the child, which has yet to use the library
//   ALIVE     pid and start time are valid (written before, by the process itself)
//   DYING     dead, but the count of deaths may not have been raised yet: whoever meets this state
//             raises it (twice is harmless) before telling anyone that the process is dead
//   DEAD      dead and counted; what it owned is still there
//   REAPING   one process, named in the word, is freeing what it owned; when that one dies too,
//             the next reaper takes over
//
// Invariants
//  1. is_dead(id) true => deaths() has been raised since the process was alive. So a reader that
//     loads deaths() before it looks at an owner's work rescans after every death.
//  2. An entry's generation changes in reserve() only, so the id of a dead process stays dead; its
//     status can be read until its index is used again (at least 32 processes later).
//  3. Progress: is_dead, mark_dead, pid, status are wait-free but for the retry of a failed CAS on
//     one entry; reserve() is lock-free.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>

#include "shm/layout.hpp"

namespace millrace::shm {

/// What status() says of a process whose wait status nobody has learnt.
inline constexpr int kUnknownStatus = -1;

class ProcessTable {
 public:
  /// The table in the arena, which is made on first use.
  static ProcessTable& instance();

  /// Takes an entry for a child about to be forked by this process. When the table is full the
  /// dead are looked for and reaped; throws std::system_error (EAGAIN) when 4096 processes live.
  ProcessId reserve();
  /// Called by the child itself: fills in pid and start time, becomes ALIVE, and from now on
  /// self() is `id`. References the child already holds under another id move to this one.
  void adopt(ProcessId id) noexcept;
  /// The same at the first use of self(): a child that never comes to it touches nothing of the
  /// arena, whose pages would cost it faults. For a child that has no id; entrust() is the parent's
  /// part. If the parent dies before that, the child is not known until its first use, which gives
  /// it an id of its own should the reservation be gone by then.
  void adopt_later(ProcessId id) noexcept;
  /// In the parent: the reservation is that of its child `pid`, and lasts as long as it lives.
  /// Idempotent; nothing when the child has adopted it.
  void entrust(ProcessId id, pid_t pid) noexcept;
  /// Gives a reservation back: the fork failed.
  void cancel(ProcessId id) noexcept;
  /// Takes a reservation back from a child that may be about to adopt it: true when it came too
  /// late to, and is dead as far as the table goes; false when it has adopted (or has ended).
  bool revoke(ProcessId id) noexcept;

  /// True once the process's death is established; true for ids of an older generation too.
  /// Memory ordering: acquire of the death.
  [[nodiscard]] bool is_dead(ProcessId id) const noexcept;
  /// Establishes a death. Idempotent, any process may call it; `status` is the raw wait status or
  /// kUnknownStatus, and a known status may be added to an established death later.
  /// Memory ordering: release of the death; deaths() is raised after it.
  void mark_dead(ProcessId id, int status) noexcept;
  /// The raw wait status, or kUnknownStatus when it is not known or the entry serves another.
  [[nodiscard]] int status(ProcessId id) const noexcept;
  /// The process's pid, 0 when it has none yet or the entry serves another.
  [[nodiscard]] pid_t pid(ProcessId id) const noexcept;
  /// Raised at least once for each established death, before is_dead() says so.
  [[nodiscard]] const std::atomic<std::uint64_t>& deaths() const noexcept { return deaths_; }
  /// Asks the kernel (pid and start time), for those who have waited too long; marks the process
  /// dead when it is gone. True when it lives. A few system calls; does not block.
  bool check_alive(ProcessId id) noexcept;

  /// Says who reads what process `id` leaves behind: while `heir` lives, reap_all_dead() leaves the
  /// dead process to it. For the process that reserved `id`, before the fork.
  void set_heir(ProcessId id, ProcessId heir) noexcept;
  /// True while a living heir has yet to reap the dead process.
  [[nodiscard]] bool awaits_heir(ProcessId dead) noexcept;

  /// What was sent to a process that begins anew (the address of a block it owns), and holds
  /// references until that process, or its reaper, has given them back; 0: nothing. Set by whoever
  /// reserved `id` (then note_messages()), cleared by the process itself.
  std::atomic<std::uint64_t>& message_of(ProcessId id) noexcept {
    return entries_[id & (kMaxProcesses - 1)].message;
  }
  /// From now on there may be messages; before the first is set.
  void note_messages() noexcept {
    messages_.store(1, std::memory_order_relaxed);  // who sets one looks for it, others may be late
  }
  /// False: there was never a message.
  [[nodiscard]] bool had_messages() const noexcept {
    return messages_.load(std::memory_order_relaxed) != 0;  // see note_messages()
  }

  /// Takes the right to free what a dead process owned: true for one process at a time.
  bool begin_reaping(ProcessId dead) noexcept;
  /// Makes the entry FREE again, after everything was freed.
  void end_reaping(ProcessId dead) noexcept;

  /// Where the control block of a process's object heap is noted (process_heap.cpp).
  std::atomic<std::uint64_t>& heap_of(ProcessId id) noexcept {
    return entries_[id & (kMaxProcesses - 1)].heap;
  }

  /// Entries below this index have been in use at some time.
  [[nodiscard]] std::size_t high() const noexcept;
  /// The id that the entry at `index` has or had; 0 when it never had one.
  [[nodiscard]] ProcessId id_at(std::size_t index) const noexcept;
  /// True while the entry may own anything: not FREE.
  [[nodiscard]] bool in_use(std::size_t index) const noexcept {
    // HOLD entry: seq_cst, see ref_table.cpp. A search for holders that reads FREE comes before the
    // new user's first reference.
    return (entries_[index & (kMaxProcesses - 1)].word.load(std::memory_order_seq_cst) >>
                kStateShift &
            kStateMask) != 0;
  }
  /// True when `id` names an entry of its generation that is RESERVED or ALIVE.
  [[nodiscard]] bool is_present(ProcessId id) const noexcept;

  /// Where the state is in an entry's word; 0 is FREE.
  static constexpr unsigned kStateShift = 14;
  static constexpr std::uint64_t kStateMask = 7;

  ProcessTable(const ProcessTable&) = delete;
  ProcessTable& operator=(const ProcessTable&) = delete;

 private:
  friend ProcessId enrol();

  // One cache line each: written by the process itself, its parent and its reaper, read by all.
  struct alignas(kCacheLine) Entry {
    std::atomic<std::uint64_t> word;        // all state, see process_table.cpp
    std::atomic<std::uint64_t> start_time;  // written before ALIVE is published, then constant
    std::atomic<std::int32_t> pid;          // likewise
    std::atomic<std::uint64_t> heap;        // its object heap: written by it, read by its reaper
    std::atomic<std::uint32_t> heir;     // 0: none; written before the fork and by the reaper, then
                                         // read of dead processes only
    std::atomic<std::uint64_t> message;  // see message_of()
  };

  bool make_alive(ProcessId id) noexcept;
  [[nodiscard]] bool is_mine(ProcessId id) const noexcept;
  ProcessId reserve_in(std::size_t limit) noexcept;
  [[nodiscard]] bool is_gone(const Entry& entry, std::uint64_t word) const noexcept;
  void complete_death(const Entry& entry, std::uint64_t word) const noexcept;

  alignas(kCacheLine) mutable std::atomic<std::uint64_t> deaths_;
  alignas(kCacheLine) std::atomic<std::uint32_t> cursor_;  // hint: where to look for a FREE entry
  std::atomic<std::uint32_t> high_;                        // grows only
  std::atomic<std::uint32_t> messages_;                    // 1 once a message was set
  Entry entries_[kMaxProcesses];
};

/// Takes an entry for this process. Called by self() on first use.
ProcessId enrol();

/// This process's id as far as it has one. Set by enrol() and adopt(), cleared in a forked child.
inline constinit std::atomic<ProcessId> this_process_id{0};

/// In a child that is to adopt_later(): the id. Written while it has one thread, cleared in a
/// forked child. Counts only while this_process_id is 0.
inline constinit std::atomic<ProcessId> reserved_process_id{0};

/// This process's id; enrols it on first use. A forked child gets an id of its own.
inline ProcessId self() {
  // relaxed: the id is a number that refers to nothing the caller would have to see
  const ProcessId id = this_process_id.load(std::memory_order_relaxed);
  return id != 0 ? id : enrol();
}

}  // namespace millrace::shm
