// How many items of a JoinableQueue are not dealt with.
#include "runtime/channels/queue.hpp"
#include "runtime/sync/synchronize.hpp"

namespace millrace::runtime {

using shm::QueueHeld;
using shm::QueueRing;
using shm::QueueSlot;

CountingLock::CountingLock(Unfinished& unfinished) : unfinished_(unfinished) {
  const shm::SharedLock::Result got = unfinished.lock.acquire_uninterrupted(shm::this_caller());
  if (got.got != shm::Got::abandoned) return;
  // NOTE put: acquire, pairs with the release in publish_counted()
  const std::uint64_t noted = unfinished.slot.load(std::memory_order_acquire);
  if (noted == 0) return;
  // NOLINTNEXTLINE(performance-no-int-to-ptr): an address in the arena
  auto& slot = *reinterpret_cast<QueueSlot*>(noted);
  std::uint64_t seen = QueueSlot::word(unfinished.lap, unfinished.owner, QueueSlot::kWriting);
  // COUNT items: release, pairs with the acquire in join()
  unfinished.items.store(unfinished.count, std::memory_order_release);
  // PUBLISH slot: release, pairs with OBSERVE slot in queue_walk.hpp. It fails if the dead had done
  // it.
  slot.state.compare_exchange_strong(
      seen, QueueSlot::word(unfinished.lap, unfinished.owner, QueueSlot::kReady),
      std::memory_order_acq_rel, std::memory_order_relaxed);
  unfinished.slot.store(0, std::memory_order_release);  // NOTE put: carried out
}

void publish_counted(Unfinished& unfinished, const QueueHeld& held, std::uint32_t me) {
  const CountingLock lock(unfinished);
  // relaxed: written under the lock
  const std::uint64_t count = unfinished.items.load(std::memory_order_relaxed) + 1;
  unfinished.lap = held.lap;
  unfinished.owner = me;
  unfinished.count = count;
  // NOTE put: release; from here on the item is put, whoever does it.
  unfinished.slot.store(reinterpret_cast<std::uint64_t>(held.slot), std::memory_order_release);
  // COUNT items: release, pairs with the acquire in join()
  unfinished.items.store(count, std::memory_order_release);
  QueueRing::publish(held, me);
  unfinished.slot.store(0, std::memory_order_release);  // NOTE put: carried out
}

void QueueCalls::task_done(const shm::ObjectRef& queue) {
  Unfinished& unfinished = payload_of<QueueState>(queue, "JoinableQueue").unfinished;
  std::uint64_t left = 0;
  {
    const CountingLock lock(unfinished);
    // relaxed: written under the lock
    left = unfinished.items.load(std::memory_order_relaxed);
    if (left == 0) throw ValueError("task_done() called too many times");
    // COUNT items: release, pairs with the acquire in join()
    unfinished.items.store(--left, std::memory_order_release);
  }
  if (left == 0) unfinished.none.notify_all();
}

bool wait_finished(const shm::ObjectRef& queue, Timeout timeout) {
  Unfinished& unfinished = payload_of<QueueState>(queue, "JoinableQueue").unfinished;
  const auto none = [&] {
    // COUNT items: acquire; what was done before task_done()
    return unfinished.items.load(std::memory_order_acquire) == 0;
  };
  return none() || shm::wait_until(unfinished.none, none, wait_policy(), timeout.deadline());
}

void QueueCalls::join(const shm::ObjectRef& queue) { (void)wait_finished(queue, {}); }

}  // namespace millrace::runtime
