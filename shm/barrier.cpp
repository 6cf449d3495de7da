#include "shm/barrier.hpp"

#include <sys/wait.h>

#include <algorithm>
#include <utility>

#include "shm/process_table.hpp"

namespace millrace::shm {
namespace {

constexpr std::uint64_t slot_word(ProcessId owner, std::uint32_t generation) noexcept {
  return std::uint64_t{generation} << 32U | owner;
}
constexpr ProcessId owner_of(std::uint64_t slot) noexcept {
  return static_cast<ProcessId>(slot & 0xffffffffU);
}
constexpr std::uint32_t generation_of(std::uint64_t slot) noexcept {
  return static_cast<std::uint32_t>(slot >> 32U);
}

// For the last to come, `me`: nobody may be left of those who would have looked after the others.
// Where they sleep the kernel is asked about one: if it lives, it has looked.
bool any_dead(const std::atomic<std::uint64_t>* slots, std::uint32_t parties,
              std::uint32_t generation, ProcessId me, bool asleep) noexcept {
  ProcessTable& processes = ProcessTable::instance();
  return std::any_of(slots, slots + parties, [&](const std::atomic<std::uint64_t>& each) {
    const std::uint64_t slot = each.load(std::memory_order_acquire);  // ARRIVE slot: acquire
    const ProcessId owner = owner_of(slot);
    if (owner == 0 || owner == me || generation_of(slot) != generation) return false;
    return std::exchange(asleep, false) ? !processes.check_alive(owner) : processes.is_dead(owner);
  });
}

}  // namespace

// Looks after the others on behalf of one who waits: a few of them in each slice.
struct Barrier::Watch {
  static constexpr std::uint32_t kLooks = 8;

  Barrier& barrier;
  ProcessId me;
  std::uint32_t generation;
  const WaitPolicy& outer;
  std::uint32_t at = 0;   // whom to look at next
  ProcessId suspect = 0;  // is gone, and nobody knew how in the look before

  static void look(void* watch) { static_cast<Watch*>(watch)->look(); }

  void look() {
    if (outer.on_long_wait != nullptr) outer.on_long_wait(outer.argument);
    const std::uint32_t all = 2 * barrier.parties_;
    for (std::uint32_t k = 0; k < std::min(kLooks, all); ++k, at = (at + 1) % all) {
      const bool inside = at < barrier.parties_;
      const std::uint32_t of = inside ? generation : generation - 1;
      // ARRIVE slot: acquire
      const std::uint64_t slot =
          barrier.row(of)[inside ? at : at - barrier.parties_].load(std::memory_order_acquire);
      const ProcessId owner = owner_of(slot);
      if (owner == 0 || owner == me || generation_of(slot) != of) continue;
      if (ProcessTable::instance().check_alive(owner)) continue;
      if (inside || was_killed(owner)) barrier.break_in(generation);
    }
  }

  // Whoever waits for its children marks them dead with their status a moment after the kernel has
  // forgotten them. One of which nothing is known a slice later was waited for by a stranger.
  bool was_killed(ProcessId owner) {
    const int status = ProcessTable::instance().status(owner);
    if (status != kUnknownStatus) return WIFSIGNALED(status);
    return std::exchange(suspect, owner) == owner;
  }
};

std::uint64_t Barrier::pack(State s) noexcept {
  return std::uint64_t{s.generation} << 32U | std::uint64_t{s.count} << 8U |
         static_cast<std::uint64_t>(s.phase);
}

Barrier::State Barrier::unpack(std::uint64_t word) noexcept {
  return {static_cast<Phase>(word & 3U), static_cast<std::uint32_t>(word >> 8U & kMostParties),
          static_cast<std::uint32_t>(word >> 32U)};
}

Barrier::State Barrier::now() const noexcept {
  return unpack(state_.load(std::memory_order_acquire));  // OBSERVE barrier: pairs with change()
}

bool Barrier::change(State from, State to) noexcept {
  std::uint64_t seen = pack(from);
  // PUBLISH barrier: acq_rel; each arrival hands on what all before it did, the last one to all.
  // seq_cst: before the look for sleepers (parking.hpp).
  return state_.compare_exchange_strong(seen, pack(to), std::memory_order_seq_cst,
                                        std::memory_order_relaxed);
}

Barrier::Slot* Barrier::row(std::uint32_t generation) const noexcept {
  auto* slots = reinterpret_cast<Slot*>(const_cast<Barrier*>(this) + 1);
  return slots + (generation % 2) * std::size_t{parties_};
}

Barrier::Slot* Barrier::take_slot(ProcessId me, std::uint32_t generation,
                                  std::uint32_t first) noexcept {
  Slot* slots = row(generation);
  for (std::uint32_t k = 0; k < parties_; ++k) {
    Slot& slot = slots[(first + k) % parties_];
    std::uint64_t seen = slot.load(std::memory_order_relaxed);  // a guess, the exchange decides
    if (generation_of(seen) == generation && owner_of(seen) != 0) continue;
    // ARRIVE slot: acq_rel; who waits finds in it whom to look after.
    if (slot.compare_exchange_strong(seen, slot_word(me, generation), std::memory_order_acq_rel,
                                     std::memory_order_relaxed)) {
      return &slot;
    }
  }
  return nullptr;
}

void Barrier::leave_slot(Slot& slot, ProcessId me, std::uint32_t generation) noexcept {
  std::uint64_t own = slot_word(me, generation);
  // ARRIVE slot: release; a reset that finds it empty comes after the one who left.
  slot.compare_exchange_strong(own, slot_word(0, generation), std::memory_order_acq_rel,
                               std::memory_order_relaxed);
}

template <class Ready>
bool Barrier::wait_for(const Visit& visit, std::uint32_t generation, Ready&& ready,
                       Timeout::Clock::time_point deadline) {
  Watch watch{*this, visit.me, generation, visit.policy};
  watch.at = visit.me % (2 * parties_);  // not all look at the same ones first
  WaitPolicy policy = visit.policy;
  policy.on_long_wait = &Watch::look;
  policy.argument = &watch;
  return wait_until(spot_, ready, policy, deadline);
}

// Takes a slot and is counted; null when the barrier is broken.
Barrier::Slot* Barrier::enter(const Visit& visit, State& arrived) {
  for (;;) {
    const State seen = now();
    if (seen.phase == Phase::kBroken) return nullptr;
    if (seen.phase == Phase::kResetting) finish_reset(seen.generation);
    Slot* slot =
        seen.phase == Phase::kFilling ? take_slot(visit.me, seen.generation, seen.count) : nullptr;
    if (slot == nullptr) {
      // Others are about to be counted, to act or to leave.
      const auto moved = [&] {
        const State later = now();
        if (later.phase == Phase::kResetting) finish_reset(later.generation);
        return pack(now()) != pack(seen);
      };
      wait_for(visit, seen.generation, moved, Timeout::Clock::time_point::max());
      continue;
    }
    const bool last = seen.count + 1 == parties_;
    if (last && any_dead(row(seen.generation), parties_, seen.generation, visit.me,
                         spot_.maybe_asleep())) {
      break_in(seen.generation);
      leave_slot(*slot, visit.me, seen.generation);
      continue;
    }
    arrived = seen;
    State next{Phase::kFilling, seen.count + 1, seen.generation};
    if (last && visit.act != nullptr) next.phase = Phase::kActing;
    if (last && visit.act == nullptr) next = {Phase::kFilling, 0, seen.generation + 1};
    if (change(seen, next)) return slot;
    leave_slot(*slot, visit.me, seen.generation);
  }
}

std::int64_t Barrier::wait(const Visit& visit) {
  State arrived;
  Slot* slot = enter(visit, arrived);
  if (slot == nullptr) return -1;
  if (arrived.count + 1 < parties_) return stay(visit, arrived, *slot);
  if (visit.act != nullptr) return act(visit, arrived, *slot);
  spot_.notify_all();
  return arrived.count;
}

// The last one, when there is something to do before all may pass.
std::int64_t Barrier::act(const Visit& visit, State arrived, Slot& slot) {
  try {
    visit.act(visit.argument);
  } catch (...) {
    break_in(arrived.generation);
    leave(visit, arrived, slot);
    throw;
  }
  const State acting{Phase::kActing, parties_, arrived.generation};
  // Fails when somebody broke or reset it in the meantime.
  if (change(acting, {Phase::kFilling, 0, arrived.generation + 1})) spot_.notify_all();
  return leave(visit, arrived, slot);
}

std::int64_t Barrier::stay(const Visit& visit, State arrived, Slot& slot) {
  const std::uint32_t generation = arrived.generation;
  const auto over = [&] {
    const State seen = now();
    return seen.generation != generation || seen.phase == Phase::kBroken ||
           seen.phase == Phase::kResetting;
  };
  try {
    if (!wait_for(visit, generation, over, visit.deadline)) {
      expire(generation);
      // Once all have come the deadline does not count any more.
      wait_for(visit, generation, over, Timeout::Clock::time_point::max());
    }
  } catch (...) {
    expire(generation);
    leave(visit, arrived, slot);
    throw;
  }
  return leave(visit, arrived, slot);
}

// One who has arrived goes: through, or with an error.
std::int64_t Barrier::leave(const Visit& visit, State arrived, Slot& slot) noexcept {
  const State seen = now();
  if (seen.generation != arrived.generation) return arrived.count;
  leave_slot(slot, visit.me, arrived.generation);
  if (seen.phase == Phase::kResetting) finish_reset(seen.generation);
  return -1;
}

template <class Applies>
void Barrier::break_if(Applies&& applies) noexcept {
  for (;;) {
    const State seen = now();
    if (!applies(seen)) return;
    if (!change(seen, {Phase::kBroken, seen.count, seen.generation})) continue;
    spot_.notify_all();
    return;
  }
}

// A death or a failed action.
void Barrier::break_in(std::uint32_t generation) noexcept {
  break_if([=](State s) {
    return s.generation == generation && (s.phase == Phase::kFilling || s.phase == Phase::kActing);
  });
}

// One who waits does not want to any more.
void Barrier::expire(std::uint32_t generation) noexcept {
  break_if([=](State s) { return s.generation == generation && s.phase == Phase::kFilling; });
}

void Barrier::abort() noexcept {
  break_if([](State s) { return s.phase != Phase::kBroken; });
}

void Barrier::reset() noexcept {
  for (;;) {
    const State seen = now();
    // Also when nobody is counted: the dead may stand in a slot of either row.
    if (seen.phase == Phase::kResetting) return finish_reset(seen.generation);
    State next = seen;
    next.phase = Phase::kResetting;
    if (!change(seen, next)) continue;
    spot_.notify_all();
    return finish_reset(seen.generation);
  }
}

// Goes on to the next generation if nobody is inside any more. The dead are not.
void Barrier::finish_reset(std::uint32_t generation) noexcept {
  Slot* slots = row(generation);
  for (std::uint32_t i = 0; i < parties_; ++i) {
    std::uint64_t seen = slots[i].load(std::memory_order_acquire);  // ARRIVE slot: see leave_slot()
    if (owner_of(seen) == 0 || generation_of(seen) != generation) continue;
    if (!ProcessTable::instance().is_dead(owner_of(seen))) return;  // a watch asks the kernel
    leave_slot(slots[i], owner_of(seen), generation);
  }
  const State seen = now();
  if (seen.generation != generation || seen.phase != Phase::kResetting) return;
  if (change(seen, {Phase::kFilling, 0, generation + 1})) spot_.notify_all();
}

std::uint32_t Barrier::waiting() const noexcept {
  const State seen = now();
  return seen.phase == Phase::kFilling ? seen.count : 0;
}

bool Barrier::broken() const noexcept { return now().phase == Phase::kBroken; }

}  // namespace millrace::shm
