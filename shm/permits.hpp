// Permits that are known by their owners: a bounded semaphore whose permits come back when the
// process that took them dies. One word a permit, 0 = there to be taken, else the ProcessId of who
// has it; a turnstile for those who wait.
//
// Any process may call anything; who gives back need not be who took (it gives back one of its own
// if it has any, else somebody's).
//
// Invariants
//  1. A permit is taken by a compare-and-swap of 0 to an owner and given back by one of an owner to
//     0: at every instant it is there or its owner is known.
//  2. hint says where to look first; any value does.
//  3. Words from `used` on have never been written: all there. It grows before the first of them
//     is taken, and only when all below it are, so that nobody walks through, or fills with pages,
//     the words of a bound that is never come near.
//
// When a process dies between any two steps: its permits name it and are taken back by whoever
// finds none, or waits for a slice; `used` may have grown for nothing. Otherwise as turnstile.hpp
// says. Progress: try_take() and give() are lock-free (they look at each used permit once or more
// often); take() blocks. No system call unless some wait or none is left.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "shm/layout.hpp"
#include "shm/turnstile.hpp"

namespace millrace::shm {

class Permits {
 public:
  using Word = std::atomic<std::uint32_t>;

  /// So many are looked at from the first: a line of them.
  static constexpr std::uint32_t kUsedAtOnce = 16;

  /// Bytes of one with `n` permits; the words lie behind it.
  static constexpr std::size_t bytes_for(std::size_t n) noexcept {
    return sizeof(Permits) + n * sizeof(Word);
  }
  /// For one that nobody else sees yet, in zero-filled memory of bytes_for(n).
  void start_with(std::uint32_t n) noexcept {
    bound_ = n;
    used_.store(std::min(n, kUsedAtOnce), std::memory_order_relaxed);  // nobody else yet
  }
  [[nodiscard]] std::uint32_t bound() const noexcept { return bound_; }

  /// As try_take(), but looks at one place only.
  bool try_quickly(ProcessId me) noexcept {
    return turns_.open() && bound_ != 0 && grab_at(first(used()), me);
  }
  /// Takes a permit if there is one. Memory ordering: acquire of what came before its release.
  bool try_take(ProcessId me) noexcept {
    return (turns_.open() || (count() != 0 && turns_.knock())) && grab(me);
  }

  /// Waits for a permit; `gone(id)` says whether a process is dead, and is asked about owners after
  /// every slice without news. False at the pace's deadline.
  template <class Gone, class Pacing>
  bool take(ProcessId me, Gone&& gone, Pacing& pace) {
    const bool taken = turns_.wait([&] { return grab(me); },
                                   [&] { return take_back(me, gone) != 0 && grab(me); }, pace);
    if (taken && count() != 0) turns_.pass_on();
    return taken;
  }

  /// Gives one back and wakes one who waits. False when all are there.
  /// Memory ordering: release of what the caller did before.
  bool give(ProcessId me) noexcept {
    if (give_quickly(me)) return true;
    return give_one([me](std::uint32_t owner) { return owner == me; }) ||
           give_one([](std::uint32_t) { return true; });
  }

  /// The same, if one of the caller's own is where it looks first.
  bool give_quickly(ProcessId me) noexcept {
    const std::uint32_t i = first(used());
    return bound_ != 0 && words()[i].load(std::memory_order_relaxed) == me &&  // a guess
           give_back(i, me);
  }

  /// Takes back what the dead have; how many that were.
  template <class Gone>
  std::uint32_t take_back(ProcessId me, Gone&& gone) noexcept {
    std::uint32_t count = 0;
    ProcessId last = me;  // asked about last, and how it was: owners come in runs
    bool dead = false;
    for (std::uint32_t i = 0, end = used(); i < end; ++i) {
      // OBSERVE permit: acquire pairs with TAKE permit; `gone` has seen the death.
      std::uint32_t owner = words()[i].load(std::memory_order_acquire);
      if (owner == 0) continue;
      if (owner != last) {
        dead = owner != me && gone(owner);
        last = owner;
      }
      if (dead && give_back(i, owner)) ++count;
    }
    return count;
  }

  /// How many are there; each was a moment ago.
  [[nodiscard]] std::uint32_t count() const noexcept {
    const std::uint32_t end = used();
    std::uint32_t there = bound_ - end;
    for (std::uint32_t i = 0; i < end; ++i) {
      if (words()[i].load(std::memory_order_relaxed) == 0) ++there;  // a number
    }
    return there;
  }

 private:
  [[nodiscard]] Word* words() const noexcept {
    return reinterpret_cast<Word*>(const_cast<Permits*>(this) + 1);
  }
  // USED words. relaxed: a number; who has heard of a permit's taking sees its word counted, since
  // GROW comes before TAKE, a release.
  [[nodiscard]] std::uint32_t used() const noexcept {
    return used_.load(std::memory_order_relaxed);
  }
  // The k-th place of `end` to look at, from `first` on.
  static std::uint32_t place(std::uint32_t first, std::uint32_t k, std::uint32_t end) noexcept {
    const std::uint32_t i = first + k;
    return i >= end ? i - end : i;
  }
  [[nodiscard]] std::uint32_t first(std::uint32_t end) const noexcept {
    const std::uint32_t hint = hint_.load(std::memory_order_relaxed);  // see invariant 2
    return hint < end ? hint : 0;
  }

  bool grab_at(std::uint32_t i, ProcessId me) noexcept {
    std::uint32_t owner = words()[i].load(std::memory_order_relaxed);  // a guess
    // TAKE permit: acquire pairs with GIVE permit.
    return owner == 0 && words()[i].compare_exchange_strong(owner, me, std::memory_order_acq_rel,
                                                            std::memory_order_relaxed);
  }
  bool grab(ProcessId me) noexcept {
    std::uint32_t end = used();
    const std::uint32_t from = first(end);
    for (std::uint32_t k = 0; k < end; ++k) {
      const std::uint32_t i = place(from, k, end);
      if (grab_at(i, me)) {
        if (k != 0) hint_.store(i, std::memory_order_relaxed);  // see invariant 2
        return true;
      }
    }
    for (; end < bound_; ++end) {
      grow(end);
      if (grab_at(end, me)) {
        hint_.store(end, std::memory_order_relaxed);  // see invariant 2
        return true;
      }
    }
    return false;
  }
  // The word `last` is used from now on.
  void grow(std::uint32_t last) noexcept {
    std::uint32_t now = used_.load(std::memory_order_relaxed);
    // GROW. relaxed: TAKE, a release, comes behind it; see USED
    while (now <= last && !used_.compare_exchange_weak(now, last + 1, std::memory_order_relaxed)) {
    }
  }

  template <class Suits>
  bool give_one(Suits&& suits) noexcept {
    const std::uint32_t end = used();
    const std::uint32_t from = first(end);
    for (std::uint32_t k = 0; k < end; ++k) {
      const std::uint32_t i = place(from, k, end);
      const std::uint32_t owner = words()[i].load(std::memory_order_relaxed);  // a guess
      if (owner != 0 && suits(owner) && give_back(i, owner)) {
        if (k != 0) hint_.store(i, std::memory_order_relaxed);  // see invariant 2
        return true;
      }
    }
    return false;
  }

  bool give_back(std::uint32_t i, std::uint32_t owner) noexcept {
    // GIVE permit: release pairs with TAKE permit. seq_cst: before the look for sleepers
    // (turnstile.hpp)
    if (!words()[i].compare_exchange_strong(owner, 0, std::memory_order_seq_cst,
                                            std::memory_order_relaxed)) {
      return false;
    }
    turns_.wake_one();
    return true;
  }

  Turnstile turns_;
  Word hint_{0};             // see invariant 2
  std::uint32_t bound_ = 0;  // constant once shared
  Word used_{0};             // see invariant 3
};
static_assert(sizeof(Permits) == 24 && std::is_standard_layout_v<Permits>);

}  // namespace millrace::shm
