// What the threads of a pool do.
#include "runtime/pool/thread_seat.hpp"

#include <cxxabi.h>
#include <unistd.h>

#include <algorithm>
#include <millrace/errors.hpp>
#include <utility>

#include "sched/binding.hpp"

namespace millrace::runtime {
namespace {

// The pool and seat that this thread works in, if any.
thread_local const ThreadCore* t_core = nullptr;
thread_local std::size_t t_seat = 0;

}  // namespace

bool in_thread_of(const ThreadCore& core) noexcept { return t_core == &core; }

std::size_t own_seat() noexcept { return t_seat; }

std::exception_ptr thread_error() {
  try {
    throw;
  } catch (const abi::__forced_unwind&) {
    throw;
  } catch (...) {
    return std::current_exception();
  }
}

std::optional<Piece> ChunkedWork::take() {
  if (exhausted() || stopped()) return std::nullopt;
  return Piece{.first = 0, .count = 1};
}

bool ChunkedWork::exhausted() const {
  // relaxed: it only rises, and whoever reads too low a value takes a turn for nothing.
  return next_.load(std::memory_order_relaxed) >= size_;
}

std::uint64_t ChunkedWork::width() const {
  const std::uint64_t left = size_ - std::min(size_, next_.load(std::memory_order_relaxed));
  const std::uint64_t chunk = chunker_.next(left);
  return chunk == 0 ? 0 : (left + chunk - 1) / chunk;
}

void ChunkedWork::run(const Piece&, ThreadTurn& turn) {
  for (bool first = true; !stopped() && (first || !turn.over()); first = false) {
    Piece chunk{.first = next_.load(std::memory_order_relaxed)};
    do {
      chunk.count = chunker_.next(size_ - std::min(size_, chunk.first));
      if (chunk.count == 0) return;
      // relaxed: a counter; what lies in the chunk was there before the job was submitted.
    } while (!next_.compare_exchange_weak(chunk.first, chunk.first + chunk.count,
                                          std::memory_order_relaxed));
    std::exception_ptr error;
    turn.begin(chunk);
    try {
      run_chunk(chunk, turn);
    } catch (...) {
      error = thread_error();
    }
    const bool late = turn.end();
    items_done_.fetch_add(chunk.count, std::memory_order_relaxed);  // for Progress only
    if (error && !late) {
      const JobGuard lock(turn.core());
      turn.job().fail(chunk, error);
    }
  }
}

void ThreadCore::Turn::begin(const Piece& chunk) {
  ++chunks_;
  if (!timed_ && !traced_) return;
  chunk_ = chunk;
  began_ = Clock::now();
  if (!timed_) return;
  const Lock lock(core_.mutex_);
  expired_ = false;
  core_.timed_.push_back(this);
  core_.timer_wake_.notify_one();
}

bool ThreadCore::Turn::end() {
  if (!timed_ && !traced_) return false;
  const auto now = Clock::now();
  const Lock lock(core_.mutex_);
  if (traced_) core_.trace(*this, now);
  if (!timed_) return false;
  std::erase(core_.timed_, this);
  return expired_;
}

void ThreadCore::Turn::expire() {
  expired_ = true;
  job_.fail(chunk_, std::make_exception_ptr(TimeoutError("the task ran longer than its timeout")));
}

std::uint64_t ThreadCore::Turn::expired_in(const ThreadCore& core, const Job& job) {
  return static_cast<std::uint64_t>(std::ranges::count_if(
      core.timed_, [&job](const Turn* turn) { return &turn->job_ == &job && turn->expired_; }));
}

// The next turn that is to be had. The job goes behind its equals.
std::optional<std::pair<ThreadCore::Entry, Piece>> ThreadCore::pick() {
  for (auto it = jobs_.begin(); it != jobs_.end(); ++it) {
    if (it->job->exhausted_ || it->job->abandoned_) continue;
    const std::optional<Piece> piece = it->work->take();
    if (!piece) continue;
    const int priority = it->job->settings_.priority;
    const auto behind = std::find_if(std::next(it), jobs_.end(), [priority](const Entry& other) {
      return other.job->settings_.priority != priority;
    });
    jobs_.splice(behind, jobs_, it);
    return std::pair{*it, *piece};
  }
  return std::nullopt;
}

void ThreadCore::run_turn(Lock& lock, Seat& seat, Entry entry, const Piece& piece) {
  Job& job = *entry.job;
  ++job.outstanding_;
  lock.unlock();
  const auto from = Clock::now();
  Turn turn(*this, job, seat.binding.pid);
  const auto back = [&] {
    lock.lock();
    --job.outstanding_;
    if (!job.settings_.caller_feeds) {
      job.items_done_ = std::max(job.items_done_, piece.first + piece.count);
    } else {
      job.items_done_ += piece.count;
    }
    seat.stats.tasks += turn.chunks();
    seat.stats.busy += Clock::now() - from;
    seat.turns += static_cast<std::int64_t>(turn.chunks());
  };
  try {
    entry.work->run(piece, turn);
  } catch (const abi::__forced_unwind&) {
    (void)turn.end();
    back();
    job.fail(piece, std::make_exception_ptr(WorkerLost(seat.binding.pid, 0, false, piece.first,
                                                       piece.first + piece.count - 1)));
    maybe_complete(lock, entry.job);
    lock.unlock();
    throw;
  }
  back();
  maybe_complete(lock, entry.job);
  changed_.notify_all();  // of imap, an item may have come
  // The job may end here, and user objects with it: that is done without the lock.
  lock.unlock();
  entry.job.reset();
  lock.lock();
}

// In a worker that waits: runs one turn of any job; false when there is none.
bool ThreadCore::run_somebody(Lock& lock) {
  auto turn = pick();
  if (!turn) return false;
  run_turn(lock, seats_[t_seat], std::move(turn->first), turn->second);
  return true;
}

void ThreadCore::serve(Lock& lock, std::size_t index) {
  Seat& seat = seats_[index];
  for (;;) {
    if (max_tasks_ != 0 && seat.turns >= max_tasks_ && replace(index)) return;
    if (run_somebody(lock)) continue;
    if (state_ == State::terminate || (state_ == State::close && jobs_.empty())) return;
    const auto from = Clock::now();
    ++idle_;
    work_.wait(lock);
    --idle_;
    seat.stats.idle += Clock::now() - from;
  }
}

// Another thread takes the seat. False when the system refuses one: this one stays then.
bool ThreadCore::replace(std::size_t index) {
  if (state_ == State::terminate || (state_ == State::close && jobs_.empty())) return false;
  Seat& seat = seats_[index];
  try {
    std::thread next([self = Ref<ThreadCore>(this), index] { self->work(index); });
    retired_.push_back(std::exchange(seat.thread, std::move(next)));
  } catch (const std::system_error&) {
    return false;
  }
  ++alive_;
  return true;
}

// Binds the calling thread and runs the initializer. What that throws breaks the pool.
void ThreadCore::prepare_thread(Seat& seat) {
  WorkerBinding binding{.pid = ::gettid(), .node = seat.plan.node, .source = seat.plan.source};
  if (apply_binding_ && !seat.plan.cpus.empty()) {
    binding.cpus = sched::bind_self(seat.plan.cpus);
    if (seat.plan.node >= 0) sched::prefer_node(seat.plan.node);
  } else {
    binding.cpus = apply_binding_ ? sched::Topology::system().current_allowed() : seat.plan.cpus;
  }
  {
    const Lock lock(mutex_);
    seat.stats.pid = binding.pid;
    seat.binding = std::move(binding);
    seat.bound = true;
    seat.turns = 0;
    changed_.notify_all();
  }
  if (initializers_) initializers_()();
}

void ThreadCore::work(std::size_t index) {
  t_core = this;
  t_seat = index;
  try {
    prepare_thread(seats_[index]);
    Lock lock(mutex_);
    serve(lock, index);
    leave();
  } catch (const abi::__forced_unwind&) {  // pthread_exit() in a task: the thread ends
    const Lock lock(mutex_);
    (void)replace(index);
    leave();
    throw;
  } catch (...) {
    Lock lock(mutex_);
    break_pool(lock, std::current_exception());
    leave();
  }
}

// The pool cannot go on: every job and every later call gets the error.
void ThreadCore::break_pool(Lock& lock, const std::exception_ptr& error) {
  if (!broken_) broken_ = error;
  seats_[t_seat].bound = true;
  const std::vector<Entry> left(jobs_.begin(), jobs_.end());
  for (const Entry& entry : left) {
    if (!entry.job->completing_ && !entry.work->stopped()) drop(lock, entry.job, error);
  }
}

void ThreadCore::leave() noexcept {
  --alive_;
  changed_.notify_all();
}

void ThreadCore::start_timer() {
  if (timer_.joinable()) return;
  timer_ = std::thread([self = Ref<ThreadCore>(this)] { self->watch_timeouts(); });
  ++alive_;
}

// The timer's thread: fails chunks whose time is up.
void ThreadCore::watch_timeouts() {
  Lock lock(mutex_);
  while (state_ != State::terminate && !(state_ == State::close && jobs_.empty())) {
    auto next = Clock::time_point::max();
    std::vector<JobPtr> struck;
    for (Turn* turn : timed_) {
      if (turn->expired()) continue;
      if (turn->limit() > Clock::now()) {
        next = std::min(next, turn->limit());
        continue;
      }
      turn->expire();
      const auto at = std::ranges::find_if(
          jobs_, [turn](const Entry& entry) { return entry.job.get() == &turn->job(); });
      if (at != jobs_.end()) struck.push_back(at->job);
    }
    for (const JobPtr& job : struck) maybe_complete(lock, job);
    if (!struck.empty()) {
      changed_.notify_all();
    } else if (next == Clock::time_point::max()) {
      timer_wake_.wait(lock);
    } else {
      timer_wake_.wait_until(lock, next);
    }
  }
  leave();
}

}  // namespace millrace::runtime
