// The core of a pool of threads: hands jobs to its threads, and sees to it that each ends once.
//
// One lock protects everything here but what says otherwise. Workers take a turn at a job
// (ThreadWork::take), run it without the lock, and come back; jobs of the highest priority first,
// equals in turn. A job over an index range gives a worker many chunks in one turn, until another
// job wants workers too.
//
// Why plain threads and not oneTBB: a task may block, or wait for another task, and each thread
// calls an initializer and is bound; that needs as many threads as were asked for. oneTBB promises
// none beyond the caller's, so two tasks that wait for each other may wait for ever.
//
// Invariants
//  1. A job is completed once (complete()): when nothing of it is left to take and no worker is in
//     it; or at once, when it was cancelled, timed out or the pool terminated, and it does not
//     borrow what its caller owns. A worker that is still in it then finds its result unwanted.
//  2. User code (functions, callbacks, progress, inputs) runs without the lock.
//  3. A thread that waits sleeps on `changed_`; whoever changes what may be waited for, under the
//     lock, rouses it after. So no wake-up is lost: the key is taken under the lock.
//  4. Threads hold the core: it outlives them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <list>
#include <memory>
#include <millrace/thread_work.hpp>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "runtime/pool/trace_file.hpp"
#include "sched/plan.hpp"
#include "shm/interrupt.hpp"
#include "shm/parking.hpp"

namespace millrace::runtime {

class ThreadCore final : public ThreadPoolCore {
 public:
  using Initializers = std::function<std::function<void()>()>;

  ThreadCore(const PoolOptions& options, Initializers initializers);
  ~ThreadCore() override;
  /// Makes the threads.
  void start();

  void submit(Ref<Job> job, std::span<const std::byte> context) override;
  bool wait(Job& job, Timeout timeout) override;
  void poll(Job& job) override;
  bool cancel(Job& job, const std::exception_ptr& error) override;
  void abandon(Job& job) override;
  void lock() override { mutex_.lock(); }
  void unlock() override { mutex_.unlock(); }
  void run_range(const RangeCall& call) override;
  void check_running() const override;
  [[nodiscard]] bool reaches_private_memory() const override { return true; }
  [[nodiscard]] int workers() const noexcept override { return static_cast<int>(seats_.size()); }
  void close() override;
  void terminate() noexcept override;
  void join() override;
  void retire() noexcept override;
  [[nodiscard]] std::vector<WorkerBinding> bindings() const override;
  [[nodiscard]] std::vector<WorkerStats> stats() const override;
  [[nodiscard]] std::string repr() const override;

 private:
  using Lock = std::unique_lock<std::mutex>;
  using Clock = Timeout::Clock;
  using JobPtr = Ref<Job>;
  enum class State : std::uint8_t { run, close, terminate };

  /// A place in the pool and the thread that has it.
  struct Seat {
    std::thread thread;
    affinity::PlannedWorker plan;
    WorkerBinding binding;
    bool bound = false;
    std::int64_t turns = 0;  ///< chunks in the present thread's life, for maxtasksperchild
    WorkerStats stats;
  };
  class Turn;
  struct Entry {
    JobPtr job;
    ThreadWork* work;
  };

  // thread_core.cpp
  void check_owner() const;
  void check_running_locked() const;
  static ThreadWork& work_of(Job& job);
  bool over(const Job& job) const;
  void maybe_complete(Lock& lock, const JobPtr& job);
  void complete(Lock& lock, const JobPtr& job);
  void drop(Lock& lock, const JobPtr& job, const std::exception_ptr& error);
  bool feed(Lock& lock, Job& job, bool ahead);
  void end_if_over(Lock& lock, Job& job);
  bool wait_locked(Lock& lock, Job& job, Clock::time_point deadline, const shm::BlockingCall* user);
  void sleep(Lock& lock, Clock::time_point deadline, bool interruptible);
  void report_progress(Lock& lock, Job& job);
  void call_workers(std::uint64_t wanted);

  void gather() noexcept;

  // thread_views.cpp
  void trace(const Turn& turn, Clock::time_point end);
  void write_trace() noexcept;

  // thread_seat.cpp
  void work(std::size_t index);
  void prepare_thread(Seat& seat);
  void break_pool(Lock& lock, const std::exception_ptr& error);
  void serve(Lock& lock, std::size_t index);
  bool run_somebody(Lock& lock);
  std::optional<std::pair<Entry, Piece>> pick();
  void run_turn(Lock& lock, Seat& seat, Entry entry, const Piece& piece);
  bool replace(std::size_t index);
  void leave() noexcept;
  void start_timer();
  void watch_timeouts();

  mutable std::mutex mutex_;
  mutable shm::ParkingSpot changed_;  ///< waiters: of results, of room in the job list, of ends
  std::condition_variable work_;      ///< idle workers
  std::condition_variable timer_wake_;
  pid_t owner_pid_;
  State state_ = State::run;
  std::exception_ptr broken_;
  Initializers initializers_;
  std::int64_t max_tasks_ = 0;
  bool apply_binding_ = false;
  std::vector<Seat> seats_;
  std::vector<std::thread> retired_;       ///< threads that were replaced
  std::list<Entry> jobs_;                  ///< not completed, by priority, then in turn
  std::atomic<std::size_t> job_count_{0};  ///< size of jobs_, for workers in a turn
  std::size_t idle_ = 0;                   ///< workers that sleep
  int alive_ = 0;                          ///< threads that have not left, the timer included
  std::vector<Turn*> timed_;               ///< turns at a chunk whose time runs
  std::uint64_t next_job_id_ = 1;
  Clock::time_point made_ = Clock::now();
  std::string trace_path_;                ///< empty: no timeline, or it has been written
  bool traced_ = false;                   ///< does not change
  std::vector<TraceFile::Slice> slices_;  ///< of the timeline
  std::uint64_t slices_dropped_ = 0;
  std::thread timer_;  ///< made for the first job that has a timeout
};

}  // namespace millrace::runtime
