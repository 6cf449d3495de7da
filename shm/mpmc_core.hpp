// The algorithm of the bounded queue between any number of producers and consumers of any
// processes, each of which may be killed at any instruction (mpmc_ring.hpp puts it into memory).
// Whoever takes a slot writes its identity into the slot it takes, so there is no instant at which
// work is taken by nobody in particular.
//
// Position p (monotonic) lies in the slot at place(p % N), a permutation, on lap p / N. Slots are
// 16 or 32 bytes for small values, else whole cache lines: a state word {lap:36, owner:26, tag:2}
// and the value. `head` and `tail` are hints only, stored while a slot is held, hence never more
// than a lap old.
//
// Only one line of each 128 bytes is used, unless a slot is longer; lines are visited in strides:
// a cpu that walks through neighbouring lines is given the next ones unasked, and takes them from
// whoever is just writing them. Either measure alone does not help. A line's slots are visited one
// after the other.
//
//   FREE(lap) --claim--> WRITING(lap, producer) --publish--> READY(lap, producer)
//        ^                       |dead: FREE(lap+1)                |claim
//        +------free: FREE(lap+1)------ READING(lap, consumer) <---+
//                                        |dead: READY(lap) again
//
// Invariants
//  1. Every position below the first FREE one of its own lap has been claimed; positions are
//  claimed
//     in order, so nothing lies beyond a slot that is still FREE on the consumer's lap.
//  2. READY keeps the producer's id. A consumer passes the WRITING slot of a living producer (it
//  may
//     be stopped for ever), takes nothing later of that producer, and leaves the head hint at the
//     first slot it passed: order per producer holds and nothing is overtaken unseen.
//  3. A slot taken back from a dead consumer may lie behind the head hint. Each consumer compares
//     the count of established deaths with the one it saw last and, when it grew, walks again from
//     one lap below the hint; a slot further down cannot be pending, its next lap is in use.
//  4. Owners are ids with a generation, never reused while a slot carries them: recovery is lazy.
//  5. The words are untrusted: they only ever select a `p % N`; a state that the rules above cannot
//     produce throws Corrupt.
//
// When a process dies between any two steps: before the claim nothing has happened; a WRITING slot
// becomes FREE of the next lap (the item was never pushed); a READING slot becomes READY again;
// after the last store the operation is complete. Anyone who meets such a slot does it, by one
// compare-and-swap. An item whose consumer died between freeing the slot and using the value is
// gone with it: a queue cannot know, so a pool keeps its own claim per chunk.
//
// Progress: try_push and try_pop are lock-free, and no stopped process blocks others from them
// except by filling the ring. Per-producer order is kept as long as no consumer dies in a claim.
//
// After Vyukov's bounded MPMC queue (2010), with the claim moved from the index into the slot.
#pragma once

#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace millrace::shm {

/// What a push or a pop came to.
enum class RingResult {
  done,
  none,  ///< full for a push, empty for a pop
  busy,  ///< pop only: what there is belongs to producers in the middle of an earlier push
};

/// What the ring needs to know of the life of owners. `is_dead` is cheap and true for stale ids
/// too; `deaths` counts established deaths, bumped after is_dead turned true; `check_alive` asks
/// the kernel and establishes a death that nobody noticed.
template <class V>
concept DeathsView = requires(V& view, std::uint32_t owner) {
  { view.is_dead(owner) } -> std::convertible_to<bool>;
  { view.deaths().load(std::memory_order_relaxed) } -> std::convertible_to<std::uint64_t>;
  view.check_alive(owner);
};

/// What the ring is built on; the models put their own in its place.
struct MpmcPlatform {
  template <class T>
  using Atomic = std::atomic<T>;
  template <class T>
  struct Cell {
    T value;
    void store(const T& from) noexcept { value = from; }
    void load(T& to) const noexcept { to = value; }
  };
};

/// Where producers and consumers begin to look; each in a line of its own.
template <class P>
struct BasicMpmcHints {
  alignas(64) typename P::template Atomic<std::uint64_t> head{0};
  alignas(64) typename P::template Atomic<std::uint64_t> tail{0};
};
using MpmcHints = BasicMpmcHints<MpmcPlatform>;

/// Of how many slots one is used: of two such lines one.
constexpr std::uint64_t mpmc_spread(std::uint64_t slot_bytes) noexcept {
  return slot_bytes <= 64 ? 2 : 1;
}

/// Throws Corrupt naming the slot and its owner.
[[noreturn]] void mpmc_corrupt(const void* where, std::uint64_t state);

/// The algorithm, over slots and hints that it is handed.
template <class T, class P = MpmcPlatform>
class MpmcCore {
 public:
  static constexpr std::uint64_t kOwnerMask = (1U << 26) - 1;

  // Small values share a line: producers and consumers that are apart move several at a time, those
  // that are close meet in any case.
  static constexpr std::size_t kSlotBytes = sizeof(T) <= 8 ? 16 : sizeof(T) <= 24 ? 32 : 64;
  static constexpr std::uint64_t kTogether = 64 / kSlotBytes;

  struct alignas(kSlotBytes) Slot {
    typename P::template Atomic<std::uint64_t> state{0};  // FREE of lap 0
    typename P::template Cell<T> value;
  };
  using Hints = BasicMpmcHints<P>;
  /// What one consumer remembers from pop to pop; private to it.
  struct Scan {
    std::uint64_t seen = std::numeric_limits<std::uint64_t>::max();  // deaths
    std::uint64_t from = 0;                                          // walk again these positions
    std::uint64_t upto = 0;
    std::uint32_t blocker = 0;  // who stood in the way of the last pop that found nothing
  };

  /// `count`, a power of two, of spread(count) slots are used.
  MpmcCore(Hints& hints, Slot* slots, std::uint64_t count) noexcept
      : hints_(&hints), slots_(slots), mask_(count - 1), lines_mask_(mask_ / kTogether) {
    while ((count >> shift_) > 1) ++shift_;
  }
  static constexpr std::uint64_t spread(std::uint64_t count) noexcept {
    return count * mpmc_spread(sizeof(Slot));
  }

  /// Puts a value in as `me`. none: full; *blocker is then the owner of the slot in the way, or 0.
  template <DeathsView V>
  RingResult try_push(V& view, std::uint32_t me, const T& value, std::uint32_t* blocker = nullptr) {
    // Relaxed: a hint; invariant 1 makes an old one merely slow.
    std::uint64_t p = hints_->tail.load(std::memory_order_relaxed);
    for (;;) {
      Slot& slot = at(p);
      const std::uint64_t lap = lap_at(p);
      // OBSERVE free: acquire, the last consumer of the slot has read its value.
      std::uint64_t seen = slot.state.load(std::memory_order_acquire);
      if (seen == word(lap, 0, kFree)) {
        // CLAIM slot: acquire, as OBSERVE free; the claim itself publishes nothing.
        if (!slot.state.compare_exchange_strong(seen, word(lap, me, kWriting),
                                                std::memory_order_acquire,
                                                std::memory_order_relaxed)) {
          continue;
        }
        hints_->tail.store(p + 1, std::memory_order_relaxed);  // a hint, while the slot is held
        ask_ahead(p, kPushRun);
        slot.value.store(value);
        // PUBLISH slot: release; pairs with OBSERVE slot in try_pop().
        slot.state.store(word(lap, me, kReady), std::memory_order_release);
        return RingResult::done;
      }
      if (lap_of(seen) < lap) {
        if (recover(view, slot, seen)) continue;
        if (lap_of(seen) + 1 < lap) [[unlikely]]
          mpmc_corrupt(&slot, seen);
        runs[kPushRun] = 0;
        if (blocker != nullptr) *blocker = owner_of(seen);
        return RingResult::none;
      }
      if (lap_of(seen) > lap + 1) p = position(lap_of(seen) - 1, p);  // all before it is taken
      ++p;
    }
  }

  /// Takes the oldest value that may be taken as `me`.
  template <DeathsView V>
  RingResult try_pop(V& view, std::uint32_t me, Scan& scan, T& value) {
    if (pop_first(view, me, scan, value)) return RingResult::done;
    Walk walk = begin(view, scan);
    for (;;) {
      Slot& slot = at(walk.position);
      const std::uint64_t lap = lap_at(walk.position);
      // OBSERVE slot: acquire; pairs with PUBLISH slot, the value may be read after the claim.
      std::uint64_t seen = slot.state.load(std::memory_order_acquire);
      if (lap_of(seen) == lap && tag_of(seen) == kReady && !walk.passed(owner_of(seen))) {
        // CLAIM slot: acquire, as OBSERVE slot, also for one that was taken back from the dead.
        if (!slot.state.compare_exchange_strong(seen, word(lap, me, kReading),
                                                std::memory_order_acquire,
                                                std::memory_order_relaxed)) {
          continue;
        }
        advance_head(walk, scan);
        ask_ahead(walk.position, kPopRun);
        slot.value.load(value);
        // FREE slot: release; pairs with OBSERVE free in try_push().
        slot.state.store(word(lap + 1, 0, kFree), std::memory_order_release);
        return RingResult::done;
      }
      switch (consider(view, slot, seen, walk)) {
        case Step::again:
          continue;
        case Step::on:
          ++walk.position;
          continue;
        case Step::stop:
          return stop(walk, scan, seen);
      }
    }
  }

  /// Whether there may be an item, or room, for one more waiter. Only guesses, never false while
  /// nothing moves and there is one: whoever was woken passes the wake-up on while this holds.
  [[nodiscard]] bool maybe_item() const noexcept {
    const std::uint64_t p = hints_->head.load(std::memory_order_relaxed);  // a hint
    const std::uint64_t seen = at(p).state.load(std::memory_order_relaxed);
    return lap_of(seen) > lap_at(p) || tag_of(seen) != kFree;
  }
  [[nodiscard]] bool maybe_room() const noexcept {
    const std::uint64_t p = hints_->tail.load(std::memory_order_relaxed);  // a hint
    return lap_of(at(p).state.load(std::memory_order_relaxed)) >= lap_at(p);
  }

 protected:
  enum Tag : std::uint64_t { kFree, kWriting, kReady, kReading };
  enum class Step { again, on, stop };
  static constexpr std::uint64_t kNowhere = std::numeric_limits<std::uint64_t>::max();

  static constexpr std::uint64_t word(std::uint64_t lap, std::uint64_t owner, Tag tag) noexcept {
    return lap << 28 | (owner & kOwnerMask) << 2 | tag;
  }
  static constexpr std::uint64_t lap_of(std::uint64_t state) noexcept { return state >> 28; }
  static constexpr std::uint32_t owner_of(std::uint64_t state) noexcept {
    return static_cast<std::uint32_t>(state >> 2 & kOwnerMask);
  }
  static constexpr Tag tag_of(std::uint64_t state) noexcept { return static_cast<Tag>(state & 3); }

  // Lines in strides of 5/8 of them: odd, so each comes once a lap.
  [[nodiscard]] std::uint64_t place(std::uint64_t position) const noexcept {
    const std::uint64_t index = position & mask_;
    const std::uint64_t line = index / kTogether * (lines_mask_ * 5 / 8 | 1) & lines_mask_;
    return spread(line * kTogether) + index % kTogether;
  }
  Slot& at(std::uint64_t position) const noexcept { return slots_[place(position)]; }
  [[nodiscard]] std::uint64_t lap_at(std::uint64_t position) const noexcept {
    return position >> shift_;
  }
  // The position on another lap of the slot where `like` lies.
  [[nodiscard]] std::uint64_t position(std::uint64_t lap, std::uint64_t like) const noexcept {
    return (lap << shift_) + (like & mask_);
  }

  // The usual pop: nobody died since the last one, and the first slot holds an item.
  template <DeathsView V>
  bool pop_first(V& view, std::uint32_t me, const Scan& scan, T& value) {
    // OBSERVE deaths: as in begin().
    if (view.deaths().load(std::memory_order_acquire) != scan.seen || scan.from < scan.upto) {
      return false;
    }
    const std::uint64_t p = hints_->head.load(std::memory_order_relaxed);  // a hint
    Slot& slot = at(p);
    const std::uint64_t lap = lap_at(p);
    // OBSERVE slot: as in try_pop().
    std::uint64_t seen = slot.state.load(std::memory_order_acquire);
    if (lap_of(seen) != lap || tag_of(seen) != kReady) return false;
    // CLAIM slot: as in try_pop().
    if (!slot.state.compare_exchange_strong(seen, word(lap, me, kReading),
                                            std::memory_order_acquire, std::memory_order_relaxed)) {
      return false;
    }
    hints_->head.store(p + 1, std::memory_order_relaxed);  // a hint, while the slot is held
    ask_ahead(p, kPopRun);
    slot.value.load(value);
    // FREE slot: as in try_pop().
    slot.state.store(word(lap + 1, 0, kFree), std::memory_order_release);
    return true;
  }

  // One pop's way through the slots.
  struct Walk {
    static constexpr int kMostPassed = 8;
    std::uint64_t position;
    std::uint64_t head;              // the hint as read
    std::uint64_t first = kNowhere;  // the first slot that was passed while being written
    bool again = false;              // walking again after a death
    int count = 0;
    std::uint32_t owners[kMostPassed];  // of the slots passed; take nothing later of theirs

    [[nodiscard]] bool passed(std::uint32_t owner) const noexcept {
      for (int i = 0; i < count; ++i) {
        if (owners[i] == owner) return true;
      }
      return false;
    }
  };

  template <DeathsView V>
  Walk begin(V& view, Scan& scan) {
    // OBSERVE deaths: acquire; pairs with the release by which mark_dead() of process_table.hpp
    // counts a death (PUBLISH deaths). Whoever sees the count sees the owner dead, and so takes
    // back itself what nobody else did.
    const std::uint64_t deaths = view.deaths().load(std::memory_order_acquire);
    const std::uint64_t head = hints_->head.load(std::memory_order_relaxed);  // a hint
    if (deaths != scan.seen) [[unlikely]] {
      const std::uint64_t tail = hints_->tail.load(std::memory_order_relaxed);  // a hint
      scan.seen = deaths;
      scan.upto = head > tail ? head : tail;
      scan.from = head > mask_ + 1 ? head - mask_ - 1 : 0;
    }
    Walk walk;
    walk.head = head;
    walk.again = scan.from < scan.upto;
    walk.position = walk.again && scan.from < head ? scan.from : head;
    return walk;
  }

  // While the slot is held: the hint cannot fall a lap behind.
  void advance_head(const Walk& walk, Scan& scan) {
    const std::uint64_t next = walk.first == kNowhere ? walk.position + 1 : walk.first;
    if (next > walk.head) hints_->head.store(next, std::memory_order_relaxed);  // a hint
    if (walk.again) scan.from = next;
  }

  // A claim waits until its line is here, unlike a plain store: so it is asked for some slots
  // ahead, no more, as others may be at work there. Not where the other side is close, which would
  // lose the line it works on.
  enum Run { kPushRun, kPopRun };
  static constexpr std::uint32_t kApart = 16;
  static constexpr std::uint64_t kAhead = 4;
  static_assert(kAhead % kTogether == 0);
  void ask_ahead(std::uint64_t p, Run run) const noexcept {
    if (++runs[run] <= kApart || p % kTogether != 0) return;
    const auto* slot = reinterpret_cast<const std::byte*>(&at(p + kAhead));
    __builtin_prefetch(slot, 1, 3);
    if constexpr (sizeof(Slot) > 64) __builtin_prefetch(slot + 64, 1, 3);
  }
  // How many pushes and pops of this thread succeeded in a row; of whatever ring, it is advice.
  static inline constinit thread_local std::uint32_t runs[2] = {0, 0};

  // What a slot that cannot be taken means for the walk.
  template <DeathsView V>
  Step consider(V& view, Slot& slot, std::uint64_t seen, Walk& walk) {
    const std::uint64_t lap = lap_at(walk.position);
    if (lap_of(seen) > lap) {  // taken, and perhaps for several laps
      if (lap_of(seen) > lap + 1) {
        const std::uint64_t near = position(lap_of(seen) - 2, walk.position);
        if (near > walk.position) walk.position = near;
      }
      return Step::on;
    }
    if (tag_of(seen) == kReady && lap_of(seen) == lap) return Step::on;  // of a passed producer
    if (recover(view, slot, seen)) return Step::again;
    if (lap_of(seen) < lap || tag_of(seen) == kFree) return Step::stop;
    if (tag_of(seen) == kWriting && !walk.passed(owner_of(seen))) {
      if (walk.count == Walk::kMostPassed) return Step::stop;
      walk.owners[walk.count++] = owner_of(seen);
      if (walk.first == kNowhere) walk.first = walk.position;
    }
    return Step::on;
  }

  RingResult stop(const Walk& walk, Scan& scan, std::uint64_t seen) {
    runs[kPopRun] = 0;
    if (lap_of(seen) + 1 < lap_at(walk.position)) [[unlikely]] {
      mpmc_corrupt(&at(walk.position), seen);
    }
    if (walk.first == kNowhere) {
      if (walk.again) scan.from = walk.position;
      scan.blocker = owner_of(seen);
      return RingResult::none;
    }
    scan.blocker = walk.owners[0];
    return RingResult::busy;
  }

  // Takes back the slot of a dead owner; true when the caller should look at it again.
  template <DeathsView V>
  bool recover(V& view, Slot& slot, std::uint64_t seen) {
    const Tag tag = tag_of(seen);
    if (tag != kWriting && tag != kReading) return false;
    if (!view.is_dead(owner_of(seen))) return false;
    const std::uint64_t next =
        tag == kWriting ? word(lap_of(seen) + 1, 0, kFree) : word(lap_of(seen), 0, kReady);
    // CLAIM slot: acq_rel, takes back; continues the release sequence of PUBLISH slot. Losing the
    // race is as good: somebody else took it back.
    slot.state.compare_exchange_strong(seen, next, std::memory_order_acq_rel,
                                       std::memory_order_relaxed);
    return true;
  }

  Hints* hints_;
  Slot* slots_;
  std::uint64_t mask_;
  std::uint64_t lines_mask_;
  unsigned shift_ = 0;
};

}  // namespace millrace::shm
