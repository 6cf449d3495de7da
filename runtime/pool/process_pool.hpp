// The parent's side of a pool: hands pieces of jobs to workers, takes their replies, and sees to it
// that every piece ends exactly once, whatever becomes of the worker that runs it.
//
// One lock protects everything here. Any thread of the parent may find itself in pump(): it takes
// what has arrived, deals with deaths and deadlines, and hands out what there is room for. Of the
// threads that wait, one at a time listens to the workers (it spins, yields, or sleeps on the
// bell); the others sleep on `changed_` until it tells them. A collector thread listens only while
// results can arrive for which nobody waits.
//
// Invariants
//  1. A task slot that is out has a ticket; its ticket leaves the list of those out exactly once,
//  by
//     settle() (the worker's reply) or by lose() (death, deadline, cancel, terminate).
//  2. A job is completed once, when its input is exhausted and none of its pieces is out.
//  3. A slot taken away from a worker that may still write to it is not reused before that worker's
//     death is established (`quarantined`).
//  4. User code (callbacks, progress) runs without the lock.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <millrace/job.hpp>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "runtime/base/block_cache.hpp"
#include "runtime/pool/pool_shared.hpp"
#include "runtime/pool/pool_trace.hpp"
#include "runtime/pool/zygote.hpp"
#include "runtime/values/piece_writer.hpp"
#include "shm/interrupt.hpp"

namespace millrace::runtime {

class ProcessPool final : public PoolCore {
 public:
  ProcessPool(const PoolOptions& options, Ref<Initializer> initializer);
  ~ProcessPool() override;

  void submit(Ref<Job> job, std::span<const std::byte> context) override;
  bool wait(Job& job, Timeout timeout) override;
  void poll(Job& job) override;
  bool cancel(Job& job, const std::exception_ptr& error) override;
  void abandon(Job& job) override;
  void lock() override { mutex_.lock(); }
  void unlock() override { mutex_.unlock(); }
  void run_range(const RangeCall& call) override;
  void check_running() const override;
  bool reaches_private_memory() const override;
  std::vector<int> own_cpus() const override;
  int workers() const noexcept override { return shared_->workers; }
  void close() override;
  void terminate() noexcept override;
  void join() override;
  std::vector<WorkerBinding> bindings() const override;
  std::vector<WorkerStats> stats() const override;
  std::string repr() const override;

 protected:
  /// Ends a pool that nobody refers to any more.
  void dispose() noexcept override;

 private:
  using Lock = std::unique_lock<std::mutex>;
  using Clock = Timeout::Clock;
  using JobPtr = Ref<Job>;
  enum class State : std::uint8_t { run, close, terminate };

  /// A task that is out, or a slot at rest.
  struct Ticket {
    Job* job = nullptr;  ///< while out; jobs_ keeps it until none of its pieces is
    Piece piece;
    PieceWriter writer;
    int attempts = 0;
    std::uint64_t position = 0;     ///< in the ring
    std::uint32_t quarantined = 0;  ///< worker that may still write here; 0: none
    bool out = false;
    bool dealt = false;                            ///< several chunks, see small_range.cpp
    bool timed = false;                            ///< counted in timed_out_
    Clock::time_point seen_running{};              ///< timed: when that was first noticed
    std::byte kept[TaskRing::Slot::kInlineBytes];  ///< the payload, where it is needed again

    void drop() noexcept { writer.drop(kept); }
  };

  /// What an ended job leaves while a worker that was told to end may still read it.
  struct Remains {
    std::byte* context;
    Ref<Counted> kept;
    std::vector<std::uint32_t> readers;
  };

  /// The parent's view of one node's task ring.
  struct Lane {
    explicit Lane(int os_node, TaskRing* where);
    TaskRing* ring;
    int node;  ///< operating-system index, -1: any
    int workers = 0;
    BlockCache cache;
    std::uint64_t next = 0;         ///< position of the next task
    std::deque<std::uint16_t> out;  ///< slots that are out, oldest first
    std::vector<Ticket> tickets;
    std::size_t depth = 0;           ///< tasks that may be out
    double rate = 0;                 ///< tasks per microsecond, smoothed
    std::uint64_t last_settled = 0;  ///< ticks, 0: nothing was out since
  };

  /// What workers have before them. Copied under the lock, for whoever goes on without it.
  struct Load {
    std::size_t tasks = 0;  ///< that are out
    bool ranges = false;    ///< a range job is in progress
  };

  /// What a thread that listens to the workers knows while it is without the lock.
  struct Watch {
    const Job* job = nullptr;  ///< it waits for; nullptr: the collector
    Clock::time_point deadline;
    std::size_t owed = 0;     ///< tasks for which nobody was woken yet
    std::uint64_t dealt = 0;  ///< ticks when chunks of the job were dealt, 0: none were
    Load load;                ///< when it began to listen; older only wakes one more or one less
    bool copies = false;      ///< the thread carries the job's bytes to the workers
    bool grace = false;       ///< workers without work are about to leave their cpus
    bool woke = false;        ///< somebody has been woken meanwhile
    bool fresh = false;       ///< all was handed out a moment ago
    bool late = false;        ///< what was dealt was not done soon
    std::uint64_t turns = 0;  ///< of other threads, when it began to listen
  };

  /// A range job in progress.
  struct Range;
  class RangeJobFront;
  class SmallRange;

  // process_pool.cpp: making and ending.
  void plan_workers(const PoolOptions& options);
  void make_shared();
  void start_zygote();
  void check_owner() const;
  void begin_leaving(Lock& lock);
  bool busy() const;
  void end_processes() noexcept;
  void bury_workers() noexcept;
  void free_shared() noexcept;
  WorkerBinding binding_of(int index) const;
  void write_trace() noexcept;

  // pool_feed.cpp: handing out.
  void submit(Lock& lock, JobPtr job, std::span<const std::byte> context);
  bool feed(Lock& lock);
  std::size_t feed_round();
  bool read_sources(Lock& lock);
  bool feed_one(Job& job, Lane& lane);
  bool may_feed(const Job& job) const;
  Lane* lane_for(const Job& job);
  std::optional<std::uint16_t> free_slot(Lane& lane);
  void publish(Lane& lane, std::uint16_t index, std::uint32_t size);
  void fail_feeding(Job& job, const std::exception_ptr& error);
  std::byte* take_context(std::size_t bytes);
  void give_context(std::byte* block) noexcept;
  void note_parent_cpu();
  [[nodiscard]] Load load() const;
  [[nodiscard]] std::size_t spinning_workers(std::size_t published, const Load& load) const;
  [[nodiscard]] std::size_t awake_beside_parent() const;
  void wake_owed();
  bool wake_for(std::size_t tasks, const Load& load);

  // pool_collect.cpp: taking back.
  bool pump(Lock& lock);
  [[nodiscard]] bool few_left() const;
  bool collect();
  bool collect(Lane& lane);
  void settle(Lane& lane, Ticket& ticket, TaskRing::Slot& slot, std::uint64_t state);
  void release(Lane& lane, Ticket& ticket, TaskRing::Slot& slot);
  void piece_ended(Job& job, const Piece& piece);
  void complete_jobs(Lock& lock);
  void end_job(Job& job);
  void show_progress(Lock& lock, Job& job);
  void report_progress(Lock& lock, Job& job);

  // pool_loss.cpp: deaths, deadlines, cancelling.
  bool handle_deaths();
  bool handle_deadlines();
  void lose(Lane& lane, std::uint16_t index, const std::exception_ptr& error, bool may_retry);
  void retry(Lane& lane, Ticket& ticket, TaskRing::Slot& slot);
  std::exception_ptr loss_of(std::uint32_t worker, std::uint64_t first, std::uint64_t last) const;
  void kill_worker(std::uint32_t worker);
  int position_of(std::uint32_t worker) const;
  void trace_loss(std::uint32_t worker, const Piece& piece);
  std::vector<std::uint32_t> newly_dead() const;
  void forget(std::uint32_t worker) noexcept;
  void put_away(Job& job);
  void clear_remains() noexcept;
  void fail_everything(const std::exception_ptr& error);
  void check_zygote();
  void clear_stands();
  std::exception_ptr broken_error() const;
  static std::exception_ptr terminated_error();
  std::optional<Clock::time_point> next_deadline() const;

  // pool_wait.cpp: waiting.
  bool wait_locked(Lock& lock, Job& job, Clock::time_point deadline,
                   const shm::BlockingCall* user = nullptr);
  bool wait_or_cancel(Lock& lock, Job& job, Clock::time_point deadline);
  Watch begin_listening(const Job* job, Clock::time_point deadline);
  void wake(Watch& watch);
  bool spin(Watch& watch);
  int sleep(const Watch& watch);
  void show_carriers();
  void listen(Lock& lock, const Job* job, Clock::time_point deadline, bool fresh);
  bool something_arrived(const Job* job) const;
  bool anything_arrived(const Job* job) const;
  bool anything_new(const Watch& watch) const;
  void tell_listener() noexcept;
  std::uint64_t completed_sum() const;
  void start_collector();
  void collector_loop();

  // small_range.cpp
  void run_small_range(const RangeCall& call);
  std::size_t hands(const Job& job, std::uint64_t chunks);
  static void take_back(Ticket& ticket, TaskRing::Slot& slot);
  void keep_running_chunk(Ticket& ticket, std::uint32_t worker);
  void deal_again(Lock& lock);

  // pool_range.cpp
  Range* take_record(Lock& lock, std::uint64_t chunks);
  [[nodiscard]] bool inside_record(int index) const;
  void kill_runners(const Range& range);
  void start_wave(Range& range, std::uint64_t first_chunk, std::uint64_t chunks);
  void finish_wave(Range& range);
  void take_failure(Range& range);
  bool wait_or_cancel(Lock& lock, Range& range, RangeJobFront& front);
  void await_quiet(Lock& lock);
  bool quiet() const;
  bool repair_ranges(const std::vector<std::uint32_t>& dead);
  bool range_deadlines(Clock::time_point now);
  void cancel_ranges(const std::exception_ptr& error);

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  pid_t owner_pid_;
  State state_ = State::run;
  bool leaving_ = false;
  bool ended_ = false;      ///< terminate() has ended the workers
  bool orphaned_ = false;   ///< the collector deletes this when it leaves
  bool listening_ = false;  ///< a thread listens to the workers
  int sleepers_ = 0;        ///< threads that wait on changed_
  std::exception_ptr broken_;
  Clock::time_point zygote_checked_{};
  std::vector<std::uint32_t> doomed_;  ///< workers that were told to end, not known dead
  std::vector<std::uint64_t> ended_by_dead_;  ///< by seat: chunks whose share had no reply
  std::vector<Remains> remains_;

  std::uint64_t probe_word_ = 0;  ///< workers read and write it to see whether they can
  PoolPlan plan_;
  PoolShared* shared_ = nullptr;
  std::unique_ptr<Zygote> zygote_;
  std::unique_ptr<PoolTrace> trace_;  ///< null: no timeline
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::vector<int> seat_shares_;  ///< workers per node, for range jobs
  std::list<JobPtr> jobs_;        ///< not completed, by priority, then in turn
  static constexpr std::size_t kSpareNodes = 8;
  std::list<JobPtr> spare_nodes_;             ///< of jobs_, empty: a small call allocates little
  JobPtr spare_small_;                        ///< a SmallRange that has ended well
  std::vector<std::uintptr_t> in_callbacks_;  ///< threads that run callbacks of ended jobs
  std::vector<Job*> completed_;               ///< of jobs_: their callbacks have not run yet
  std::vector<std::unique_ptr<Range>> ranges_;
  int parent_cpu_ = -1;
  std::byte* spare_context_ = nullptr;  ///< of a job that has ended
  std::size_t bytes_out_ = 0;
  std::size_t timed_out_ = 0;  ///< tickets out that have a timeout
  std::size_t timed_ranges_ = 0;
  std::size_t owed_wakes_ = 0;     ///< tasks published for which nobody was woken yet
  const Job* dealing_ = nullptr;   ///< its tasks may hold several chunks
  std::uint64_t dealt_since_ = 0;  ///< ticks when they were handed out; 0: none holds several now
  std::uint64_t next_job_id_ = 1;
  // Written with the lock, read by the listener without.
  std::atomic<std::uint64_t> seen_completed_{0};
  std::atomic<std::uint64_t> seen_deaths_{0};
  std::atomic<std::uint32_t> seen_broken_{0};  ///< of PoolShared
  std::atomic<std::uint64_t> turns_{0};  ///< of threads that did something while another listened
  int carriers_ = 0;  ///< threads in wait() that carry their job's bytes to the workers
  Clock::time_point listens_until_{};  ///< the listener's deadline
  std::vector<std::int32_t> watched_;  ///< listener: per lane, the slot to look at first

  std::thread collector_;
  std::condition_variable collector_wake_;
  bool collector_stop_ = false;
  bool collector_listens_ = false;
  bool collector_deep_ = false;   ///< sleeps until woken
  std::size_t asynchronous_ = 0;  ///< jobs that nobody need wait for
  int waiters_ = 0;               ///< threads in wait()
};

}  // namespace millrace::runtime
