// What a pool tells about itself.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <millrace/pool.hpp>
#include <new>
#include <string>
#include <thread>

#include "runtime/base/own_pid.hpp"
#include "runtime/pool/process_pool.hpp"
#include "shm/parking.hpp"

namespace millrace::runtime {

// As the worker at `index` has read it back.
WorkerBinding ProcessPool::binding_of(int index) const {
  const WorkerSlot& slot = shared_->slots[index];
  WorkerBinding binding{.pid = slot.pid.load(std::memory_order_relaxed),
                        .node = slot.node,
                        .source = plan_.workers[static_cast<std::size_t>(index)].source};
  for (int cpu = 0; cpu < kMaxCpus; ++cpu) {
    if ((slot.cpus[cpu / 64] >> (cpu % 64) & 1) != 0) binding.cpus.push_back(cpu);
  }
  return binding;
}

std::vector<WorkerBinding> ProcessPool::bindings() const {
  check_owner();
  std::vector<WorkerBinding> all;
  for (std::int32_t i = 0; i < shared_->workers; ++i) {
    const WorkerSlot& slot = shared_->slots[i];
    // BOUND: what the worker read back; a pool that was just made has to wait for it.
    const auto limit = Clock::now() + std::chrono::seconds(5);
    // BIND worker: worker.cpp writes, process_pool.cpp reads
    while (slot.bound.load(std::memory_order_acquire) == 0 && Clock::now() < limit &&
           // BREAK pool: zygote.cpp writes, pool_loss.cpp reads
           shared_->broken.load(std::memory_order_acquire) == 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    all.push_back(binding_of(i));
  }
  return all;
}

std::vector<WorkerStats> ProcessPool::stats() const {
  check_owner();
  const double second = static_cast<double>(shm::ticks_per_us()) * 1e6;
  std::vector<WorkerStats> all;
  const Lock lock(mutex_);
  for (std::int32_t i = 0; i < shared_->workers; ++i) {
    const WorkerSlot& slot = shared_->slots[i];
    const auto seat = static_cast<std::size_t>(i);
    constexpr auto relaxed = std::memory_order_relaxed;
    WorkerStats stats{.pid = slot.pid.load(relaxed), .tasks = slot.tasks.load(relaxed)};
    if (seat < ended_by_dead_.size()) stats.tasks += ended_by_dead_[seat];
    stats.busy =
        std::chrono::duration<double>(static_cast<double>(slot.busy_ticks.load(relaxed)) / second);
    stats.idle =
        std::chrono::duration<double>(static_cast<double>(slot.idle_ticks.load(relaxed)) / second);
    stats.bytes = slot.bytes.load(relaxed);
    const std::size_t ranks = std::min<std::size_t>(plan_.steal_order.size(), 8);
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      stats.steals_by_distance.push_back(slot.steals[rank].load(relaxed));
    }
    all.push_back(std::move(stats));
  }
  return all;
}

std::string ProcessPool::repr() const {
  Lock lock(mutex_, std::defer_lock);
  if (own_pid() == owner_pid_) lock.lock();  // in a forked child nobody would ever release it
  static constexpr const char* kNames[] = {"RUN", "CLOSE", "TERMINATE"};
  return std::string("<multiprocessing.pool.Pool state=") + kNames[static_cast<int>(state_)] +
         " pool_size=" + std::to_string(shared_->workers) + ">";
}

// With the lock, when the workers have left.
void ProcessPool::write_trace() noexcept {
  if (!trace_) return;
  try {
    std::vector<WorkerBinding> where;
    for (std::int32_t i = 0; i < shared_->workers; ++i) where.push_back(binding_of(i));
    trace_->write(where);
  } catch (const std::bad_alloc&) {  // no memory, no timeline
  }
}

}  // namespace millrace::runtime
