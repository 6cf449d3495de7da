// The inside of a worker process: what it keeps while it runs tasks and chunks.
#pragma once

#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <millrace/job.hpp>
#include <utility>
#include <vector>

#include "runtime/pool/pool_shared.hpp"
#include "runtime/pool/zygote.hpp"
#include "shm/arena.hpp"

namespace millrace::runtime {

/// A reply: in a buffer of this process while it is small, else in a block of the arena.
class ReplyWriter final : public wire::Writer {
 public:
  void begin() noexcept {
    clear();
    block_ = nullptr;
    rebase(scratch_, scratch_, scratch_ + sizeof scratch_);
  }
  /// The arena block that holds the reply, nullptr while it is small.
  [[nodiscard]] std::byte* block() const noexcept { return block_; }
  void discard() noexcept {
    revert(0);
    if (block_ != nullptr) shm::Arena::instance().deallocate(block_);
    begin();
  }

 protected:
  void grow(std::size_t more) override {
    const std::size_t used = size();
    const std::size_t wanted = std::max(used + more, 2 * used);
    auto* next = static_cast<std::byte*>(shm::Arena::instance().allocate(wanted));
    std::memcpy(next, data(), used);
    if (block_ != nullptr) shm::Arena::instance().deallocate(block_);
    block_ = next;
    rebase(next, next + used, next + wanted);
  }

 private:
  std::byte* block_ = nullptr;
  alignas(64) std::byte scratch_[4096];
};

/// A task being run: what its entry point sees, and where a reply may go without a block of its
/// own.
struct RunningTask : TaskCall {
  std::byte* room = nullptr;
  std::size_t room_bytes = 0;
  std::size_t room_used = 0;
};

/// Raises a counter that only this process writes.
inline void bump(std::atomic<std::uint64_t>& counter, std::uint64_t by) noexcept {
  // relaxed: one writer; readers want a recent value, not an order.
  counter.store(counter.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
}

/// One worker, in its own process and its only thread.
class Worker {
 public:
  Worker(PoolShared& pool, const PoolPlan& plan, int index)
      : pool_(pool),
        plan_(plan),
        index_(index),
        slot_(pool.slots[index]),
        trace_(pool.traces == nullptr ? nullptr : trace_buffer(pool, index)),
        self_(shm::self()),
        order_(plan.steal_order[static_cast<std::size_t>(
            plan.workers[static_cast<std::size_t>(index)].lane)]) {
    const sched::RangeSeat seat{self_, index, order_.front(), order_};
    cursors_.assign(kRangeRecords, sched::RangeCursor(seat));
  }

  /// Runs until it is to leave; the exit code.
  int run();

 private:
  void bind();
  bool run_task();
  void execute(TaskRing::Slot& task, int rank);
  shm::TaskTag call(const TaskRing::Slot& task, RunningTask& running);
  shm::TaskTag answer(TaskRing::Slot& task, RunningTask& running, shm::TaskTag tag,
                      std::uint32_t& size);
  void reply(TaskRing::Slot& task, const RunningTask& running, std::uint32_t& size);
  bool run_ranges();
  bool run_range(int index, RangeRecord& record, std::uint32_t generation);
  void run_chunk(RangeRecord& record, const RangeItems& items, RangeEntry entry,
                 std::uint64_t chunk);
  static TraceBuffer* trace_buffer(PoolShared& pool, int index) noexcept;
  void trace_start() noexcept;
  void trace_task(const TaskRing::Slot& task, int rank, std::uint64_t began) noexcept;
  void trace_chunk(const RangeItems& items, std::uint64_t began) noexcept;
  bool has_work();
  bool next_ready();
  bool await_work();
  bool spin_for_work();
  [[nodiscard]] bool on_parents_cpu() const noexcept;
  static bool move(int cpu, bool there) noexcept;
  bool step_aside() noexcept;
  void leave_parents_cpu() noexcept;
  void make_way();
  void rest();
  void sleep();
  void note_wake() noexcept;
  void set_idle_bit(bool idle) noexcept;
  void count_task(bool whole, std::uint64_t chunks);
  void tell_parent() noexcept { pool_.bell.notify_all(); }

  [[noreturn]] static void await_end() {
    // The task was taken away: the zygote has been told to end this process. Until it does, nothing
    // that this process does may be seen by anyone.
    for (;;) ::pause();
  }

  PoolShared& pool_;
  const PoolPlan& plan_;
  int index_;
  WorkerSlot& slot_;
  TraceBuffer* trace_;  // null: no timeline
  shm::ProcessId self_;
  const std::vector<int>& order_;
  std::vector<sched::RangeCursor> cursors_;
  std::uint32_t finished_[kRangeRecords] = {};  // generation that had nothing left for us
  std::uint32_t nudged_[kRangeRecords] = {};    // and the nudge seen with it
  ReplyWriter out_;
  int home_ = -1;  // cpu it rests on; -1: anywhere
  std::uint64_t last_ticks_ = 0;
  std::uint64_t last_idle_ = 0;  // how long it waited for what it does now
  std::uint64_t last_move_ = 0;  // when it last left the parent's cpu for its own
  std::int64_t tasks_ = 0;
  bool long_tasks_ = true;  // tasks are worth the price of waking another worker
  bool replied_ = false;    // since the parent was told last
  bool done_ = false;
};

}  // namespace millrace::runtime
