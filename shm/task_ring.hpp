// Task ring: one producer hands tasks to many workers, each task, its claim and its reply in one
// cache line.
//
// Who may call what: reserve/publish/retire only the producer (the pool's parent, under its lock);
// claim/finish any worker; take_away only the producer.
//
// A slot's state word is {lap:34, owner:26, tag:4}:
//
//     FREE --publish--> READY --claim--> RUNNING(owner) --finish--> DONE | FAILED --retire--> FREE
//                                            \---take_away---> LOST --retire--> FREE
//
//  1. Only the producer makes a slot READY and only it recycles one; it knows from private memory
//     which slots are out, so it never reads a line that a worker is writing.
//  2. A worker takes a task by writing its own id into the slot with a CAS: there is no instant at
//     which a task is taken by nobody in particular.
//  3. `tail` is one past the newest published position; a position below it whose slot is not READY
//     of that lap was taken or skipped (the producer walks past slots that are still out) and
//     never becomes READY again: a task that is to run again is published at a new position.
//  4. `cursor` is a hint: every position below it was seen not READY by 3. A stale hint costs a
//     walk, never a task.
//  5. A worker ends its task by CAS, so a task taken away from it (timeout, cancel) cannot be ended
//     by it too. The payload of a slot that was taken away from a living worker must not be reused
//     before that worker is dead, since it may still write there.
//
// Death between any two steps. Producer: the program is over. Worker before its CAS: nothing
// happened. Between claim and finish: the slot says RUNNING(dead), the producer learns of the death
// from the process table and takes the slot away. Between finish and whatever follows: the reply is
// there. Between claim and the store of the hint: others walk over the slot.
//
// Progress: claim is lock-free (a failed CAS means that another worker took the task); publish,
// finish and retire are wait-free.
//
// Why not one queue of tasks and one of results: the reply in the line of the request makes a call
// one round trip of one line, and the claim word that a pool needs anyhow (whose task was it when
// the worker died?) costs nothing more.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace millrace::shm {

/// What a slot's state word says.
enum class TaskTag : std::uint64_t { free, ready, running, done, failed, lost };

/// The state word {lap:34, owner:26, tag:4} and its parts.
struct TaskState {
  static constexpr std::uint64_t make(std::uint64_t lap, std::uint32_t owner,
                                      TaskTag tag) noexcept {
    return lap << 30 | std::uint64_t{owner} << 4 | static_cast<std::uint64_t>(tag);
  }
  static constexpr std::uint64_t lap(std::uint64_t word) noexcept { return word >> 30; }
  static constexpr std::uint32_t owner(std::uint64_t word) noexcept {
    return static_cast<std::uint32_t>(word >> 4) & ((1U << 26) - 1);
  }
  static constexpr TaskTag tag(std::uint64_t word) noexcept {
    return static_cast<TaskTag>(word & 15);
  }
};

/// One task: request and reply share the line with the claim.
template <template <class> class Atomic = std::atomic>
struct alignas(64) BasicTaskSlot {
  static constexpr std::size_t kInlineBytes = 40;

  Atomic<std::uint64_t> state;  ///< written by: producer (READY, FREE, LOST), owner (RUNNING..DONE)
  std::uint32_t function;       ///< entry point; written before READY, read after the claim
  std::uint32_t size;           ///< bytes of payload or reply, with the flags of the layer above
  std::uint64_t context;        ///< what the layer above likes; written before READY
  std::byte bytes[kInlineBytes];  ///< payload before the claim, reply before DONE
};
static_assert(sizeof(BasicTaskSlot<>) == 64);

/// The ring over `Count` slots (a power of two) in memory that it is part of.
template <std::size_t Count, template <class> class Atomic = std::atomic>
class BasicTaskRing {
 public:
  static_assert((Count & (Count - 1)) == 0, "a power of two");
  using Slot = BasicTaskSlot<Atomic>;
  static constexpr std::size_t kSlots = Count;

  BasicTaskRing() noexcept {
    for (Slot& slot : slots_) slot.state.store(TaskState::make(0, 0, TaskTag::free), kRelaxed);
  }
  BasicTaskRing(const BasicTaskRing&) = delete;
  BasicTaskRing& operator=(const BasicTaskRing&) = delete;

  /// The slot of a position.
  [[nodiscard]] Slot& slot(std::uint64_t position) noexcept { return slots_[position % Count]; }
  [[nodiscard]] Slot& at(std::size_t index) noexcept { return slots_[index % Count]; }

  /// Producer: makes the task written into slot(position) claimable. Positions rise; the slot must
  /// not be out. Memory ordering: what was written before is seen by the worker that claims; and
  /// the store is ordered before any later look at whether workers sleep.
  void publish(std::uint64_t position) noexcept {
    // PUBLISH task: pairs with OBSERVE task in claim().
    slot(position).state.store(TaskState::make(position / Count, 0, TaskTag::ready),
                               std::memory_order_release);
    // PUBLISH tail: pairs with OBSERVE tail. After the slot, so that a position below the tail
    // never looks free because its publication is still on the way. seq_cst: ordered before the
    // producer's look at the idle workers, or both sides could miss each other (park/wake). It is
    // the tail that must be: a worker that stands at a skipped position finds the task by it only.
    tail_.store(position + 1, std::memory_order_seq_cst);
  }

  /// Worker: takes the oldest claimable task for `owner`; nullptr if there is none.
  [[nodiscard]] Slot* claim(std::uint32_t owner) noexcept {
    // relaxed: a hint, a stale value costs a walk.
    std::uint64_t position = cursor_.load(kRelaxed);
    for (;;) {
      Slot& candidate = slot(position);
      const std::uint64_t ready = TaskState::make(position / Count, 0, TaskTag::ready);
      // OBSERVE task: pairs with PUBLISH task.
      std::uint64_t seen = candidate.state.load(std::memory_order_acquire);
      if (seen == ready) {
        // CLAIM task: acquire pairs with PUBLISH task; release for a producer that reads the owner.
        if (candidate.state.compare_exchange_strong(
                seen, TaskState::make(position / Count, owner, TaskTag::running),
                std::memory_order_acq_rel, std::memory_order_relaxed)) {
          if (cursor_.load(kRelaxed) <= position) cursor_.store(position + 1, kRelaxed);
          return &candidate;
        }
        continue;  // somebody was quicker: look at the slot again
      }
      // OBSERVE tail: pairs with PUBLISH tail: at or past it nothing is published.
      if (position >= tail_.load(std::memory_order_acquire)) return nullptr;
      // The publication may have come between the two looks: only now is "not READY" final.
      // OBSERVE task: ordered after OBSERVE tail.
      if (candidate.state.load(std::memory_order_acquire) != ready) ++position;
    }
  }

  /// The position at which a claimed or published slot was published.
  [[nodiscard]] std::uint64_t position(const Slot& slot) const noexcept {
    const auto index = static_cast<std::uint64_t>(&slot - slots_);
    return TaskState::lap(slot.state.load(kRelaxed)) * Count + index;  // relaxed: the lap is ours
  }

  /// True when the next slot holds a task: the quick look of a worker that spins. It may miss a
  /// task behind a slot that was skipped; may_have_work() does not.
  [[nodiscard]] bool next_ready() noexcept { return is_ready(cursor_.load(kRelaxed)); }

  /// True when a claim would look promising: for a waiter's last look before it sleeps.
  [[nodiscard]] bool may_have_work() noexcept {
    std::uint64_t position = cursor_.load(kRelaxed);
    // The next slot first: most of the time the answer is there, in the line that claim() needs.
    if (is_ready(position)) return true;
    // OBSERVE tail: seq_cst: ordered after the caller's announcement that it is about to sleep.
    const std::uint64_t tail = tail_.load(std::memory_order_seq_cst);
    for (; position < tail; ++position) {
      if (is_ready(position)) return true;
    }
    return false;
  }

  /// Worker: ends its task with done or failed, after the reply was written into the slot. False
  /// when the task was taken away from it meanwhile.
  [[nodiscard]] static bool finish(Slot& slot, std::uint32_t owner, TaskTag tag) noexcept {
    std::uint64_t seen =
        slot.state.load(kRelaxed);  // relaxed: only its owner and take_away write it
    if (TaskState::tag(seen) != TaskTag::running || TaskState::owner(seen) != owner) return false;
    // FINISH task: pairs with OBSERVE reply. seq_cst: ordered before the worker's look at whether
    // the parent sleeps.
    return slot.state.compare_exchange_strong(seen,
                                              TaskState::make(TaskState::lap(seen), owner, tag),
                                              std::memory_order_seq_cst, std::memory_order_relaxed);
  }

  /// Producer: the state of a slot that is out.
  [[nodiscard]] static std::uint64_t look(const Slot& slot) noexcept {
    // OBSERVE reply: pairs with FINISH task; seq_cst: ordered after the announcement of a parent
    // that is about to sleep.
    return slot.state.load(std::memory_order_seq_cst);
  }

  /// Producer: takes a task that is READY or RUNNING away, so that nobody can end it any more.
  /// `seen` is the state as looked at; false if it changed meanwhile.
  [[nodiscard]] static bool take_away(Slot& slot, std::uint64_t seen) noexcept {
    // TAKE task: pairs with CLAIM and FINISH task: exactly one of them wins.
    return slot.state.compare_exchange_strong(
        seen, TaskState::make(TaskState::lap(seen), TaskState::owner(seen), TaskTag::lost),
        std::memory_order_acq_rel, std::memory_order_relaxed);
  }

  /// Producer: the slot is its own again.
  static void retire(Slot& slot) noexcept {
    slot.state.store(TaskState::make(TaskState::lap(slot.state.load(kRelaxed)), 0, TaskTag::free),
                     kRelaxed);  // relaxed: the next publish orders it
  }

 private:
  static constexpr std::memory_order kRelaxed = std::memory_order_relaxed;

  bool is_ready(std::uint64_t position) noexcept {
    // OBSERVE task: pairs with PUBLISH task.
    return slot(position).state.load(std::memory_order_acquire) ==
           TaskState::make(position / Count, 0, TaskTag::ready);
  }

  alignas(64) Atomic<std::uint64_t> tail_{0};    ///< written by the producer
  alignas(64) Atomic<std::uint64_t> cursor_{0};  ///< hint, written by whoever claims
  alignas(64) Slot slots_[Count];
};

using TaskSlot = BasicTaskSlot<>;

}  // namespace millrace::shm
