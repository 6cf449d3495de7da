// Waiting for a pool's workers.
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <millrace/errors.hpp>
#include <utility>

#include "runtime/child.hpp"
#include "runtime/pool_range.hpp"
#include "runtime/process_pool.hpp"
#include "shm/parking.hpp"

namespace millrace::runtime {
namespace {

// A parent that sleeps looks after its zygote this often.
constexpr auto kSlice = std::chrono::milliseconds(100);

// Microseconds that a spinning parent leaves its tasks to spinning workers before it wakes others.
constexpr std::uint64_t kPatience = 2;

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
  if (job.ready()) return true;
  return wait_or_cancel(lock, job, timeout.deadline());
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
  const auto leave = [&](bool result) {
    --waiters_;
    if (jobs_.empty()) owed_wakes_ = 0;  // what was published has been done
    wake_owed();
    if (sleepers_ != 0) changed_.notify_all();  // somebody else has to listen now
    if (asynchronous_ != 0 && waiters_ == 0) collector_wake_.notify_one();
    return result;
  };
  for (;;) {
    if (job.settings_.progress) report_progress(lock, job);
    const bool worth =
        !jobs_.empty() || timed_ranges_ != 0 || !completed_.empty() || anything_arrived(nullptr);
    const bool moved = worth && pump(lock);
    if (job.ready()) return leave(true);
    if (deadline != Clock::time_point::max() && Clock::now() >= deadline) return leave(false);
    if (moved) continue;
    if (user != nullptr && shm::BlockingCall::requested()) {
      leave(false);
      user->check();
      ++waiters_;  // another thread was quicker
    }
    if (listening_) {
      if (collector_listens_) shared_->bell.rouse();  // ours is the shorter way
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
    listen(lock, &job, deadline);
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
  return something_arrived(job) || completed_sum() != seen_completed_ ||
         // DEATH process: raised in process_table.cpp
         shm::ProcessTable::instance().deaths().load(std::memory_order_acquire) != seen_deaths_ ||
         // BREAK pool: zygote.cpp writes, pool_loss.cpp reads
         shared_->broken.load(std::memory_order_acquire) != (broken_ ? 1U : 0U);
}

std::uint64_t ProcessPool::completed_sum() const {
  std::uint64_t sum = 0;
  for (std::int32_t i = 0; i < shared_->workers; ++i) {
    // COUNT reply: worker.cpp writes, pool_wait.cpp sums
    sum += shared_->slots[i].completed.load(std::memory_order_acquire);
  }
  return sum;
}

// Waits, without the lock, until something has arrived. Spins while every process of the pool can
// have a cpu of its own; else gives the cpu away twice; then sleeps on the bell.
void ProcessPool::listen(Lock& lock, const Job* job, Clock::time_point deadline) {
  listening_ = true;
  seen_completed_ = completed_sum();
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    watched_[i] = lanes_[i]->out.empty() ? -1 : lanes_[i]->out.front();
  }
  if (timed_out_ != 0 || timed_ranges_ != 0) {
    if (const auto limit = next_deadline(); limit && *limit < deadline) deadline = *limit;
  }
  std::size_t owed = std::exchange(owed_wakes_, 0);
  if (owed != 0 && (job == nullptr || !may_spin(*shared_) || spinning_workers() == 0)) {
    wake_for(std::exchange(owed, 0));
  }
  const bool in_order = job != nullptr && job->settings_.caller_feeds;
  shared_->eager.store(in_order ? 1 : 0, std::memory_order_relaxed);
  lock.unlock();
  const auto finish = [&] {
    lock.lock();
    listening_ = false;
  };
  const std::uint64_t start = shm::ticks();
  const std::uint64_t budget =
      shared_->spin_ns.load(std::memory_order_relaxed) * shm::ticks_per_us() / 1000;
  if (!collector_listens_ || job != nullptr) {
    while (may_spin(*shared_)) {
      for (int look = 0; look < 64; ++look) {
        if (something_arrived(job)) {
          if (owed != 0) owed_wakes_ = owed;  // whether they are needed is seen at the next look
          return finish();
        }
        shm::cpu_relax();
      }
      if (anything_arrived(job)) break;
      const std::uint64_t spun = shm::ticks() - start;
      // Short tasks are done by the workers that spin before another could be woken.
      if (owed != 0 && spun > kPatience * shm::ticks_per_us()) wake_for(std::exchange(owed, 0));
      if (spun > budget) break;
    }
    if (owed != 0) wake_for(owed);
    if (anything_arrived(job)) return finish();
    for (int yield = 0; yield < 2; ++yield) {
      ::sched_yield();
      if (anything_arrived(job)) return finish();
    }
  }
  const shm::InterruptibleSleep sleep(job != nullptr ? &shared_->bell : nullptr);
  const auto key = shared_->bell.prepare();
  shared_->parent_awake.store(0, std::memory_order_relaxed);
  const int outcome = anything_arrived(job) || (job != nullptr && shm::BlockingCall::requested())
                          ? 0
                          : shared_->bell.wait(key, std::min(deadline, Clock::now() + kSlice));
  shared_->parent_awake.store(1, std::memory_order_relaxed);
  finish();
  if (outcome == ETIMEDOUT) check_zygote();
}

// Called with the lock, when a job was submitted for which nobody need wait.
void ProcessPool::start_collector() {
  if (!collector_.joinable()) {
    collector_ = std::thread([this] {
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
    listen(lock, nullptr, Clock::time_point::max());
    collector_listens_ = false;
    pump(lock);
    wake_owed();
    if (sleepers_ != 0) changed_.notify_all();
  }
}

}  // namespace millrace::runtime
