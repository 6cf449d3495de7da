// The timeline of a pool: `.trace = "run.json"`.
//
// Each position of the pool has a buffer in the arena that the worker standing there appends to,
// one event per task or chunk: two readings of the cycle counter and one cache line. What a task
// was is known to the parent only, which notes it when the reply comes; both are joined, by the
// task's place in its ring, when the file is written: when the workers have left.
//
// Invariants
//  1. One writer per buffer: the zygote puts a worker in a position after the one before is dead.
//  2. An event is complete before `count` covers it; a worker that dies in between leaves none.
//  3. Buffers and notes are bounded; what does not fit is counted in `dropped`, later events first.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <millrace/job.hpp>
#include <string>
#include <vector>

#include "runtime/pool/trace_file.hpp"

namespace millrace::runtime {

struct TraceEvent {
  enum class Kind : std::uint8_t { task, chunk, start };
  std::uint64_t begin = 0;  ///< shm::ticks()
  std::uint64_t end = 0;
  std::uint64_t first = 0;  ///< chunk: first item; task: its position in the ring of its lane
  std::uint64_t last = 0;   ///< chunk: one past the last item
  std::uint64_t job = 0;    ///< chunk: the job; task: 0
  std::int32_t pid = 0;
  std::int16_t cpu = -1;
  Kind kind = Kind::task;
  std::uint8_t lane = 0;
};
static_assert(sizeof(TraceEvent) == 48);

struct TraceBuffer {
  static constexpr std::uint64_t kCapacity = 1 << 16;
  std::atomic<std::uint64_t> count{0};    ///< written by the worker, read by the parent
  std::atomic<std::uint64_t> dropped{0};  ///< the same
  TraceEvent events[kCapacity];

  void append(const TraceEvent& event) noexcept {
    const std::uint64_t at = count.load(std::memory_order_relaxed);  // its own
    if (at == kCapacity) {
      dropped.store(dropped.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
      return;
    }
    events[at] = event;
    count.store(at + 1, std::memory_order_release);  // EVENT: pool_trace.cpp reads
  }
};

/// The parent's side. Under the pool's lock.
class PoolTrace {
 public:
  /// std::system_error when the file cannot be written.
  PoolTrace(std::string path, int workers);
  PoolTrace(const PoolTrace&) = delete;
  PoolTrace& operator=(const PoolTrace&) = delete;
  ~PoolTrace();

  /// One buffer for each worker.
  [[nodiscard]] TraceBuffer* buffers() const noexcept { return buffers_; }
  /// A task's reply has come: what it was.
  void settled(int lane, std::uint64_t position, std::uint64_t job, FunctionId entry,
               const Piece& piece);
  /// A range job has begun.
  void range(std::uint64_t job, FunctionId entry);
  /// The worker at `index` ended while it ran these items.
  void lost(int index, pid_t pid, const Piece& piece);
  /// Writes the file, once; a failure is logged.
  void write(const std::vector<WorkerBinding>& bindings) noexcept;

 private:
  struct Note {
    int lane;
    std::uint64_t position;
    std::uint64_t job;
    FunctionId entry;
    std::uint64_t first;
    std::uint64_t count;
  };
  struct Loss {
    int index;
    pid_t pid;
    std::uint64_t at;
    Piece piece;
  };

  void write_events(TraceFile& file, int index);
  [[nodiscard]] static std::string kind_of(FunctionId entry);

  std::string path_;
  int workers_;
  TraceBuffer* buffers_;
  std::size_t most_notes_;
  std::vector<Note> notes_;
  std::vector<std::pair<std::uint64_t, FunctionId>> ranges_;
  std::vector<Loss> losses_;
  std::uint64_t dropped_ = 0;
  std::uint64_t start_ticks_;
  std::int64_t start_ns_;
  bool written_ = false;
};

}  // namespace millrace::runtime
