// What a pool's parent, its zygote and its workers share: one block of the arena.
//
// Everything that may change is an atomic with one kind of writer, named beside it; nothing here is
// needed to be consistent with anything else, so a death between any two stores leaves a state that
// the reader of each word copes with by itself.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "sched/range_job.hpp"
#include "shm/parking.hpp"
#include "shm/process_table.hpp"
#include "shm/task_ring.hpp"

namespace millrace::runtime {

inline constexpr int kMaxWorkers = 1024;
inline constexpr int kMaxNodes = 64;
inline constexpr int kMaxCpus = 1024;
inline constexpr int kRangeRecords = 4;  ///< range jobs that may run at one time
inline constexpr std::size_t kTaskSlots = 256;

using TaskRing = shm::BasicTaskRing<kTaskSlots>;

/// The high bits of TaskSlot::size.
inline constexpr std::uint32_t kFar = 1U << 31;    ///< `bytes` holds a Far, not the payload
inline constexpr std::uint32_t kTimed = 1U << 30;  ///< the worker notes when it began
inline constexpr std::uint32_t kWhole = 1U << 29;  ///< counts as a task (maxtasksperchild)
inline constexpr std::uint32_t kDealt = 1U << 28;  ///< `bytes` holds a RangeTask with its cursor
inline constexpr std::uint32_t kSizeMask = kDealt - 1;

/// A payload or reply that does not fit into its slot.
struct Far {
  std::byte* data;         ///< in the arena
  std::uint64_t size;      ///< bytes
  std::uint64_t capacity;  ///< request only: bytes at data, room for the reply included
};

struct TraceBuffer;

enum class WorkerPhase : std::uint32_t { none, starting, idle, busy, leaving };

/// One position of the pool: the worker that stands there, and those that stood there before it.
struct WorkerSlot {
  static constexpr std::size_t kRecent = 16;

  // Written by the worker for every task; read by the parent while it waits.
  alignas(64) std::atomic<std::uint64_t> completed{0};  ///< replies given, never reset
  std::atomic<std::uint64_t> began_ns{0};     ///< start of the timed task or chunk it runs, 0: none
  std::atomic<std::uint64_t> range_chunk{0};  ///< the chunk, for a timed range job

  // Written by the worker, read now and then.
  alignas(64) std::atomic<std::uint64_t> tasks{0};
  std::atomic<std::uint64_t> busy_ticks{0};
  std::atomic<std::uint64_t> idle_ticks{0};
  std::atomic<std::uint64_t> bytes{0};
  std::atomic<std::uint64_t> steals[8] = {};  ///< by rank in the worker's steal order
  std::atomic<WorkerPhase> phase{WorkerPhase::none};
  std::atomic<std::uint32_t> range_entered{0};  ///< range record it may be reading, plus one

  // Written by whoever parks and whoever wakes it.
  alignas(64) std::atomic<std::uint32_t> parked{0};  ///< futex: 1 while it sleeps or is about to
  std::atomic<std::uint64_t> woken_ticks{0};         ///< when it was woken, by whoever did

  // Written by the zygote.
  alignas(64) std::atomic<std::uint32_t> id{0};  ///< process id in the table
  std::atomic<std::int32_t> pid{0};
  std::atomic<std::uint64_t> lives{0};              ///< workers that stood here so far
  std::atomic<std::uint32_t> recent[kRecent] = {};  ///< ids of those who stood here last; set by
                                                    ///< the zygote, 0 again once the parent has
                                                    ///< dealt with the death
  std::atomic<std::uint32_t> oom_id{0};             ///< the last worker here that ran out of memory

  // Written by the parent: the worker of this id is to be killed by the zygote.
  std::atomic<std::uint32_t> kill_request{0};

  // Written by the worker once bound, read back from the kernel.
  std::atomic<std::uint32_t> bound{0};
  std::int32_t node = -1;
  std::uint64_t cpus[kMaxCpus / 64] = {};
};

/// A job over an index range. Its words for the workers travel in sched::RangeJob's user words.
struct alignas(64) RangeRecord {
  /// Changed by the parent between jobs only. A worker reads it once, inside.
  std::atomic<sched::RangeJob*> job{nullptr};
  std::atomic<std::uint32_t> generation{0};  ///< written by the parent; 0: no job
  std::atomic<std::uint32_t> nudge{0};       ///< parent: chunks came back, look again
  std::atomic<std::uint64_t> failure{0};     ///< arena address of the first failure, CAS by workers
};

/// The user words of a range job.
enum RangeWord : std::size_t { kRangeEntry, kRangeContext, kRangeFirst, kRangeLast, kRangeChunk };

/// What precedes a job's context in the arena.
struct alignas(64) ContextHeader {
  std::uint64_t job;   ///< unique
  std::uint64_t size;  ///< bytes that follow
  std::uint64_t timed;
  [[nodiscard]] const std::byte* data() const noexcept {
    return reinterpret_cast<const std::byte*>(this + 1);
  }
  [[nodiscard]] std::byte* data() noexcept { return reinterpret_cast<std::byte*>(this + 1); }
};

/// A failure or loss of a range job, in the arena.
struct RangeFailure {
  std::uint64_t size;
  std::uint64_t chunk;
  // the encoded exception follows
};

struct PoolShared {
  // Read-only after creation.
  std::int32_t workers = 0;
  std::int32_t nodes = 1;
  std::int32_t cpus = 1;  ///< cpus that workers and parent may use, for the spin rule
  std::int32_t parent_pid = 0;
  std::uint32_t parent_id = 0;
  std::int64_t max_tasks = 0;                   ///< 0: no limit
  std::atomic<std::uint64_t> spin_ns{100'000};  ///< price of a sleep and wake, see note_wake()

  // Written by the parent.
  alignas(64) std::atomic<std::uint32_t> range_mask{0};  ///< bit per active RangeRecord
  std::atomic<std::uint32_t> closing{0};  ///< 1: workers leave when they find no work; 2: at once
  std::atomic<std::int32_t> parent_cpu{-1};     ///< where the parent runs or spins
  std::atomic<std::int32_t> parent_seat{-1};    ///< the worker whose home that is, -1: none
  std::atomic<std::uint32_t> parent_awake{1};   ///< counts as a runnable process
  std::atomic<std::uint32_t> parent_copies{0};  ///< it moves bytes for the workers: needs its cpu

  // The parent sleeps here; workers and zygote wake it.
  alignas(64) shm::ParkingSpot bell;
  std::atomic<std::uint32_t> eager{0};  ///< parent: wake me for every reply, not only when idle

  // Who sleeps or is not there. Bits set by a worker before it sleeps and by the zygote when one
  // has ended, cleared by whoever wakes it and by a worker that begins.
  alignas(64) std::atomic<std::uint64_t> idle[kMaxWorkers / 64] = {};

  // Written by the zygote.
  alignas(64) std::atomic<std::uint32_t> started{0};  ///< futex: 1 all forked, 2 failed
  std::atomic<std::int32_t> start_error{0};           ///< errno of a failed first fork
  std::atomic<std::uint32_t> broken{0};               ///< workers die before they are ready
  std::atomic<std::int32_t> broken_status{0};
  std::atomic<std::uint32_t> ending{0};  ///< written by the parent: end the workers now

  std::atomic<std::uint64_t> readied{0};  ///< written by workers: how many have become ready

  // Written by workers: 1 when they can reach the parent's private memory, 2 when they cannot.
  std::atomic<std::uint32_t> reach{0};
  std::atomic<std::uint64_t> deaths{0};  ///< workers that ended otherwise than by leaving
  std::atomic<std::uint32_t> gone{0};    ///< futex: 1 once every worker has left for good

  RangeRecord records[kRangeRecords];
  TraceBuffer* traces = nullptr;                         ///< one per worker, null: no timeline
  WorkerSlot* slots = nullptr;                           ///< workers of them
  TaskRing* rings[kMaxNodes] = {};                       ///< one per node that has workers
  std::atomic<std::uint64_t> low_water[kMaxNodes] = {};  ///< parent: wake me at this position
};

/// Wakes the parent if it sleeps and wants to know.
inline void ring_bell(PoolShared& pool) noexcept { pool.bell.notify_all(); }

/// Wakes worker `index` if its idle bit is set; false if it is not.
bool wake_worker(PoolShared& pool, int index) noexcept;

/// Claims one sleeping worker, nearest first from `from`, and wakes it. False if nobody sleeps.
bool wake_one_worker(PoolShared& pool, int from = 0) noexcept;

/// Wakes every sleeping worker.
void wake_all_workers(PoolShared& pool) noexcept;

/// Processes of the pool that run or want to.
inline std::int32_t runnable(const PoolShared& pool) noexcept {
  // relaxed: advice; a stale count costs a few microseconds of spinning or one early sleep.
  std::int32_t idle = 0;
  for (std::int32_t word = 0; word * 64 < pool.workers; ++word) {
    idle += std::popcount(pool.idle[word].load(std::memory_order_relaxed));
  }
  return pool.workers - idle +
         static_cast<std::int32_t>(pool.parent_awake.load(std::memory_order_relaxed));
}

/// True when some worker sleeps, or is not there. Advice: relaxed.
inline bool anyone_asleep(const PoolShared& pool) noexcept {
  for (std::int32_t word = 0; word * 64 < pool.workers; ++word) {
    if (pool.idle[word].load(std::memory_order_relaxed) != 0) return true;
  }
  return false;
}

/// True when every process of the pool that wants a cpu can have one of its own.
inline bool may_spin(const PoolShared& pool) noexcept { return runnable(pool) <= pool.cpus; }

/// False when another worker would only take the cpu from the parent, which carries to the workers
/// as much as it can.
inline bool worth_waking(const PoolShared& pool) noexcept {
  // relaxed: advice; the parent looks again before it sleeps.
  return pool.parent_copies.load(std::memory_order_relaxed) == 0 || runnable(pool) < pool.cpus;
}

/// How long, in microseconds, the first in line for a cpu goes on spinning although there are more
/// runnable processes than cpus: as long as those behind need to notice and go to sleep.
inline constexpr std::uint64_t kGrace = 5;

/// True when worker `index`, which has nothing to do, is among those that may keep a cpu to
/// themselves: not on the parent's cpu, and first in the order of their numbers. Of several that
/// were woken for one task too many, the same ones stay awake every time, the others sleep.
bool first_in_line(const PoolShared& pool, int index) noexcept;

}  // namespace millrace::runtime
