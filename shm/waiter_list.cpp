#include "shm/waiter_list.hpp"

#include <millrace/handle.hpp>

#include "shm/message_scope.hpp"
#include "shm/process_table.hpp"

namespace millrace::shm {
namespace {

enum State : std::uint32_t { kFree, kWaiting, kNotified };

constexpr State state_of(std::uint32_t word) noexcept {
  return static_cast<State>(word >> kProcessIdBits);
}
constexpr ProcessId owner_of(std::uint32_t word) noexcept { return word & kProcessIdMask; }
constexpr std::uint32_t pack(ProcessId owner, State state) noexcept {
  return owner | static_cast<std::uint32_t>(state) << kProcessIdBits;
}

}  // namespace

bool WaiterList::Slot::wait(const WaitPolicy& policy, Timeout::Clock::time_point deadline) {
  // OBSERVE notification: acquire; what the notifier did comes by the lock as well.
  const auto ready = [&] { return state_of(word_.load(std::memory_order_acquire)) == kNotified; };
  return wait_until(spot_, ready, policy, deadline);
}

bool WaiterList::Slot::give_up(ProcessId me) noexcept {
  std::uint32_t seen = pack(me, kWaiting);
  // CHOOSE slot: acq_rel; either this leaves first, or notify() has chosen it.
  return word_.compare_exchange_strong(seen, 0, std::memory_order_acq_rel,
                                       std::memory_order_relaxed);
}

void WaiterList::Slot::leave() noexcept {
  word_.store(0, std::memory_order_release);  // CHOOSE slot: the next owner comes after this one
}

WaiterList* WaiterList::next() const noexcept {
  // CHAIN block: acquire pairs with add_block()
  return reinterpret_cast<WaiterList*>(next_.load(std::memory_order_acquire));
}

template <class Visit>
void WaiterList::each(Visit&& visit) const {
  for (const WaiterList* block = this; block != nullptr; block = block->next()) {
    for (Slot& slot : block->slots_) {
      if (visit(slot)) return;
    }
  }
}

// The new block is referred to from shared memory: counted there, and dropped as a link.
void WaiterList::add_block() {
  const ObjectRef block(ObjectRequest{sizeof(WaiterList), object_type<WaiterList>(), 0, {}, 1});
  const OutsideMessage outside;  // the reference is the list's
  depart_object(block.payload());
  // CHAIN block: release, the block is empty
  next_.store(reinterpret_cast<std::uint64_t>(block.payload()), std::memory_order_release);
}

WaiterList::Slot& WaiterList::enter(ProcessId me) {
  // relaxed: under the lock
  const std::uint32_t order = last_order_.load(std::memory_order_relaxed) + 1;
  last_order_.store(order, std::memory_order_relaxed);
  for (WaiterList* block = this;; block = block->next()) {
    for (Slot& slot : block->slots_) {
      std::uint32_t free = 0;
      if (slot.word_.load(std::memory_order_relaxed) != 0) continue;  // a guess
      slot.order_.store(order, std::memory_order_relaxed);            // published by the word
      // CHOOSE slot: acq_rel, after its last owner's leave()
      if (slot.word_.compare_exchange_strong(free, pack(me, kWaiting), std::memory_order_acq_rel,
                                             std::memory_order_relaxed)) {
        return slot;
      }
    }
    if (block->next() == nullptr) block->add_block();
  }
}

bool WaiterList::notify_first() noexcept {
  for (;;) {
    Slot* first = nullptr;
    std::uint32_t word = 0;
    each([&](Slot& slot) {
      // CHOOSE slot: acquire, the order was written before
      const std::uint32_t seen = slot.word_.load(std::memory_order_acquire);
      if (state_of(seen) != kWaiting) return false;
      const std::uint32_t order = slot.order_.load(std::memory_order_relaxed);
      // The distance is small against the range of the numbers, so its sign tells.
      if (first == nullptr ||
          static_cast<std::int32_t>(order - first->order_.load(std::memory_order_relaxed)) < 0) {
        first = &slot;
        word = seen;
      }
      return false;
    });
    if (first == nullptr) return false;
    const bool dead = ProcessTable::instance().is_dead(owner_of(word));
    const std::uint32_t then = dead ? 0 : pack(owner_of(word), kNotified);
    // CHOOSE slot, PUBLISH notification: acq_rel; fails when the waiter gave up.
    if (!first->word_.compare_exchange_strong(word, then, std::memory_order_acq_rel,
                                              std::memory_order_relaxed)) {
      continue;
    }
    if (dead) continue;
    first->spot_.notify_all();
    return true;
  }
}

void WaiterList::notify_everybody() noexcept {
  each([&](Slot& slot) {
    std::uint32_t seen = slot.word_.load(std::memory_order_relaxed);  // a guess
    // CHOOSE slot, PUBLISH notification: acq_rel; fails when the waiter gave up.
    if (state_of(seen) == kWaiting &&
        slot.word_.compare_exchange_strong(seen, pack(owner_of(seen), kNotified),
                                           std::memory_order_acq_rel, std::memory_order_relaxed)) {
      slot.spot_.notify_all();
    }
    return false;
  });
}

void WaiterList::notify(std::uint64_t n) {
  const ProcessTable& table = ProcessTable::instance();
  rescue_from([&](ProcessId id) { return table.is_dead(id); });
  if (n >= waiting()) return notify_everybody();
  for (std::uint64_t i = 0; i < n && notify_first(); ++i) {
  }
}

template <class Gone>
void WaiterList::rescue_from(Gone&& gone) noexcept {
  const ProcessId me = self();
  each([&](Slot& slot) {
    // OBSERVE notification: acquire
    std::uint32_t seen = slot.word_.load(std::memory_order_acquire);
    if (state_of(seen) != kNotified || owner_of(seen) == me || !gone(owner_of(seen))) return false;
    // CHOOSE slot: acq_rel; one of those who find it passes it on.
    if (slot.word_.compare_exchange_strong(seen, 0, std::memory_order_acq_rel,
                                           std::memory_order_relaxed)) {
      notify_first();
    }
    return false;
  });
}

void WaiterList::rescue() noexcept {
  rescue_from([](ProcessId id) { return !ProcessTable::instance().check_alive(id); });
}

std::uint32_t WaiterList::waiting() const noexcept {
  std::uint32_t count = 0;
  each([&](const Slot& slot) {
    const std::uint32_t seen = slot.word_.load(std::memory_order_relaxed);  // a number
    if (state_of(seen) == kWaiting) ++count;
    return false;
  });
  return count;
}

}  // namespace millrace::shm
