// How a worker waits for work, and how it is woken.
#include <sched.h>

#include <algorithm>
#include <bit>
#include <chrono>

#include "runtime/pool/worker_process.hpp"
#include "shm/parking.hpp"

namespace millrace::runtime {
namespace {

// Tasks that come within so many microseconds of each other follow closely.
constexpr std::uint64_t kClose = 200;

}  // namespace

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

// As has_work(), but looks only where work appears as a rule: a waiter that reads more lines makes
// the parent wait for each of them when it publishes.
bool Worker::next_ready() {
  for (const int lane : order_) {
    if (pool_.rings[lane] != nullptr && pool_.rings[lane]->next_ready()) return true;
  }
  return pool_.range_mask.load(std::memory_order_relaxed) != 0 && has_work();
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
  last_idle_ = last_ticks_ - from;
  bump(slot_.idle_ticks, last_idle_);
  return work;
}

// Nobody is to spin where the parent does.
bool Worker::on_parents_cpu() const noexcept {
  // relaxed: advice, as the whole rule.
  return pool_.parent_cpu.load(std::memory_order_relaxed) == ::sched_getcpu() &&
         pool_.parent_awake.load(std::memory_order_relaxed) != 0;
}

// Moves this process to `cpu`, or off it, without changing what it is bound to. False if its
// binding does not allow that, or what a task did to it.
bool Worker::move(int cpu, bool there) noexcept {
  cpu_set_t allowed;
  const auto which = static_cast<std::size_t>(cpu);
  if (cpu < 0 || cpu >= CPU_SETSIZE || ::sched_getaffinity(0, sizeof allowed, &allowed) != 0 ||
      !CPU_ISSET(which, &allowed) || CPU_COUNT(&allowed) < 2) {
    return false;
  }
  cpu_set_t target = allowed;
  if (there) CPU_ZERO(&target);
  if (there) CPU_SET(which, &target);
  if (!there) CPU_CLR(which, &target);
  return ::sched_setaffinity(0, sizeof target, &target) == 0 &&
         ::sched_setaffinity(0, sizeof allowed, &allowed) == 0;
}

// The kernel likes to wake a process where its waker runs. If there are cpus for both, and this
// worker may use another one, it goes there; what it is bound to stays the same. Only where calls
// follow each other closely: the move costs as much as a wake.
bool Worker::step_aside() noexcept { return may_spin(pool_) && move(::sched_getcpu(), false); }

// Brief calls that follow each other closely keep a worker awake that shares the parent's cpu:
// every time the parent yields there is work again. The kernel leaves the two, or three, where they
// are for tens of milliseconds although its own cpu is idle, as each has always run a moment ago.
// So it goes home by itself, but no more than once in kBetweenMoves: if the kernel sends it back it
// knows why.
void Worker::leave_parents_cpu() noexcept {
  constexpr std::uint64_t kBetweenMoves = 1000;  // microseconds
  if (home_ < 0 || !on_parents_cpu() || ::sched_getcpu() == home_) return;
  const std::uint64_t now = shm::ticks();
  if (now - last_move_ < kBetweenMoves * shm::ticks_per_us()) return;
  last_move_ = now;
  move(home_, true);
}

bool Worker::spin_for_work() {
  if (std::exchange(replied_, false)) tell_parent();  // nothing left here: there is to be collected
  leave_parents_cpu();
  const std::uint64_t start = shm::ticks();
  const std::uint64_t us = shm::ticks_per_us();
  const std::uint64_t budget = pool_.spin_ns.load(std::memory_order_relaxed) * us / 1000;
  for (std::uint64_t spun = 0; spun <= budget; spun = shm::ticks() - start) {
    if (on_parents_cpu() && !(last_idle_ < kClose * us && step_aside())) break;
    if (!may_spin(pool_) && (spun > kGrace * us || !first_in_line(pool_, index_))) break;
    if (has_work()) return true;
    for (int look = 0; look < 32; ++look) {
      if (next_ready()) return true;
      shm::cpu_relax();
    }
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
  // Sleep at home, so that workers woken together do not start on one cpu (sched/homes.hpp).
  if (::sched_getcpu() != home_ && may_spin(pool_)) move(home_, true);
  // CLOSE pool: written in process_pool.cpp, read in worker.cpp and zygote.cpp
  if (!has_work() && pool_.closing.load(std::memory_order_seq_cst) == 0) {
    slot_.woken_ticks.store(0, std::memory_order_relaxed);
    shm::futex_wait(slot_.parked, 1, Timeout::Clock::now() + std::chrono::seconds(2));
    note_wake();
  }
  set_idle_bit(false);
  slot_.parked.store(0, std::memory_order_relaxed);
  long_tasks_ = true;  // somebody thought it worth waking us
}

// The parent needs a cpu to carry work to the workers: this one leaves it to the parent.
void Worker::make_way() {
  if (runnable(pool_) > pool_.cpus && !first_in_line(pool_, index_)) {
    rest();
  } else if (on_parents_cpu()) {
    step_aside();
  }
}

// Sleeps although there may be work, until the parent has no more to carry for the moment.
void Worker::rest() {
  constexpr auto kRest = std::chrono::milliseconds(2);
  slot_.parked.store(1, std::memory_order_relaxed);
  set_idle_bit(true);
  // CARRY work: seq_cst: the parent clears the word before it looks for sleepers, pool_wait.cpp.
  if (pool_.parent_copies.load(std::memory_order_seq_cst) != 0) {
    shm::futex_wait(slot_.parked, 1, Timeout::Clock::now() + kRest);
  }
  set_idle_bit(false);
  slot_.parked.store(0, std::memory_order_relaxed);
}

// Whoever waits spins about as long as a sleep and the wake from it would have taken: at worst that
// doubles the price of a wait. The price differs by a factor of ten between machines, so it is
// measured: from the waker's decision to our first instruction.
void Worker::note_wake() noexcept {
  constexpr std::uint64_t kLeast = 10'000;
  constexpr std::uint64_t kMost = 200'000;
  constexpr auto relaxed = std::memory_order_relaxed;  // advice
  const std::uint64_t from = slot_.woken_ticks.load(relaxed);
  const std::uint64_t now = shm::ticks();
  if (from == 0 || now <= from) return;  // not woken, or clocks that differ between cpus
  const std::uint64_t ns = std::clamp((now - from) * 1000 / shm::ticks_per_us(), kLeast, kMost);
  pool_.spin_ns.store((7 * pool_.spin_ns.load(relaxed) + ns) / 8, relaxed);
}

bool wake_worker(PoolShared& pool, int index) noexcept {
  WorkerSlot& slot = pool.slots[index];
  const std::uint64_t bit = std::uint64_t{1} << (index % 64);
  // WAKE worker: pairs with SLEEP worker; one waker wins the bit.
  if ((pool.idle[index / 64].fetch_and(~bit, std::memory_order_seq_cst) & bit) == 0) return false;
  slot.woken_ticks.store(shm::ticks(), std::memory_order_relaxed);
  slot.parked.store(0, std::memory_order_release);  // WAKE worker: before the futex call
  shm::futex_wake(slot.parked, 1);
  return true;
}

namespace {

// The bit of a worker that is absent, begins or leaves stays: it is not asleep; one that begins
// looks for work by itself.
bool stands(const WorkerSlot& slot) noexcept {
  const WorkerPhase phase = slot.phase.load(std::memory_order_relaxed);
  // STAND worker: zygote.cpp writes
  return slot.id.load(std::memory_order_acquire) != 0 && phase != WorkerPhase::starting &&
         phase != WorkerPhase::leaving;
}

// Workers of word `word` that are there and asleep, as bits.
std::uint64_t sleepers_in(const PoolShared& pool, int word) noexcept {
  // SLEEP worker: worker.cpp announces, pool_feed.cpp looks
  std::uint64_t bits = pool.idle[word].load(std::memory_order_seq_cst);
  if (word * 64 + 64 > pool.workers) bits &= (std::uint64_t{1} << (pool.workers - word * 64)) - 1;
  for (std::uint64_t left = bits; left != 0; left &= left - 1) {
    const int bit = std::countr_zero(left);
    if (!stands(pool.slots[word * 64 + bit])) bits &= ~(std::uint64_t{1} << bit);
  }
  return bits;
}

}  // namespace

bool wake_one_worker(PoolShared& pool, int from) noexcept {
  const int words = (pool.workers + 63) / 64;
  const int seat = pool.parent_awake.load(std::memory_order_relaxed) != 0
                       ? pool.parent_seat.load(std::memory_order_relaxed)
                       : -1;
  for (int step = 0; step < words; ++step) {
    const int word = (from / 64 + step) % words;
    for (std::uint64_t bits = sleepers_in(pool, word); bits != 0; bits &= bits - 1) {
      const int index = word * 64 + std::countr_zero(bits);
      if (index != seat && wake_worker(pool, index)) return true;
    }
  }
  // Last: it has to share its cpu with the parent.
  return seat >= 0 && stands(pool.slots[seat]) && wake_worker(pool, seat);
}

bool first_in_line(const PoolShared& pool, int index) noexcept {
  constexpr auto relaxed = std::memory_order_relaxed;  // advice
  const int parent = static_cast<int>(pool.parent_awake.load(relaxed));
  const int seat = parent != 0 ? pool.parent_seat.load(relaxed) : -1;
  if (index == seat) return false;
  int before = 0;
  for (int word = 0; word * 64 <= index; ++word) {
    std::uint64_t awake = ~pool.idle[word].load(relaxed);
    if (index - word * 64 < 64) awake &= (std::uint64_t{1} << (index - word * 64)) - 1;
    if (seat >= 0 && seat / 64 == word) awake &= ~(std::uint64_t{1} << (seat % 64));
    before += std::popcount(awake);
  }
  return before + parent < pool.cpus;
}

void wake_all_workers(PoolShared& pool) noexcept {
  for (int index = 0; index < pool.workers; ++index) {
    WorkerSlot& slot = pool.slots[index];
    slot.parked.store(0, std::memory_order_release);  // WAKE worker: before the futex call
    shm::futex_wake(slot.parked, 1);
  }
}

}  // namespace millrace::runtime
