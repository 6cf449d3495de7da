// Taking replies back, and ending jobs.
#include <algorithm>
#include <cstring>
#include <millrace/errors.hpp>
#include <utility>

#include "runtime/base/exceptions.hpp"
#include "runtime/pool/joblog.hpp"
#include "runtime/pool/pool_range.hpp"
#include "runtime/pool/process_pool.hpp"

namespace millrace::runtime {

// One round of everything that can be done without waiting. True if anything was done.
bool ProcessPool::pump(Lock& lock) {
  bool any = few_left() && collect();
  if (!any || load().tasks != 0) {
    // Before the look at the slots: an old sum makes one look in vain, a new one would hide a
    // reply. An old one that stays would keep whoever waits for the rest from ever sleeping.
    seen_completed_.store(completed_sum(), std::memory_order_relaxed);  // with the lock
    any |= collect();
  }
  any |= handle_deaths();
  if (timed_out_ != 0 || timed_ranges_ != 0) any |= handle_deadlines();
  const bool all_done = jobs_.size() == 1 && jobs_.front()->completing_;
  if (!jobs_.empty() && !all_done) any |= feed(lock);
  if (!completed_.empty()) complete_jobs(lock);
  if (any && sleepers_ != 0) changed_.notify_all();  // it may be what another thread waits for
  if (any && listening_) tell_listener();
  return any;
}

// The last tasks of the only job are looked at themselves first: when all have ended the workers'
// own lines are left alone, which they write once a task and would have to fetch back.
bool ProcessPool::few_left() const {
  const Load now = load();
  return jobs_.size() == 1 && jobs_.front()->exhausted_ && !now.ranges &&
         now.tasks <= plan_.workers.size();
}

bool ProcessPool::collect() {
  bool any = false;
  for (const auto& lane : lanes_) any |= collect(*lane);
  return any;
}

bool ProcessPool::collect(Lane& lane) {
  std::size_t settled = 0;
  std::size_t kept = 0;
  for (std::size_t i = 0; i < lane.out.size(); ++i) {
    const std::uint16_t index = lane.out[i];
    TaskRing::Slot& slot = lane.ring->at(index);
    const std::uint64_t state = TaskRing::look(slot);
    const shm::TaskTag tag = shm::TaskState::tag(state);
    if (tag == shm::TaskTag::done || tag == shm::TaskTag::failed) {
      settle(lane, lane.tickets[index], slot, state);
      ++settled;
      continue;
    }
    if (tag == shm::TaskTag::ready && i >= kept + 8) {
      // Tasks are taken in order: nothing behind one that was not taken can be done.
      for (; i < lane.out.size(); ++i) lane.out[kept++] = lane.out[i];
      break;
    }
    lane.out[kept++] = index;
  }
  lane.out.resize(kept);
  if (settled == 0) return false;
  // Nothing before this to compare with, and nothing left that the next could be compared with.
  if (kept == 0 && lane.last_settled == 0) return true;
  // The more tasks are settled in a microsecond, the deeper the queue: about a millisecond of work,
  // so that a parent that sleeps can be woken in time and a later job still gets its turn soon.
  const std::uint64_t now = shm::ticks();
  if (lane.last_settled != 0) {
    const double us =
        static_cast<double>(now - lane.last_settled) / static_cast<double>(shm::ticks_per_us());
    const double rate = static_cast<double>(settled) / std::max(us, 0.05);
    lane.rate = lane.rate == 0 ? rate : 0.75 * lane.rate + 0.25 * rate;
    const auto wanted = static_cast<std::size_t>(std::min(lane.rate * 1000.0, 1e6));
    lane.depth =
        std::clamp(wanted, std::max<std::size_t>(8, 2 * static_cast<std::size_t>(lane.workers)),
                   kTaskSlots - 8);
  }
  lane.last_settled = now;
  return true;
}

// A worker has replied.
void ProcessPool::settle(Lane& lane, Ticket& ticket, TaskRing::Slot& slot, std::uint64_t state) {
  if (ticket.dealt) take_back(ticket, slot);  // one that threw left the rest
  Job* const job = std::exchange(ticket.job, nullptr);
  const std::byte* data = slot.bytes;
  std::size_t size = slot.size & kSizeMask;
  std::byte* block = nullptr;
  if ((slot.size & kFar) != 0) {
    Far far;
    std::memcpy(&far, slot.bytes, sizeof far);
    data = far.data;
    size = far.size;
    const auto own = ticket.writer.block();
    const bool inside =
        own.data != nullptr && far.data >= own.data && far.data < own.data + own.capacity;
    if (!inside) block = far.data;
  }
  if (trace_) {
    const auto at = std::ranges::find(lanes_, &lane, &std::unique_ptr<Lane>::get);
    trace_->settled(static_cast<int>(at - lanes_.begin()), ticket.position, job->id_,
                    job->settings_.entry, ticket.piece);
  }
  wire::Reader reply(data, size);
  try {
    if (shm::TaskState::tag(state) == shm::TaskTag::done) {
      if (job->log_) job->log_->append(ticket.piece, data, size);
      job->deliver(ticket.piece, reply,
                   {shm::ProcessTable::instance().pid(shm::TaskState::owner(state))});
    } else {
      job->fail(ticket.piece, decode_exception(reply));
    }
  } catch (...) {
    job->fail(ticket.piece, std::current_exception());  // a result that cannot be rebuilt
  }
  if (block != nullptr) shm::Arena::instance().deallocate(block);
  const Piece piece = ticket.piece;
  release(lane, ticket, slot);
  --job->outstanding_;
  piece_ended(*job, piece);
}

void ProcessPool::release(Lane&, Ticket& ticket, TaskRing::Slot& slot) {
  ticket.out = false;
  if (std::exchange(ticket.timed, false)) --timed_out_;
  if (const auto block = ticket.writer.block(); block.data != nullptr) bytes_out_ -= block.capacity;
  if (ticket.quarantined == 0) {
    ticket.drop();
    TaskRing::retire(slot);
  }
}

void ProcessPool::piece_ended(Job& job, const Piece& piece) {
  job.items_done_ += piece.count;
  if (job.exhausted_ && job.outstanding_ == 0 && !job.completing_) {
    job.completing_ = true;
    completed_.push_back(&job);  // it leaves jobs_ in complete_jobs(): callers walk over that list
  }
}

// Runs what is to run when a job has ended, without the lock, then lets its waiters go. The job
// itself may end here too, and user objects with it: that is done without the lock as well.
void ProcessPool::complete_jobs(Lock& lock) {
  while (!completed_.empty()) {
    const auto at = std::ranges::find(jobs_, completed_.back(), &JobPtr::get);
    completed_.pop_back();
    if (at == jobs_.end()) continue;  // never: a job is completed once
    JobPtr job = std::move(*at);
    if (spare_nodes_.size() < kSpareNodes) {
      spare_nodes_.splice(spare_nodes_.begin(), jobs_, at);
    } else {
      jobs_.erase(at);
    }
    if (job->ends_silently()) {
      end_job(*job);
      continue;
    }
    // The last report comes last; unless the sink itself brought us here.
    while (job->reporting_ != 0 && job->reporting_ != thread_token()) {
      ++sleepers_;
      changed_.wait(lock);
      --sleepers_;
    }
    if (job->settings_.progress) show_progress(lock, *job);
    in_callbacks_.push_back(thread_token());
    lock.unlock();
    job->finished();
    lock.lock();
    in_callbacks_.erase(std::ranges::find(in_callbacks_, thread_token()));
    end_job(*job);
    lock.unlock();
    job.reset();
    lock.lock();
  }
  begin_leaving(lock);
}

// With the lock: lets the waiters of a job go.
void ProcessPool::end_job(Job& job) {
  job.done_ = true;
  if (dealing_ == &job) {
    dealing_ = nullptr;
    dealt_since_ = 0;
  }
  job.log_.reset();
  put_away(job);
  if (job.settings_.asynchronous) --asynchronous_;
  if (sleepers_ != 0) changed_.notify_all();
  if (listening_) tell_listener();
}

// Calls the job's progress sink, without the lock.
void ProcessPool::show_progress(Lock& lock, Job& job) {
  const Progress now{job.items_done(), job.settings_.total, Clock::now() - job.started_};
  job.reporting_ = thread_token();
  lock.unlock();
  try {
    job.settings_.progress(now);
  } catch (...) {
    log_callback_failure("progress");
  }
  lock.lock();
  job.reporting_ = 0;
  if (sleepers_ != 0) changed_.notify_all();
}

// Shows progress if it is time to; one thread at a time does.
void ProcessPool::report_progress(Lock& lock, Job& job) {
  const auto now = Clock::now();
  if (job.reporting_ != 0 || job.completing_) return;
  if (now - job.last_progress_ < std::chrono::milliseconds(100)) return;
  job.last_progress_ = now;
  show_progress(lock, job);
}

}  // namespace millrace::runtime
