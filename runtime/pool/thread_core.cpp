// Making and ending a pool of threads, and waiting for its jobs.
#include "runtime/pool/thread_core.hpp"

#include <unistd.h>

#include <algorithm>
#include <millrace/errors.hpp>
#include <millrace/thread_jobs.hpp>
#include <string>
#include <utility>

#include "runtime/base/own_pid.hpp"
#include "runtime/pool/thread_seat.hpp"
#include "sched/binding.hpp"
#include "sched/quota.hpp"
#include "sched/topology.hpp"

namespace millrace::runtime {
namespace {

constexpr int kMaxThreads = 4096;
constexpr auto kReadSlice =
    std::chrono::microseconds(200);  // of an input, before others have a turn
constexpr auto kProgressSlice = std::chrono::milliseconds(100);

std::exception_ptr terminated() {
  return std::make_exception_ptr(
      PoolTerminated("the pool was terminated before this result was there"));
}

}  // namespace

Ref<ThreadPoolCore> ThreadPoolCore::make(const PoolOptions& options,
                                         std::function<std::function<void()>()> initializer) {
  if (options.processes && (*options.processes < 1 || *options.processes > kMaxThreads)) {
    throw ValueError("Number of processes must be at least 1 and at most " +
                     std::to_string(kMaxThreads) + ", not " + std::to_string(*options.processes));
  }
  if (options.maxtasksperchild && *options.maxtasksperchild < 1) {
    throw ValueError("maxtasksperchild must be a positive int or unset, not " +
                     std::to_string(*options.maxtasksperchild));
  }
  if (options.cores_per_worker < 1) {
    throw ValueError("cores_per_worker must be at least 1, not " +
                     std::to_string(options.cores_per_worker));
  }
  auto core = make_ref<ThreadCore>(options, std::move(initializer));
  try {
    core->start();
  } catch (...) {
    core->retire();
    throw;
  }
  return core;
}

ThreadCore::ThreadCore(const PoolOptions& options, Initializers initializers)
    : owner_pid_(own_pid()),
      initializers_(std::move(initializers)),
      max_tasks_(options.maxtasksperchild.value_or(0)),
      trace_path_(options.trace) {
  traced_ = !trace_path_.empty();
  if (traced_) TraceFile::check(trace_path_);
  const int count = options.processes.value_or(sched::usable_cpu_count());
  const sched::Topology& topology = sched::Topology::system();
  const auto planned = sched::plan(sched::resolve(options.bind, sched::Consumer::pool), count,
                                   options.cores_per_worker, topology);
  apply_binding_ = topology.is_thissystem();
  seats_ = std::vector<Seat>(planned.size());
  for (std::size_t i = 0; i < planned.size(); ++i) seats_[i].plan = planned[i];
}

ThreadCore::~ThreadCore() = default;

void ThreadCore::start() {
  const Lock lock(mutex_);
  for (std::size_t i = 0; i < seats_.size(); ++i) {
    seats_[i].thread = std::thread([self = Ref<ThreadCore>(this), i] { self->work(i); });
    ++alive_;
  }
}

void ThreadCore::check_owner() const {
  if (own_pid() != owner_pid_) {
    throw ForkedError("this pool's threads are in process " + std::to_string(owner_pid_) +
                      "; a forked child makes a pool of its own");
  }
}

void ThreadCore::check_running_locked() const {
  if (state_ != State::run) throw ValueError("Pool not running");
  if (broken_) std::rethrow_exception(broken_);
}

void ThreadCore::check_running() const {
  check_owner();
  const Lock lock(mutex_);
  check_running_locked();
}

ThreadWork& ThreadCore::work_of(Job& job) {
  auto* work = dynamic_cast<ThreadWork*>(&job);
  if (work == nullptr) throw TypeError("this job was not made for threads");
  return *work;
}

void ThreadCore::submit(JobPtr job, std::span<const std::byte>) {
  check_owner();
  ThreadWork& work = work_of(*job);
  Lock lock(mutex_);
  check_running_locked();
  job->id_ = next_job_id_++;
  job->owner_ = thread_token();
  job->started_ = Clock::now();
  const auto behind = std::ranges::find_if(jobs_, [&job](const Entry& other) {
    return other.job->settings_.priority < job->settings_.priority;
  });
  jobs_.insert(behind, Entry{job, &work});
  job_count_.store(jobs_.size(), std::memory_order_relaxed);
  if (!job->settings_.timeout.infinite()) start_timer();
  feed(lock, *job, true);
  call_workers(work.width());
  maybe_complete(lock, job);
}

void ThreadCore::call_workers(std::uint64_t wanted) {
  for (std::uint64_t i = 0; i < std::min<std::uint64_t>(wanted, idle_); ++i) work_.notify_one();
}

// Nothing of it is left to take, and nobody is in it whose result is wanted.
bool ThreadCore::over(const Job& job) const {
  const auto& work = work_of(const_cast<Job&>(job));
  if (!job.exhausted_ && !job.abandoned_ && !work.exhausted()) return false;
  const std::uint64_t late = work.borrows() ? 0 : Turn::expired_in(*this, job);
  return job.outstanding_ == late;
}

void ThreadCore::maybe_complete(Lock& lock, const JobPtr& job) {
  if (!job->completing_ && over(*job)) complete(lock, job);
}

// Runs what is to run when a job has ended, without the lock, then lets its waiters go.
void ThreadCore::complete(Lock& lock, const JobPtr& job) {
  job->completing_ = true;
  std::erase_if(jobs_, [&job](const Entry& entry) { return entry.job == job; });
  job_count_.store(jobs_.size(), std::memory_order_relaxed);
  // The last report comes last; unless the sink itself brought us here.
  while (job->reporting_ != 0 && job->reporting_ != thread_token()) {
    sleep(lock, Clock::time_point::max(), false);
  }
  lock.unlock();
  if (job->settings_.progress) {
    try {
      job->settings_.progress(
          {job->items_done(), job->settings_.total, Clock::now() - job->started_});
    } catch (...) {
      log_callback_failure("progress");
    }
  }
  job->finished();
  lock.lock();
  job->done_ = true;
  changed_.notify_all();
  if (state_ != State::run && jobs_.empty()) {
    work_.notify_all();
    timer_wake_.notify_all();
  }
}

// Ends a job early: at once, unless workers are in it that use what its caller owns.
void ThreadCore::drop(Lock& lock, const JobPtr& job, const std::exception_ptr& error) {
  ThreadWork& work = work_of(*job);
  work.stop();
  job->exhausted_ = true;
  job->fail_source(error);
  if (!work.borrows() || job->outstanding_ == 0) complete(lock, job);
}

// Reads input that this thread has to read, a slice of time; true if any was read.
bool ThreadCore::feed(Lock& lock, Job& job, bool ahead) {
  if (!job.settings_.caller_feeds || job.owner_ != thread_token()) return false;
  ThreadWork& work = work_of(job);
  bool any = false;
  const auto limit = Clock::now() + kReadSlice;
  while (!job.exhausted_ && !job.abandoned_ && !job.reading_ && work.wants_input() &&
         (ahead || !job.ready())) {
    job.reading_ = true;
    lock.unlock();
    job.read();
    lock.lock();
    job.reading_ = false;
    work.admit();
    call_workers(1);
    any = true;
    if (Clock::now() > limit) break;
  }
  return any;
}

// Whoever reads the end of an input when all that came before it is done ends the job.
void ThreadCore::end_if_over(Lock& lock, Job& job) {
  const auto at = std::ranges::find_if(jobs_, [&job](auto& e) { return e.job.get() == &job; });
  if (at != jobs_.end()) maybe_complete(lock, JobPtr(at->job));
}

bool ThreadCore::wait(Job& job, Timeout timeout) {
  check_owner();
  Lock lock(mutex_);
  if (job.settings_.caller_feeds) {
    job.owner_ = thread_token();  // whoever asks for the results reads the input
    if ((!job.ready() || !job.window_half_full()) && feed(lock, job, true)) end_if_over(lock, job);
  }
  if (job.ready()) return true;
  const shm::BlockingCall user;
  const bool mine = in_thread_of(*this);
  try {
    return wait_locked(lock, job, timeout.deadline(), mine ? nullptr : &user);
  } catch (const KeyboardInterrupt&) {
    if (job.settings_.asynchronous || job.settings_.caller_feeds) throw;
    // Nobody can ask for it again, and it may use what its caller owns: it ends with the call.
    const auto at = std::ranges::find_if(jobs_, [&job](auto& e) { return e.job.get() == &job; });
    const auto error = std::make_exception_ptr(ProcessError("the call was interrupted"));
    if (at != jobs_.end() && !job.completing_) drop(lock, JobPtr(at->job), error);
    wait_locked(lock, job, Clock::time_point::max(), nullptr);
    throw;
  }
}

bool ThreadCore::wait_locked(Lock& lock, Job& job, Clock::time_point deadline,
                             const shm::BlockingCall* user) {
  for (;;) {
    if (job.settings_.progress) report_progress(lock, job);
    if (!job.ready() && job.settings_.caller_feeds && feed(lock, job, false)) {
      end_if_over(lock, job);
      continue;
    }
    if (job.ready()) return true;
    if (deadline != Clock::time_point::max() && Clock::now() >= deadline) return false;
    // A task that waits for another of the same pool does some of the pool's work meanwhile.
    if (in_thread_of(*this) && run_somebody(lock)) continue;
    if (user != nullptr) user->check();
    const auto slice =
        job.settings_.progress ? Clock::now() + kProgressSlice : Clock::time_point::max();
    sleep(lock, std::min(deadline, slice), user != nullptr);
  }
}

// Sleeps until something has changed under the lock, which the caller holds and looks at again.
void ThreadCore::sleep(Lock& lock, Clock::time_point deadline, bool interruptible) {
  const shm::InterruptibleSleep roused(interruptible ? &changed_ : nullptr);
  const auto key = changed_.prepare();
  lock.unlock();
  if (!interruptible || !shm::BlockingCall::requested()) changed_.wait(key, deadline);
  lock.lock();
}

void ThreadCore::report_progress(Lock& lock, Job& job) {
  const auto now = Clock::now();
  if (job.reporting_ != 0 || job.completing_ || now - job.last_progress_ < kProgressSlice) return;
  job.last_progress_ = now;
  job.reporting_ = thread_token();
  const Progress reached{job.items_done(), job.settings_.total, now - job.started_};
  lock.unlock();
  try {
    job.settings_.progress(reached);
  } catch (...) {
    log_callback_failure("progress");
  }
  lock.lock();
  job.reporting_ = 0;
  changed_.notify_all();
}

void ThreadCore::poll(Job&) { check_owner(); }

bool ThreadCore::cancel(Job& job, const std::exception_ptr& error) {
  check_owner();
  Lock lock(mutex_);
  const auto at = std::ranges::find_if(jobs_, [&job](auto& e) { return e.job.get() == &job; });
  if (at == jobs_.end() || job.completing_ || job.exhausted_) return false;
  const JobPtr held = at->job;
  drop(lock, held, error);
  return true;
}

// Waits for those that are in it: its function may refer to what ends with the iterator's scope.
void ThreadCore::abandon(Job& job) {
  if (own_pid() != owner_pid_) return;
  Lock lock(mutex_);
  if (job.done_ || job.abandoned_) return;
  const auto at = std::ranges::find_if(jobs_, [&job](auto& e) { return e.job.get() == &job; });
  if (at == jobs_.end()) return;
  const JobPtr held = at->job;
  held->abandoned_ = true;
  work_of(*held).stop();
  maybe_complete(lock, held);
  while (!held->done_) {
    if (!in_thread_of(*this) || !run_somebody(lock)) {
      sleep(lock, Clock::time_point::max(), false);
    }
  }
}

// As a pool of processes would run it, on the threads.
void ThreadCore::run_range(const RangeCall& call) {
  check_running();
  const auto entry =
      reinterpret_cast<RangeEntry>(resolve_function(static_cast<FunctionId>(call.entry)));
  const auto body = [&call](RangeEntry run, std::uint64_t first, std::uint64_t last) {
    run({call.context, 0, call.first + first, call.first + last});
  };
  auto job = make_ref<ThreadRangeJob<true, RangeEntry, decltype(body)>>(
      JobSettings{.timeout = call.timeout, .priority = call.priority, .progress = call.progress},
      entry, body, call.last - call.first, call.chunk);
  submit(job, {});
  wait(*job, {});
  if (job->error()) std::rethrow_exception(job->error());
}

void ThreadCore::close() {
  check_owner();
  const Lock lock(mutex_);
  if (state_ == State::run) state_ = State::close;
  work_.notify_all();
  timer_wake_.notify_all();
  changed_.notify_all();
}

void ThreadCore::terminate() noexcept {
  if (own_pid() != owner_pid_) return;
  Lock lock(mutex_);
  state_ = State::terminate;
  try {
    const std::vector<Entry> left(jobs_.begin(), jobs_.end());
    for (const Entry& entry : left) {
      if (!entry.job->completing_ && !entry.work->stopped()) drop(lock, entry.job, terminated());
    }
  } catch (...) {  // no memory for the error: the jobs end when their workers leave them
  }
  work_.notify_all();
  timer_wake_.notify_all();
  changed_.notify_all();
}

void ThreadCore::join() {
  check_owner();
  if (in_thread_of(*this)) throw std::runtime_error("cannot join the current thread's own pool");
  {
    Lock lock(mutex_);
    if (state_ == State::run) throw ValueError("Pool is still running");
    const shm::BlockingCall user;
    // Jobs whose input this thread has to read are read to their end now.
    while (!jobs_.empty()) {
      bool any = false;
      const std::vector<Entry> left(jobs_.begin(), jobs_.end());
      for (const Entry& entry : left) {
        if (!entry.job->settings_.caller_feeds || entry.job->owner_ != thread_token()) continue;
        entry.job->unbound();
        any |= feed(lock, *entry.job, true);
        maybe_complete(lock, entry.job);
      }
      if (any || jobs_.empty()) continue;
      user.check();
      sleep(lock, Clock::time_point::max(), true);
    }
  }
  gather();
}

void ThreadCore::retire() noexcept {
  if (own_pid() != owner_pid_) return;
  terminate();
  gather();
}

// Waits until the threads have left; the calling one, if it is one of them, leaves later.
void ThreadCore::gather() noexcept {
  std::vector<std::thread> threads;
  {
    const Lock lock(mutex_);
    threads = std::move(retired_);
    for (Seat& seat : seats_) threads.push_back(std::move(seat.thread));
    threads.push_back(std::move(timer_));
  }
  for (std::thread& thread : threads) {
    if (!thread.joinable()) continue;
    if (thread.get_id() == std::this_thread::get_id()) {
      thread.detach();
    } else {
      thread.join();
    }
  }
  // Another caller may have taken the threads to join: it is not done before they are.
  Lock lock(mutex_);
  const int self = in_thread_of(*this) ? 1 : 0;
  while (alive_ > self) sleep(lock, Clock::time_point::max(), false);
  write_trace();
}

}  // namespace millrace::runtime
