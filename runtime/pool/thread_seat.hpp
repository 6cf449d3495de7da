// A worker's turn at a job of a pool of threads.
#pragma once

#include <list>

#include "runtime/pool/thread_core.hpp"

namespace millrace::runtime {

/// Made by the worker for each turn. What a chunk with a timeout needs is under the core's lock.
class ThreadCore::Turn final : public ThreadTurn {
 public:
  Turn(ThreadCore& core, Job& job, pid_t tid) noexcept
      : core_(core),
        job_(job),
        timed_(!job.settings().timeout.infinite()),
        traced_(core.traced_),
        tid_(tid) {}

  void begin(const Piece& chunk) override;
  bool end() override;
  [[nodiscard]] bool over() const noexcept override {
    // relaxed: advice; another job waits a chunk longer.
    return core_.job_count_.load(std::memory_order_relaxed) > 1;
  }
  [[nodiscard]] PoolCore& core() noexcept override { return core_; }
  [[nodiscard]] Job& job() noexcept override { return job_; }
  [[nodiscard]] pid_t tid() const noexcept override { return tid_; }

  /// Chunks that it has begun.
  [[nodiscard]] std::uint64_t chunks() const noexcept { return chunks_; }
  /// When the time of the present chunk is up.
  [[nodiscard]] Clock::time_point limit() const {
    return began_ + job_.settings().timeout.duration();
  }
  [[nodiscard]] bool expired() const noexcept { return expired_; }
  /// The time is up: the chunk fails.
  void expire();

  /// Turns at `job` whose time was up and that have not ended.
  static std::uint64_t expired_in(const ThreadCore& core, const Job& job);

 private:
  ThreadCore& core_;
  Job& job_;
  friend class ThreadCore;

  bool timed_;
  bool traced_;
  pid_t tid_;
  std::uint64_t chunks_ = 0;
  Piece chunk_{};
  Clock::time_point began_{};
  bool expired_ = false;
};

/// True in a worker of this pool.
bool in_thread_of(const ThreadCore& core) noexcept;
/// Where a worker sits.
std::size_t own_seat() noexcept;

}  // namespace millrace::runtime
