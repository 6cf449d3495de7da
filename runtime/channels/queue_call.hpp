// One call of put or get: claims a slot of the queue, waiting as long as it may.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <thread>

#include "runtime/channels/queue.hpp"
#include "runtime/sync/synchronize.hpp"
#include "shm/arena.hpp"
#include "shm/object.hpp"

namespace millrace::runtime {

[[noreturn]] void throw_closed(const shm::ObjectRef& queue, const QueueState& state);

// What this thread remembers of the queues it gets from, by their ids. One that was forgotten costs
// a longer walk.
[[gnu::always_inline]] inline shm::QueueScan& scan_of(const QueueState& state) noexcept {
  struct Entry {
    std::uint64_t id = 0;
    shm::QueueScan scan;
  };
  constexpr std::size_t kEntries = 32;
  static thread_local constinit std::array<Entry, kEntries> entries{};
  Entry& entry = entries[state.id % kEntries];
  if (entry.id != state.id) entry = {state.id, {}};
  return entry.scan;
}

// How long to spin before sleeping: longer where that has helped, shorter where it has not.
class SpinBudget {
 public:
  SpinBudget() noexcept : policy_(wait_policy()) {
    static const bool one_cpu = std::thread::hardware_concurrency() < 2;
    policy_.spin = std::chrono::microseconds(one_cpu ? 0 : budget_us_);
  }
  [[nodiscard]] shm::WaitPolicy& policy() noexcept { return policy_; }
  static void helped(bool yes) noexcept {
    budget_us_ = yes ? std::min(2 * budget_us_, kMost) : std::max(budget_us_ / 2, kLeast);
  }

 private:
  static constexpr int kMost = 64;  // about what a sleep and a wake cost
  static constexpr int kLeast = 2;
  static inline thread_local constinit int budget_us_ = kMost;
  shm::WaitPolicy policy_;
};

// One call of this process.
struct Call {
  explicit Call(const shm::ObjectRef& object)
      : queue(object),
        state(payload_of<QueueState>(object, "Queue")),
        ring(state.ring, shm::Arena::instance().size()),
        deaths(state),
        me(shm::self()) {}

  void check_open() const {
    // CLOSE queue: acquire, pairs with queue.cpp; whoever wrote a word of this process has written
    // this
    if (state.closed.load(std::memory_order_acquire) != 0 && has_closed(state, me)) {
      throw_closed(queue, state);
    }
  }

  // Tries until `attempt` succeeds, sleeping on the spot. `blocker` is who may stand in the way.
  // False at the end of the timeout.
  template <class Attempt>
  bool insist(shm::ParkingSpot& spot, Attempt&& attempt, const std::uint32_t& blocker,
              Timeout timeout) {
    check_open();
    if (attempt()) return true;
    if (timeout.duration().count() == 0 && !timeout.infinite()) {
      // Nobody may have noticed yet that the one in the way is dead.
      if (blocker == 0 || blocker == me) return false;
      deaths.check_alive(blocker);
      return attempt();
    }
    const auto try_again = [&] {
      check_open();
      return attempt();
    };
    SpinBudget budget;
    if (shm::spin_until(try_again, budget.policy().spin)) {
      SpinBudget::helped(true);
      return true;
    }
    SpinBudget::helped(false);
    return sleep(spot, try_again, blocker, timeout);
  }

  template <class Attempt>
  bool sleep(shm::ParkingSpot& spot, Attempt&& attempt, const std::uint32_t& blocker,
             Timeout timeout) {
    slept = true;
    struct Look {
      QueueDeaths& deaths;
      const std::uint32_t& blocker;
    } look{deaths, blocker};
    shm::WaitPolicy policy = wait_policy();
    policy.spin = {};
    policy.argument = &look;
    policy.on_long_wait = [](void* argument) {
      auto& [seen_by, who] = *static_cast<Look*>(argument);
      if (who != 0) seen_by.check_alive(who);
    };
    return shm::wait_until(spot, attempt, policy, timeout.deadline());
  }

  [[nodiscard]] bool at_limit() const {
    return state.limit != 0 && ring.count(state.limit) >= state.limit;
  }
  bool claim_room(Timeout timeout) {
    std::uint32_t blocker = 0;
    return insist(
        state.ring.room,
        [&] {
          return !at_limit() && ring.claim_room(deaths, me, held, blocker) == shm::RingResult::done;
        },
        blocker, timeout);
  }
  bool claim_item(Timeout timeout) {
    shm::QueueScan& scan = scan_of(state);
    return insist(
        state.ring.items,
        [&] { return ring.claim_item(deaths, me, scan, held) == shm::RingResult::done; },
        scan.blocker, timeout);
  }

  void publish() {
    if (state.kind == QueueKind::joinable) {
      publish_counted(state.unfinished, held, me);
    } else {
      shm::QueueRing::publish(held, me);
    }
    state.ring.items.notify_one();
    if (slept && ring.maybe_room()) state.ring.room.notify_one();
  }
  // The item was taken out of its slot.
  void free() {
    shm::QueueRing::free(held);
    if (state.ring.ring != 0 || state.limit != 0) state.ring.room.notify_one();
    if (slept && ring.maybe_item()) state.ring.items.notify_one();
  }

  const shm::ObjectRef& queue;
  QueueState& state;
  shm::QueueRing ring;
  QueueDeaths deaths;
  shm::ProcessId me;
  shm::QueueHeld held;
  bool slept = false;  // whoever was woken passes it on while there is more (mpmc_ring.hpp)
};

}  // namespace millrace::runtime
