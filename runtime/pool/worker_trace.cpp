// What a worker adds to its pool's timeline.
#include <sched.h>

#include "runtime/base/own_pid.hpp"
#include "runtime/pool/pool_trace.hpp"
#include "runtime/pool/worker_process.hpp"
#include "shm/parking.hpp"

namespace millrace::runtime {

TraceBuffer* Worker::trace_buffer(PoolShared& pool, int index) noexcept {
  return &pool.traces[index];
}

void Worker::trace_start() noexcept {
  trace_->append({.begin = last_ticks_,
                  .end = last_ticks_,
                  .pid = own_pid(),
                  .cpu = static_cast<std::int16_t>(::sched_getcpu()),
                  .kind = TraceEvent::Kind::start});
}

// Before the reply is given: who has it finds the event.
void Worker::trace_task(const TaskRing::Slot& task, int rank, std::uint64_t began) noexcept {
  const int lane = order_[static_cast<std::size_t>(rank)];
  trace_->append({.begin = began,
                  .end = shm::ticks(),
                  .first = pool_.rings[lane]->position(task),
                  .pid = own_pid(),
                  .cpu = static_cast<std::int16_t>(::sched_getcpu()),
                  .kind = TraceEvent::Kind::task,
                  .lane = static_cast<std::uint8_t>(lane)});
}

void Worker::trace_chunk(const RangeItems& items, std::uint64_t began) noexcept {
  trace_->append({.begin = began,
                  .end = shm::ticks(),
                  .first = items.first,
                  .last = items.last,
                  .job = items.job,
                  .pid = own_pid(),
                  .cpu = static_cast<std::int16_t>(::sched_getcpu()),
                  .kind = TraceEvent::Kind::chunk});
}

}  // namespace millrace::runtime
