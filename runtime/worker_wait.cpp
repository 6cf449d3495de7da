// How a worker waits for work, and how it is woken.
#include <sched.h>

#include <algorithm>
#include <bit>
#include <chrono>

#include "runtime/worker_process.hpp"
#include "shm/parking.hpp"

namespace millrace::runtime {

bool Worker::has_work() {
  for (const int lane : order_) {
    if (pool_.rings[lane] != nullptr && pool_.rings[lane]->may_have_work()) return true;
  }
  // OFFER range: pool_range.cpp writes, worker.cpp reads
  std::uint32_t mask = pool_.range_mask.load(std::memory_order_seq_cst);
  for (int index = 0; mask != 0; ++index, mask >>= 1) {
    if ((mask & 1) == 0) continue;
    const RangeRecord& record = pool_.records[index];
    // ENTER record: pool_range.cpp and worker.cpp
    const std::uint32_t generation = record.generation.load(std::memory_order_acquire);
    // NUDGE range: pool_range.cpp writes, worker.cpp reads
    const std::uint32_t nudge = record.nudge.load(std::memory_order_acquire);
    if (generation != 0 && (finished_[index] != generation || nudged_[index] != nudge)) return true;
  }
  return false;
}

bool Worker::await_work() {
  const std::uint64_t from = shm::ticks();
  bump(slot_.busy_ticks, from - last_ticks_);
  slot_.phase.store(WorkerPhase::idle, std::memory_order_relaxed);
  bool work = true;
  while (!(work = spin_for_work())) {
    // CLOSE pool: written in process_pool.cpp, read in worker.cpp and zygote.cpp
    if (pool_.closing.load(std::memory_order_acquire) != 0) break;
    sleep();
    // CLOSE pool: written in process_pool.cpp, read in worker.cpp and zygote.cpp
    if (pool_.closing.load(std::memory_order_acquire) != 0 && !has_work())
      break;  // OBSERVE closing
  }
  slot_.phase.store(WorkerPhase::busy, std::memory_order_relaxed);
  last_ticks_ = shm::ticks();
  bump(slot_.idle_ticks, last_ticks_ - from);
  return work;
}

bool Worker::spin_for_work() {
  if (std::exchange(replied_, false)) tell_parent();  // nothing left here: there is to be collected
  const std::uint64_t start = shm::ticks();
  const std::uint64_t budget =
      pool_.spin_ns.load(std::memory_order_relaxed) * shm::ticks_per_us() / 1000;
  while (may_spin(pool_) &&
         (own_cpu_ < 0 || pool_.parent_cpu.load(std::memory_order_relaxed) != own_cpu_)) {
    for (int look = 0; look < 32; ++look) {
      if (has_work()) return true;
      shm::cpu_relax();
    }
    if (shm::ticks() - start > budget) break;
  }
  for (int yield = 0; yield < 2; ++yield) {
    ::sched_yield();
    if (has_work()) return true;
  }
  return false;
}

void Worker::set_idle_bit(bool idle) noexcept {
  auto& word = pool_.idle[index_ / 64];
  const std::uint64_t bit = std::uint64_t{1} << (index_ % 64);
  // SLEEP worker: seq_cst: ordered before our last look for work, as the waker's look at the bit is
  // ordered after its publication.
  if (idle) {
    word.fetch_or(bit, std::memory_order_seq_cst);
  } else {
    // HOLD reference: ref_table.cpp, both ends; see slab_heap.cpp for blocks
    word.fetch_and(~bit, std::memory_order_seq_cst);
  }
}

void Worker::sleep() {
  slot_.parked.store(1, std::memory_order_relaxed);
  set_idle_bit(true);
  shm::store_load_barrier();
  // CLOSE pool: written in process_pool.cpp, read in worker.cpp and zygote.cpp
  if (!has_work() && pool_.closing.load(std::memory_order_seq_cst) == 0) {
    shm::futex_wait(slot_.parked, 1, Timeout::Clock::now() + std::chrono::seconds(2));
  }
  set_idle_bit(false);
  slot_.parked.store(0, std::memory_order_relaxed);
  long_tasks_ = true;  // somebody thought it worth waking us
}

bool wake_worker(PoolShared& pool, int index) noexcept {
  WorkerSlot& slot = pool.slots[index];
  const std::uint64_t bit = std::uint64_t{1} << (index % 64);
  // WAKE worker: pairs with SLEEP worker; one waker wins the bit.
  if ((pool.idle[index / 64].fetch_and(~bit, std::memory_order_seq_cst) & bit) == 0) return false;
  slot.parked.store(0, std::memory_order_release);  // WAKE worker: before the futex call
  shm::futex_wake(slot.parked, 1);
  return true;
}

bool wake_one_worker(PoolShared& pool, int from) noexcept {
  const int words = (pool.workers + 63) / 64;
  for (int step = 0; step < words; ++step) {
    const int word = (from / 64 + step) % words;
    // SLEEP worker: worker.cpp announces, pool_feed.cpp looks
    std::uint64_t bits = pool.idle[word].load(std::memory_order_seq_cst);
    while (bits != 0) {
      const int index = word * 64 + std::countr_zero(bits);
      bits &= bits - 1;
      if (index >= pool.workers) break;
      // The bit of a worker that is absent or begins stays: it is not asleep, and one that begins
      // looks for work by itself.
      const WorkerSlot& slot = pool.slots[index];
      // STAND worker: zygote.cpp writes
      if (slot.id.load(std::memory_order_acquire) == 0 ||
          slot.phase.load(std::memory_order_relaxed) == WorkerPhase::starting) {
        continue;
      }
      if (wake_worker(pool, index)) return true;
    }
  }
  return false;
}

void wake_all_workers(PoolShared& pool) noexcept {
  for (int index = 0; index < pool.workers; ++index) {
    WorkerSlot& slot = pool.slots[index];
    slot.parked.store(0, std::memory_order_release);  // WAKE worker: before the futex call
    shm::futex_wake(slot.parked, 1);
  }
}

}  // namespace millrace::runtime
