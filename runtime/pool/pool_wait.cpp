// Waiting for a pool's workers.
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <millrace/errors.hpp>
#include <utility>

#include "runtime/pool/pool_range.hpp"
#include "runtime/pool/process_pool.hpp"
#include "runtime/process/child.hpp"
#include "runtime/process/fork_hazards.hpp"
#include "shm/parking.hpp"

namespace millrace::runtime {
namespace {

// A parent that sleeps looks after its zygote this often.
constexpr auto kSlice = std::chrono::milliseconds(100);

// Microseconds that a spinning parent leaves its tasks to spinning workers before it wakes others.
constexpr std::uint64_t kPatience = 5;

// Nanoseconds that a worker which is awake has for a task before it is looked at. It writes to the
// task's line several times, and each look between two of them takes the line away from it: a look
// begun at once made a fork-join of 310 ns take 390. Less than any worker on another core needs.
constexpr std::uint64_t kHeadStart = 50;

// Microseconds that a parent which carries bytes to the workers waits for one of them without
// giving up its cpu: as long as a worker takes for a piece that it fetches by itself.
constexpr std::uint64_t kCarryPause = 200;

}  // namespace

bool ProcessPool::wait(Job& job, Timeout timeout) {
  check_owner();
  Lock lock(mutex_);
  if (job.settings_.caller_feeds) {
    job.owner_ = thread_token();  // whoever asks for the results reads the input
    if (job.ready() && !job.window_half_full()) {
      pump(lock);
      wake_owed();
    }
  }
  if (!job.ready() && !wait_or_cancel(lock, job, timeout.deadline())) return false;
  if (job.settings_.writes_back && !quiet()) await_quiet(lock);
  return true;
}

// As part of a user's call, which SIGINT may end. A job that nobody can ask for again, and that may
// read and write what its caller owns, ends with the call.
bool ProcessPool::wait_or_cancel(Lock& lock, Job& job, Clock::time_point deadline) {
  const shm::BlockingCall user;
  try {
    return wait_locked(lock, job, deadline, &user);
  } catch (const KeyboardInterrupt&) {
    if (job.settings_.asynchronous || job.settings_.caller_feeds) throw;
    lock.unlock();
    cancel(job, std::make_exception_ptr(ProcessError("the call was interrupted")));
    lock.lock();
    wait_locked(lock, job, Clock::time_point::max());
    await_quiet(lock);
    throw;
  }
}

void ProcessPool::poll(Job& job) {
  check_owner();
  Lock lock(mutex_);
  if (!job.done()) pump(lock);
  wake_owed();
}

bool ProcessPool::wait_locked(Lock& lock, Job& job, Clock::time_point deadline,
                              const shm::BlockingCall* user) {
  ++waiters_;
  const int carries = job.settings_.copied && shared_->cpus > 1 ? 1 : 0;
  carriers_ += carries;
  show_carriers();
  const auto leave = [&](bool result) {
    carriers_ -= carries;
    show_carriers();
    --waiters_;
    if (!busy()) owed_wakes_ = 0;  // what was published has been done
    wake_owed();
    if (sleepers_ != 0) changed_.notify_all();  // somebody else has to listen now
    if (asynchronous_ != 0 && waiters_ == 0) collector_wake_.notify_one();
    return result;
  };
  for (bool fresh = std::exchange(job.fresh_, false);; fresh = false) {
    if (job.settings_.progress) report_progress(lock, job);
    const bool worth = !fresh && (!jobs_.empty() || timed_ranges_ != 0 || !completed_.empty() ||
                                  anything_arrived(nullptr));
    const bool moved = worth && pump(lock);
    if (job.ready()) return leave(true);
    if (deadline != Clock::time_point::max() && Clock::now() >= deadline) return leave(false);
    if (moved) continue;
    if (user != nullptr && shm::BlockingCall::requested()) {
      leave(false);
      user->check();
      ++waiters_;  // another thread was quicker
      carriers_ += carries;
    }
    if (listening_) {
      if (dealt_since_ != 0 && dealing_ == &job) {  // nobody else looks after that
        deal_again(lock);
        continue;
      }
      if (collector_listens_) shared_->bell.rouse();  // ours is the shorter way
      if (timed_out_ != 0 || timed_ranges_ != 0) {    // of tasks younger than that wait
        if (const auto limit = next_deadline(); limit && *limit < listens_until_) tell_listener();
      }
      wake_owed();
      ++sleepers_;
      // A request to be interrupted does not reach a condition variable.
      const auto until =
          shm::interrupts_enabled() ? std::min(deadline, Clock::now() + kSlice) : deadline;
      if (until == Clock::time_point::max()) {
        changed_.wait(lock);
      } else {
        changed_.wait_until(lock, until);
      }
      --sleepers_;
      continue;
    }
    listen(lock, &job, deadline, fresh);
    if (sleepers_ != 0) changed_.notify_all();  // what came may be theirs: the end of their range
  }
}

// With the lock: tells the workers whether a thread of this process carries bytes to them.
void ProcessPool::show_carriers() {
  const std::uint32_t carry = carriers_ != 0 ? 1 : 0;
  // CARRY work: relaxed: those who rest look again by themselves soon
  if (shared_->parent_copies.load(std::memory_order_relaxed) != carry) {
    shared_->parent_copies.store(carry, std::memory_order_relaxed);  // CARRY work
  }
}

// True when it is worth taking the lock. Looks at words of the arena only, without the lock.
bool ProcessPool::something_arrived(const Job* job) const {
  for (std::int32_t i = 0; i < shared_->nodes; ++i) {
    const std::int32_t slot = watched_[static_cast<std::size_t>(i)];
    if (slot < 0) continue;
    const auto tag =
        shm::TaskState::tag(TaskRing::look(shared_->rings[i]->at(static_cast<std::size_t>(slot))));
    if (tag == shm::TaskTag::done || tag == shm::TaskTag::failed) return true;
  }
  return job != nullptr && job->glance();
}

bool ProcessPool::anything_arrived(const Job* job) const {
  // relaxed: what this thread has seen, or another meanwhile, which then tells it
  return something_arrived(job) ||
         completed_sum() != seen_completed_.load(std::memory_order_relaxed) ||
         // DEATH process: raised in process_table.cpp
         shm::ProcessTable::instance().deaths().load(std::memory_order_acquire) !=
             seen_deaths_.load(std::memory_order_relaxed) ||
         // BREAK pool: zygote.cpp writes, pool_loss.cpp reads
         shared_->broken.load(std::memory_order_acquire) !=
             seen_broken_.load(std::memory_order_relaxed);
}

// The same for who listens: also when another thread has had what arrived.
bool ProcessPool::anything_new(const Watch& watch) const {
  // TURN pool: acquire, see tell_listener()
  return anything_arrived(watch.job) || turns_.load(std::memory_order_acquire) != watch.turns;
}

// With the lock, after something was done that the thread that listens without it may wait for, and
// can no more see arrive.
void ProcessPool::tell_listener() noexcept {
  // TURN pool: release, before the look for the sleeper; pairs with anything_new()
  turns_.store(turns_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  shared_->bell.notify_all();
}

std::uint64_t ProcessPool::completed_sum() const {
  std::uint64_t sum = 0;
  for (std::int32_t i = 0; i < shared_->workers; ++i) {
    // COUNT reply: worker.cpp writes, pool_wait.cpp sums
    sum += shared_->slots[i].completed.load(std::memory_order_acquire);
  }
  return sum;
}

// With the lock: what the thread that is about to listen has to know without it.
ProcessPool::Watch ProcessPool::begin_listening(const Job* job, Clock::time_point deadline) {
  listening_ = true;
  // With nothing more to hand out there is no use for the first reply before the last.
  const bool drained = job != nullptr && job->exhausted_ && jobs_.size() == 1;
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    const auto& out = lanes_[i]->out;
    watched_[i] = out.empty() ? -1 : drained ? out.back() : out.front();
  }
  if (timed_out_ != 0 || timed_ranges_ != 0) {
    if (const auto limit = next_deadline(); limit && *limit < deadline) deadline = *limit;
  }
  listens_until_ = deadline;
  const std::size_t owed = std::exchange(owed_wakes_, 0);
  const Load now = load();
  const std::size_t spinning = spinning_workers(owed, now);
  // A brief range is over before another could be woken, or before one that is awake behind us on
  // our cpu has had it and given it back.
  const bool pulled = now.ranges && awake_beside_parent() != 0;
  const bool copies = job != nullptr && job->settings_.copied && shared_->cpus > 1;
  Watch watch{.job = job,
              .deadline = deadline,
              .owed = owed,
              .dealt = job == dealing_ ? dealt_since_ : 0,
              .load = now,
              .copies = copies,
              .grace = pulled || spinning > owed,
              .turns = turns_.load(std::memory_order_relaxed)};
  if (owed != 0 && (job == nullptr || (spinning == 0 && !pulled))) wake(watch);
  const std::uint32_t eager = job != nullptr && job->settings_.caller_feeds ? 1 : 0;
  if (shared_->eager.load(std::memory_order_relaxed) != eager) {
    shared_->eager.store(eager, std::memory_order_relaxed);
  }
  return watch;
}

void ProcessPool::wake(Watch& watch) {
  watch.woke |= wake_for(std::exchange(watch.owed, 0), watch.load);
}

// Without the lock: spins while every process of the pool can have a cpu of its own, then gives the
// cpu away twice. True when something has arrived, or is to be done about chunks that were dealt.
bool ProcessPool::spin(Watch& watch) {
  const std::uint64_t start = shm::ticks();
  const std::uint64_t us = shm::ticks_per_us();
  std::uint64_t budget = shared_->spin_ns.load(std::memory_order_relaxed) * us / 1000;
  if (watch.copies) budget = std::max(budget, kCarryPause * us);
  bool soon = false;
  while (watch.fresh && shm::ticks() - start < kHeadStart * us / 1000) {
  }
  for (std::uint64_t spun = 0; spun <= budget; spun = shm::ticks() - start) {
    const bool grace = watch.grace || watch.dealt != 0;
    if (!may_spin(*shared_) && !(grace && spun < kGrace * us)) break;
    if (watch.dealt != 0 && start + spun - watch.dealt > kPatience * us) break;
    // Short tasks are done by the workers that spin before another could be woken.
    if (watch.owed != 0 && spun > kPatience * us) wake(watch);
    if (watch.woke) ::sched_yield();  // who was woken may have been put on this cpu
    for (int look = 0; look < 64; ++look) {
      if (something_arrived(watch.job)) return true;
      shm::cpu_relax();
    }
    if (anything_new(watch)) {
      soon = true;  // not late for that: what arrived is looked at, then the wait goes on
      break;
    }
  }
  if (watch.dealt != 0) {
    watch.late = !soon && !something_arrived(watch.job);
    return true;
  }
  if (watch.owed != 0) wake(watch);
  if (anything_new(watch)) return true;
  for (int yield = 0; yield < 2; ++yield) {
    ::sched_yield();
    if (anything_new(watch)) return true;
  }
  return false;
}

// Waits, without the lock, until something has arrived: spins, yields, then sleeps on the bell.
void ProcessPool::listen(Lock& lock, const Job* job, Clock::time_point deadline, bool fresh) {
  Watch watch = begin_listening(job, deadline);
  watch.fresh = fresh;
  lock.unlock();
  if ((job == nullptr && collector_listens_) || !spin(watch)) {
    const int outcome = sleep(watch);
    lock.lock();
    listening_ = false;
    show_carriers();
    if (outcome == ETIMEDOUT) check_zygote();
    return;
  }
  lock.lock();
  listening_ = false;
  owed_wakes_ += watch.owed;  // whether they are needed is seen at the next look
  if (watch.late && job == dealing_) deal_again(lock);
}

// Sleeps until the bell rings, or a slice of time; as futex_wait() returns.
int ProcessPool::sleep(const Watch& watch) {
  const Job* job = watch.job;
  if (shared_->parent_copies.load(std::memory_order_relaxed) != 0) {
    // CARRY work: seq_cst: before the look for sleepers in wake_for(); read in worker_wait.cpp
    shared_->parent_copies.store(0, std::memory_order_seq_cst);
    wake_for(watch.load.tasks, watch.load);  // now there is a cpu for one more
  }
  const shm::InterruptibleSleep sleep(job != nullptr ? &shared_->bell : nullptr);
  const auto key = shared_->bell.prepare();
  shared_->parent_awake.store(0, std::memory_order_relaxed);
  const int outcome =
      anything_new(watch) || (job != nullptr && shm::BlockingCall::requested())
          ? 0
          : shared_->bell.wait(key, std::min(watch.deadline, Clock::now() + kSlice));
  shared_->parent_awake.store(1, std::memory_order_relaxed);
  return outcome;
}

// Called with the lock, when a job was submitted for which nobody need wait.
void ProcessPool::start_collector() {
  if (!collector_.joinable()) {
    collector_ = std::thread([this, own = std::make_unique<OwnThread>()] {
      collector_loop();
      if (orphaned_) delete this;
    });
    return;
  }
  if (collector_deep_) collector_wake_.notify_one();
}

// Collects in the background. While threads wait for results of their own it keeps out of their
// way, looking in only now and then; when none does, it listens itself. It sleeps for good when
// nothing is asynchronous.
void ProcessPool::collector_loop() {
  Lock lock(mutex_);
  while (!collector_stop_) {
    if (asynchronous_ == 0) {
      collector_deep_ = true;
      collector_wake_.wait(lock);
      collector_deep_ = false;
      // Most results are waited for by the thread that asked: give it a moment to begin.
      collector_wake_.wait_for(lock, std::chrono::microseconds(500));
      continue;
    }
    if (waiters_ != 0 || listening_) {
      collector_wake_.wait_for(lock, std::chrono::milliseconds(1));
      continue;
    }
    const bool moved = pump(lock);
    wake_owed();
    if (moved) continue;
    for (const JobPtr& job : std::vector(jobs_.begin(), jobs_.end())) {
      if (job->settings_.asynchronous && job->settings_.progress) report_progress(lock, *job);
    }
    if (asynchronous_ == 0 || waiters_ != 0 || listening_ || collector_stop_) continue;
    collector_listens_ = true;
    listen(lock, nullptr, Clock::time_point::max(), false);
    collector_listens_ = false;
    pump(lock);
    wake_owed();
    if (sleepers_ != 0) changed_.notify_all();
  }
}

}  // namespace millrace::runtime
