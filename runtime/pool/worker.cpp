#include "runtime/pool/worker.hpp"

#include <cxxabi.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>
#include <memory>
#include <millrace/job.hpp>
#include <string>
#include <utility>
#include <vector>

#include "runtime/base/exceptions.hpp"
#include "runtime/base/throw_trace.hpp"
#include "runtime/pool/carriers.hpp"
#include "runtime/pool/parent_memory.hpp"
#include "runtime/pool/range_task.hpp"
#include "runtime/pool/worker_process.hpp"
#include "runtime/process/child.hpp"
#include "sched/binding.hpp"
#include "shm/arena.hpp"

namespace millrace::runtime {
namespace {

using shm::TaskTag;

constexpr std::uint64_t kShortTask = 2;  // microseconds

// Bytes of the slot that a reply may take: the parent may look at the cursor of dealt chunks still.
std::size_t inline_room(std::uint32_t flags) {
  return (flags & kDealt) != 0 ? offsetof(RangeTask, cursor) : TaskRing::Slot::kInlineBytes;
}

std::byte* take_room(TaskCall& call, std::size_t bytes) {
  auto& task = static_cast<RunningTask&>(call);
  if (bytes > task.room_bytes) return nullptr;
  task.room_used = bytes;
  return task.room;
}

}  // namespace

int Worker::run() {
  bind();
  set_parent_memory(pool_.parent_pid);
  set_carried_seat(index_, home_);
  // REACH: tried once; every worker finds the same.
  // REACH parent: worker.cpp writes, process_pool.cpp reads
  pool_.reach.store(probe_parent_memory(plan_.probe) ? 1 : 2, std::memory_order_release);
  if (plan_.initializer) plan_.initializer->call();
  set_idle_bit(false);
  pool_.readied.fetch_add(1, std::memory_order_relaxed);            // ordered by READY
  slot_.phase.store(WorkerPhase::busy, std::memory_order_release);  // READY: see the zygote
  last_ticks_ = shm::ticks();
  if (trace_ != nullptr) trace_start();
  while (!done_) {
    // relaxed: advice
    if (pool_.parent_copies.load(std::memory_order_relaxed) != 0) make_way();
    if (run_task() || run_ranges()) continue;
    if (!await_work()) break;
  }
  slot_.phase.store(WorkerPhase::leaving, std::memory_order_release);  // LEAVE: see the zygote
  set_idle_bit(true);  // it takes no more tasks, however long its exit takes
  return 0;
}

void Worker::bind() {
  const auto& place = plan_.workers[static_cast<std::size_t>(index_)];
  std::vector<int> cpus;
  if (plan_.apply_binding && !place.cpus.empty()) {
    cpus = sched::bind_self(place.cpus);
    if (place.node >= 0) sched::prefer_node(place.node);
    home_ = place.home;
  } else {
    restore_affinity();
    cpus = plan_.apply_binding ? sched::Topology::system().current_allowed() : place.cpus;
  }
  std::memset(slot_.cpus, 0, sizeof slot_.cpus);
  for (const int cpu : cpus) {
    if (cpu < kMaxCpus) slot_.cpus[cpu / 64] |= std::uint64_t{1} << (cpu % 64);
  }
  slot_.node = place.node;
  // BIND worker: worker.cpp writes, process_pool.cpp reads
  slot_.bound.store(1, std::memory_order_release);  // BOUND: pairs with bindings()
  if (plan_.report_bindings) {
    print_error(
        sched::format_binding(process_name(), ::getpid(), {cpus, place.node, place.source}) + "\n");
  }
}

bool Worker::run_task() {
  for (std::size_t rank = 0; rank < order_.size(); ++rank) {
    TaskRing* ring = pool_.rings[order_[rank]];
    if (ring == nullptr) continue;
    TaskRing::Slot* task = ring->claim(self_);
    if (task == nullptr) continue;
    const std::uint64_t position = ring->position(*task);
    // Short tasks come in bursts: the line of the next is on its way while this one runs.
    if (!long_tasks_) __builtin_prefetch(&ring->slot(position + 1), 1);
    // Half of what was handed out is taken: time for more. relaxed: advice to the parent.
    if (position >= pool_.low_water[order_[rank]].load(std::memory_order_relaxed)) {
      tell_parent();
    }
    if (long_tasks_ && anyone_asleep(pool_) && ring->may_have_work() && worth_waking(pool_)) {
      wake_one_worker(pool_, index_);  // more work than workers awake: pass the word on
    }
    execute(*task, static_cast<int>(rank));
    return true;
  }
  return false;
}

TaskTag Worker::call(const TaskRing::Slot& task, RunningTask& running) {
  const ThrowTraceScope traced;
  try {
    reinterpret_cast<TaskEntry>(resolve_function(task.function))(running);
    return TaskTag::done;
  } catch (...) {
    const std::exception_ptr error = item_error();
    out_.discard();
    running.room_used = 0;
    encode_exception(out_, error);
    return TaskTag::failed;
  }
}

void Worker::execute(TaskRing::Slot& task, int rank) {
  const std::uint64_t began = trace_ != nullptr ? shm::ticks() : 0;
  const std::uint32_t flags = task.size;
  const std::byte* payload = task.bytes;
  std::size_t size = flags & kSizeMask;
  Far far{};
  if ((flags & kFar) != 0) {
    std::memcpy(&far, task.bytes, sizeof far);
    payload = far.data;
    size = far.size;
  }
  if ((flags & kTimed) != 0) {
    // BEGIN task: worker.cpp writes, pool_loss.cpp reads
    slot_.began_ns.store(static_cast<std::uint64_t>(now_ns()), std::memory_order_seq_cst);
  }
  wire::Reader reader(payload, size, wire::References::borrow);
  const auto* context = reinterpret_cast<const ContextHeader*>(task.context);
  out_.begin();
  RunningTask running{{reader, out_, {}, 0, &take_room}};
  if (context != nullptr) {
    running.context = {context->data(), context->size};
    running.job = context->job;
  }
  if (far.data != nullptr) {
    const std::size_t used = (far.size + 63) & ~std::size_t{63};
    running.room = far.data + used;
    running.room_bytes = far.capacity > used ? far.capacity - used : 0;
  }
  std::uint32_t reply_size = 0;
  const TaskTag tag = answer(task, running, call(task, running), reply_size);
  const std::size_t bytes = running.room_used != 0 ? running.room_used : out_.size();
  const std::uint64_t chunks = (flags & kDealt) != 0 ? ChunkCursor(task.bytes).begun() : 1;
  task.size = reply_size;
  if (trace_ != nullptr) trace_task(task, rank, began);
  if (!TaskRing::finish(task, self_, tag)) await_end();
  if ((flags & kTimed) != 0) slot_.began_ns.store(0, std::memory_order_relaxed);
  // COUNT: release pairs with the parent's sum; the barrier in tell_parent() orders it before the
  // look at whether the parent sleeps.
  slot_.completed.store(slot_.completed.load(std::memory_order_relaxed) + 1,
                        // COUNT reply: worker.cpp writes, pool_wait.cpp sums
                        std::memory_order_release);
  bump(slot_.steals[std::min(rank, 7)], chunks);
  bump(slot_.bytes, size + bytes);
  count_task((flags & kWhole) != 0, chunks);
  replied_ = true;
  if (pool_.eager.load(std::memory_order_relaxed) != 0) tell_parent();
}

// Puts result or error into the slot. A result for which there is no memory becomes that error.
TaskTag Worker::answer(TaskRing::Slot& task, RunningTask& running, TaskTag tag,
                       std::uint32_t& size) {
  try {
    reply(task, running, size);
    return tag;
  } catch (const std::exception&) {
    const std::exception_ptr error = std::current_exception();
    out_.discard();
    encode_exception(out_, error);
  }
  reply(task, running, size);  // without memory even for that this worker ends, as WorkerLost tells
  return TaskTag::failed;
}

void Worker::reply(TaskRing::Slot& task, const RunningTask& running, std::uint32_t& size) {
  if (running.room_used != 0) {
    const Far far{running.room, running.room_used, 0};
    std::memcpy(task.bytes, &far, sizeof far);
    size = kFar;
  } else if (out_.size() <= inline_room(task.size)) {
    std::memcpy(task.bytes, out_.data(), out_.size());
    size = static_cast<std::uint32_t>(out_.size());
    if (out_.block() != nullptr) shm::Arena::instance().deallocate(out_.block());
  } else {
    std::byte* block = out_.block();
    if (block == nullptr) {
      block = static_cast<std::byte*>(shm::Arena::instance().allocate(out_.size()));
      std::memcpy(block, out_.data(), out_.size());
    }
    const Far far{block, out_.size(), 0};
    std::memcpy(task.bytes, &far, sizeof far);
    size = kFar;
  }
}

void Worker::count_task(bool whole, std::uint64_t chunks) {
  bump(slot_.tasks, chunks);
  const std::uint64_t now = shm::ticks();
  bump(slot_.busy_ticks, now - last_ticks_);
  long_tasks_ = now - last_ticks_ > chunks * kShortTask * shm::ticks_per_us();
  last_ticks_ = now;
  if (whole && pool_.max_tasks != 0 && ++tasks_ >= pool_.max_tasks) done_ = true;
}

bool Worker::run_ranges() {
  // OBSERVE ranges: acquire pairs with the parent's PUBLISH ranges.
  std::uint32_t mask = pool_.range_mask.load(std::memory_order_acquire);
  bool any = false;
  for (int index = 0; mask != 0; ++index, mask >>= 1) {
    if ((mask & 1) == 0) continue;
    RangeRecord& record = pool_.records[index];
    // ENTER record: pool_range.cpp and worker.cpp
    const std::uint32_t generation = record.generation.load(std::memory_order_acquire);
    // NUDGE range: pool_range.cpp writes, worker.cpp reads
    const std::uint32_t nudge = record.nudge.load(std::memory_order_acquire);
    if (generation == 0 || (finished_[index] == generation && nudged_[index] == nudge)) continue;
    any |= run_range(index, record, generation);
    finished_[index] = generation;
    nudged_[index] = nudge;
  }
  return any;
}

bool Worker::run_range(int index, RangeRecord& record, std::uint32_t generation) {
  // ENTER record: seq_cst orders the announcement before the second look: either the parent sees
  // that we are inside, or we see that the job is over.
  slot_.range_entered.store(static_cast<std::uint32_t>(index) + 1, std::memory_order_seq_cst);
  sched::RangeCursor& cursor = cursors_[static_cast<std::size_t>(index)];
  bool ran = false;
  // ENTER record: pool_range.cpp and worker.cpp
  const bool current = record.generation.load(std::memory_order_seq_cst) == generation;
  // relaxed: ENTER record orders it. It may be a later one already, which this job is no part of.
  sched::RangeJob* const job = current ? record.job.load(std::memory_order_relaxed) : nullptr;
  if (job != nullptr && job->join(generation, cursor)) {
    const auto& words = cursor.user();
    const auto* context = reinterpret_cast<const ContextHeader*>(words[kRangeContext]);
    RangeItems items{{}, 0, 0, 0};
    RangeEntry entry = nullptr;
    std::uint64_t mine = 0;
    while (const auto chunk = job->claim(cursor)) {
      // More than one each, and cpus without work: pass the word on, as the parent wakes two only.
      if (++mine == 2 && runnable(pool_) < pool_.cpus) wake_one_worker(pool_, index_);
      if (!ran) {  // only now is the context certain to be there
        items.context = {context->data(), context->size};
        items.job = context->job;
        ran = true;
      }
      items.first = words[kRangeFirst] + *chunk * words[kRangeChunk];
      items.last = items.first + std::min(words[kRangeChunk], words[kRangeLast] - items.first);
      const bool timed = context->timed != 0;
      if (timed) {
        // CHUNK: release: who sees it sees that the one before has ended.
        // BEGIN chunk: worker.cpp writes, pool_range.cpp reads
        slot_.range_chunk.store(*chunk, std::memory_order_release);
        slot_.began_ns.store(static_cast<std::uint64_t>(now_ns()),
                             // BEGIN task: worker.cpp writes, pool_loss.cpp reads
                             std::memory_order_seq_cst);
      }
      if (entry == nullptr) {
        entry = reinterpret_cast<RangeEntry>(
            resolve_function(static_cast<FunctionId>(words[kRangeEntry])));
      }
      const std::uint64_t began = trace_ != nullptr ? shm::ticks() : 0;
      run_chunk(record, items, entry, *chunk);
      if (trace_ != nullptr) trace_chunk(items, began);
      if (timed) slot_.began_ns.store(0, std::memory_order_relaxed);
      if (!job->finish(cursor)) await_end();
      bump(slot_.tasks, 1);
    }
    if (ran) {
      const std::uint64_t now = shm::ticks();
      bump(slot_.busy_ticks, now - last_ticks_);
      last_ticks_ = now;
      if (pool_.max_tasks != 0 && ++tasks_ >= pool_.max_tasks) done_ = true;
    }
    if (job->complete(generation)) {
      // COUNT: a parent that spins for another job sees by it that something has ended.
      slot_.completed.store(slot_.completed.load(std::memory_order_relaxed) + 1,
                            // COUNT reply: worker.cpp writes, pool_wait.cpp sums
                            std::memory_order_release);
      tell_parent();
    }
  }
  // LEAVE record: release pairs with the parent's look before it reuses the record's memory.
  slot_.range_entered.store(0, std::memory_order_release);
  return ran;
}

void Worker::run_chunk(RangeRecord& record, const RangeItems& items, RangeEntry entry,
                       std::uint64_t chunk) {
  const ThrowTraceScope traced;
  try {
    entry(items);
  } catch (...) {
    const std::exception_ptr error = item_error();
    if (record.failure.load(std::memory_order_relaxed) != 0) return;  // only the first is kept
    wire::Writer text;
    encode_exception(text, error);
    auto* failure = static_cast<RangeFailure*>(
        shm::Arena::instance().allocate(sizeof(RangeFailure) + text.size()));
    failure->size = text.size();
    failure->chunk = chunk;
    std::memcpy(failure + 1, text.data(), text.size());
    shm::Arena::instance().give(failure, pool_.parent_id);  // it outlives this worker
    std::uint64_t none = 0;
    // FAIL range: release pairs with the parent's look after completion.
    if (!record.failure.compare_exchange_strong(none, reinterpret_cast<std::uint64_t>(failure),
                                                // FAIL range: worker.cpp writes, pool_range.cpp
                                                std::memory_order_release,
                                                std::memory_order_relaxed)) {
      shm::Arena::instance().deallocate(failure);
    }
  }
}

int run_worker(PoolShared& pool, const PoolPlan& plan, int index) {
  return std::make_unique<Worker>(pool, plan, index)->run();
}

}  // namespace millrace::runtime
