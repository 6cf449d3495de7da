// Pieces that end without a reply: their worker died, their time was up, they were cancelled, or
// the pool was terminated.
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstring>
#include <millrace/errors.hpp>
#include <utility>

#include "runtime/base/own_pid.hpp"
#include "runtime/pool/pool_range.hpp"
#include "runtime/pool/process_pool.hpp"
#include "runtime/pool/range_task.hpp"
#include "shm/arena.hpp"
#include "shm/reaper.hpp"

namespace millrace::runtime {
namespace {

using shm::ProcessTable;
using shm::TaskState;
using shm::TaskTag;

int exit_code(int status) {
  if (status == shm::kUnknownStatus) return -SIGKILL;
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace

std::exception_ptr ProcessPool::loss_of(std::uint32_t worker, std::uint64_t first,
                                        std::uint64_t last) const {
  const ProcessTable& table = ProcessTable::instance();
  bool oom = false;
  for (std::int32_t i = 0; i < shared_->workers; ++i) {
    oom |= shared_->slots[i].oom_id.load(std::memory_order_relaxed) == worker;
  }
  return std::make_exception_ptr(
      WorkerLost(table.pid(worker), exit_code(table.status(worker)), oom, first, last));
}

int ProcessPool::position_of(std::uint32_t worker) const {
  for (std::int32_t i = 0; i < shared_->workers; ++i) {
    if (shared_->slots[i].id.load(std::memory_order_relaxed) == worker) return i;
  }
  return -1;
}

// For the timeline: `worker` ended while it ran `piece`.
void ProcessPool::trace_loss(std::uint32_t worker, const Piece& piece) {
  for (std::int32_t i = 0; i < shared_->workers; ++i) {
    for (const auto& recent : shared_->slots[i].recent) {
      if (recent.load(std::memory_order_relaxed) != worker) continue;
      trace_->lost(i, ProcessTable::instance().pid(worker), piece);
      return;
    }
  }
}

// The worker is to be ended: by the zygote, whose child it is, so that no other process that got
// its pid meanwhile can be hit.
void ProcessPool::kill_worker(std::uint32_t worker) {
  const int position = position_of(worker);
  if (position < 0) return;  // it has ended by itself
  doomed_.push_back(worker);
  // KILL worker: pool_loss.cpp asks, zygote.cpp does
  shared_->slots[position].kill_request.store(worker, std::memory_order_release);
  if (zygote_) zygote_->poke();
}

// After any death in the program: whatever a dead worker of ours ran is reported or run again.
bool ProcessPool::handle_deaths() {
  const ProcessTable& table = ProcessTable::instance();
  // DEATH process: raised in process_table.cpp
  const std::uint64_t deaths = table.deaths().load(std::memory_order_acquire);
  // BREAK pool: zygote.cpp writes, pool_loss.cpp reads
  if (shared_->broken.load(std::memory_order_acquire) != 0 && !broken_) {
    seen_broken_.store(1, std::memory_order_relaxed);  // with the lock
    broken_ = broken_error();
    fail_everything(broken_);
    return true;
  }
  // relaxed: with the lock
  if (deaths == seen_deaths_.load(std::memory_order_relaxed)) return false;
  seen_deaths_.store(deaths, std::memory_order_relaxed);
  const std::vector<std::uint32_t> dead = newly_dead();
  for (const auto& lane : lanes_) {
    const std::vector<std::uint16_t> out(lane->out.begin(), lane->out.end());
    for (const std::uint16_t index : out) {
      TaskRing::Slot& slot = lane->ring->at(index);
      const std::uint64_t state = TaskRing::look(slot);
      const std::uint32_t owner = TaskState::owner(state);
      if (TaskState::tag(state) != TaskTag::running || !table.is_dead(owner)) continue;
      if (!TaskRing::take_away(slot, state)) continue;
      if (Ticket& ticket = lane->tickets[index]; ticket.dealt) {
        take_back(ticket, slot);
        keep_running_chunk(ticket, owner);
      }
      const Piece piece = lane->tickets[index].piece;
      if (trace_) trace_loss(owner, piece);
      lose(*lane, index, loss_of(owner, piece.first, piece.first + piece.count - 1), true);
    }
  }
  collect();  // what the dead had finished, before their memory is taken
  repair_ranges(dead);
  for (const std::uint32_t worker : dead) {
    shm::reap(worker);
    forget(worker);
  }
  std::erase_if(doomed_, [&table](std::uint32_t worker) { return table.is_dead(worker); });
  clear_remains();
  wake_all_workers(*shared_);  // a wake-up may have died with its sleeper
  return true;                 // somebody may wait for just that death
}

// Workers of this pool whose death is established and not dealt with yet.
std::vector<std::uint32_t> ProcessPool::newly_dead() const {
  std::vector<std::uint32_t> dead;
  for (std::int32_t i = 0; i < shared_->workers; ++i) {
    for (const auto& recent : shared_->slots[i].recent) {
      const std::uint32_t id = recent.load(std::memory_order_relaxed);
      if (id != 0 && ProcessTable::instance().is_dead(id)) dead.push_back(id);
    }
  }
  return dead;
}

// Everything was done about the death of a worker: its place in the list of recent ones is free.
void ProcessPool::forget(std::uint32_t worker) noexcept {
  for (std::int32_t i = 0; i < shared_->workers; ++i) {
    for (auto& recent : shared_->slots[i].recent) {
      if (recent.load(std::memory_order_relaxed) == worker) {
        // RECENT worker: zygote.cpp writes before the fork, pool_loss.cpp reads
        recent.store(0, std::memory_order_release);  // RECENT: pairs with the zygote's look
      }
    }
  }
}

// What the workers read of an ended job is freed, unless one of them may do so still.
void ProcessPool::put_away(Job& job) {
  if (!quiet()) {
    remains_.push_back({job.context_block_, std::move(job.keep_), doomed_});
  } else {
    give_context(job.context_block_);
  }
  job.context_block_ = nullptr;
}

void ProcessPool::clear_remains() noexcept {
  if (state_ == State::terminate && !ended_) return;  // every worker is being ended
  const ProcessTable& table = ProcessTable::instance();
  std::erase_if(remains_, [&](Remains& one) {
    if (!ended_ && !std::ranges::all_of(one.readers, [&](auto id) { return table.is_dead(id); })) {
      return false;
    }
    if (one.context != nullptr) shm::Arena::instance().deallocate(one.context);
    return true;
  });
}

// A slot that was taken away: its piece is run again, or ends with `error`.
void ProcessPool::lose(Lane& lane, std::uint16_t index, const std::exception_ptr& error,
                       bool may_retry) {
  Ticket& ticket = lane.tickets[index];
  TaskRing::Slot& slot = lane.ring->at(index);
  std::erase(lane.out, index);
  if (may_retry && ticket.attempts < ticket.job->settings_.retries && state_ != State::terminate) {
    retry(lane, ticket, slot);
    return;
  }
  if (ticket.dealt) ChunkCursor(slot.bytes).close();  // a worker that lives yet begins no more
  Job* const job = std::exchange(ticket.job, nullptr);
  const Piece piece = ticket.piece;
  release(lane, ticket, slot);
  job->fail(piece, error);
  --job->outstanding_;
  piece_ended(*job, piece);
}

// The worker is dead: its slot is free at once, and the payload is used again where it lies.
void ProcessPool::retry(Lane& lane, Ticket& ticket, TaskRing::Slot& slot) {
  ++ticket.attempts;
  const std::uint32_t flags = (ticket.piece.starts_chunk ? kWhole : 0) |
                              (ticket.job->settings_.timeout.infinite() ? 0 : kTimed);
  std::memcpy(slot.bytes, ticket.kept, sizeof slot.bytes);
  const auto block = ticket.writer.block();
  const auto size = static_cast<std::uint32_t>(block.data != nullptr ? 0 : ticket.writer.size());
  TaskRing::retire(slot);
  // The slot must be published at a position of its own: the next one that falls on it.
  const auto index = static_cast<std::uint16_t>(&ticket - lane.tickets.data());
  while (lane.next % kTaskSlots != index) ++lane.next;
  publish(lane, index, size | flags | (block.data != nullptr ? kFar : 0));
  wake_for(1, load());
}

bool ProcessPool::handle_deadlines() {
  bool any = false;
  std::optional<Clock::time_point> now;
  for (const auto& lane : lanes_) {
    const std::vector<std::uint16_t> out(lane->out.begin(), lane->out.end());
    for (const std::uint16_t index : out) {
      Ticket& ticket = lane->tickets[index];
      if (!ticket.out || ticket.job->settings_.timeout.infinite()) continue;
      TaskRing::Slot& slot = lane->ring->at(index);
      const std::uint64_t state = TaskRing::look(slot);
      if (TaskState::tag(state) != TaskTag::running) continue;
      const int position = position_of(TaskState::owner(state));
      if (position < 0) continue;
      const auto began =
          // BEGIN task: worker.cpp writes, pool_loss.cpp reads
          shared_->slots[position].began_ns.load(std::memory_order_seq_cst);
      if (!now) now = Clock::now();
      if (ticket.seen_running == Clock::time_point{}) ticket.seen_running = *now;
      // 0: it has claimed the task and not begun; one that is stopped there has its time too.
      const auto since =
          began == 0 ? ticket.seen_running : Clock::time_point(std::chrono::nanoseconds(began));
      const auto limit = since + ticket.job->settings_.timeout.duration();
      if (*now < limit || !TaskRing::take_away(slot, state)) continue;
      ticket.quarantined = TaskState::owner(state);
      kill_worker(ticket.quarantined);
      lose(*lane, index,
           std::make_exception_ptr(TimeoutError("the task ran longer than its timeout")), false);
      any = true;
    }
  }
  if (!ranges_.empty()) any |= range_deadlines(now ? *now : Clock::now());
  return any;
}

std::optional<ProcessPool::Clock::time_point> ProcessPool::next_deadline() const {
  std::optional<Clock::time_point> next;
  const auto consider = [&next](const Timeout& timeout, std::uint64_t began) {
    if (timeout.infinite()) return;
    const auto from =
        began != 0 ? Clock::time_point(std::chrono::nanoseconds(began)) : Clock::now();
    const auto limit = from + timeout.duration();
    if (!next || limit < *next) next = limit;
  };
  for (const auto& lane : lanes_) {
    for (const std::uint16_t index : lane->out) {
      const Ticket& ticket = lane->tickets[index];
      if (ticket.job->settings_.timeout.infinite()) continue;
      const std::uint64_t state = TaskRing::look(lane->ring->at(index));
      const int position =
          TaskState::tag(state) == TaskTag::running ? position_of(TaskState::owner(state)) : -1;
      consider(
          ticket.job->settings_.timeout,
          position < 0 ? 0 : shared_->slots[position].began_ns.load(std::memory_order_relaxed));
    }
  }
  for (const auto& range : ranges_) consider(range->call.timeout, 0);
  return next;
}

bool ProcessPool::cancel(Job& job, const std::exception_ptr& error) {
  check_owner();
  Lock lock(mutex_);
  pump(lock);
  if (job.completing_ || job.done_) return false;
  const auto at = std::ranges::find_if(jobs_, [&job](const JobPtr& p) { return p.get() == &job; });
  if (at == jobs_.end()) return false;
  const JobPtr held = *at;
  held->exhausted_ = true;
  held->fail_source(error);
  for (const auto& lane : lanes_) {
    const std::vector<std::uint16_t> out(lane->out.begin(), lane->out.end());
    for (const std::uint16_t index : out) {
      Ticket& ticket = lane->tickets[index];
      if (ticket.job != &job) continue;
      TaskRing::Slot& slot = lane->ring->at(index);
      std::uint64_t state = TaskRing::look(slot);
      while (
          (TaskState::tag(state) == TaskTag::ready || TaskState::tag(state) == TaskTag::running) &&
          !TaskRing::take_away(slot, state)) {
        state = TaskRing::look(slot);
      }
      if (TaskState::tag(state) == TaskTag::running) {
        ticket.quarantined = TaskState::owner(state);
        kill_worker(ticket.quarantined);
      }
      if (TaskState::tag(state) != TaskTag::done && TaskState::tag(state) != TaskTag::failed) {
        lose(*lane, index, error, false);
      }
    }
  }
  piece_ended(*held, {});
  pump(lock);
  wake_owed();
  complete_jobs(lock);
  return true;
}

void ProcessPool::abandon(Job& job) {
  if (own_pid() != owner_pid_) return;
  Lock lock(mutex_);
  if (job.done_ || job.abandoned_) return;
  job.abandoned_ = true;
  const auto at = std::ranges::find_if(jobs_, [&job](const JobPtr& p) { return p.get() == &job; });
  if (at == jobs_.end()) return;
  const JobPtr held = *at;
  held->exhausted_ = true;
  // The pieces that are out are still collected: by the next call that waits, or in the background.
  if (!held->settings_.asynchronous) {
    held->settings_.asynchronous = true;
    ++asynchronous_;
  }
  piece_ended(*held, {});
  complete_jobs(lock);
  if (asynchronous_ != 0) start_collector();
}

// Every job ends with `error`, whatever is out.
void ProcessPool::fail_everything(const std::exception_ptr& error) {
  for (const auto& lane : lanes_) {
    while (!lane->out.empty()) {
      const std::uint16_t index = lane->out.front();
      TaskRing::Slot& slot = lane->ring->at(index);
      std::uint64_t state = TaskRing::look(slot);
      if (TaskState::tag(state) == TaskTag::done || TaskState::tag(state) == TaskTag::failed) {
        lane->out.pop_front();
        settle(*lane, lane->tickets[index], slot, state);
        continue;
      }
      if (!TaskRing::take_away(slot, state)) continue;
      if (TaskState::tag(state) == TaskTag::running) {
        lane->tickets[index].quarantined = TaskState::owner(state);
        if (state_ != State::terminate) kill_worker(TaskState::owner(state));
      }
      lose(*lane, index, error, false);
    }
  }
  const std::vector<JobPtr> left(jobs_.begin(), jobs_.end());
  for (const JobPtr& job : left) {
    job->fail_source(error);
    job->exhausted_ = true;
    piece_ended(*job, {});
  }
  cancel_ranges(error);
}

std::exception_ptr ProcessPool::terminated_error() {
  return std::make_exception_ptr(
      PoolTerminated("the pool was terminated before this result was there"));
}

std::exception_ptr ProcessPool::broken_error() const {
  const int status = shared_->broken_status.load(std::memory_order_relaxed);
  std::string why = "the pool's workers end before they are ready";
  if (status == shm::kUnknownStatus) {
    why = "the pool's workers cannot be replaced: the system refuses new processes";
  } else if (WIFSIGNALED(status)) {
    why += ", by signal " + std::to_string(WTERMSIG(status));
  } else {
    why += ", with exit code " + std::to_string(WEXITSTATUS(status)) +
           " (does the initializer throw? its text is on stderr)";
  }
  return std::make_exception_ptr(ProcessError(why));
}

// A zygote that died took its workers along: what they ran is reported, and a new one is made.
void ProcessPool::check_zygote() {
  const auto now = Clock::now();
  if (state_ == State::terminate || leaving_ ||
      now - zygote_checked_ < std::chrono::milliseconds(20)) {
    return;
  }
  zygote_checked_ = now;
  if (zygote_ && zygote_->alive()) return;
  zygote_.reset();
  clear_stands();
  try {
    start_zygote();
  } catch (...) {
    broken_ = std::current_exception();
    fail_everything(broken_);
  }
}

// The zygote is dead: its workers are seen to be, and what they ran is dealt with.
void ProcessPool::clear_stands() {
  ProcessTable& table = ProcessTable::instance();
  for (std::int32_t i = 0; i < shared_->workers; ++i) {
    WorkerSlot& slot = shared_->slots[i];
    const std::uint32_t id = slot.id.load(std::memory_order_relaxed);
    // The kernel ends them with the zygote: a matter of microseconds.
    for (int tries = 0; id != 0 && tries < 2000 && table.check_alive(id); ++tries) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (id != 0) table.mark_dead(id, shm::kUnknownStatus);
    shared_->idle[i / 64].fetch_or(std::uint64_t{1} << (i % 64), std::memory_order_relaxed);
    slot.bound.store(0, std::memory_order_relaxed);
    slot.id.store(0, std::memory_order_relaxed);
  }
  handle_deaths();
}

}  // namespace millrace::runtime
