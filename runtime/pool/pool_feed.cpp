// Handing pieces of jobs to workers.
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <millrace/errors.hpp>
#include <utility>

#include "runtime/pool/joblog.hpp"
#include "runtime/pool/pool_range.hpp"
#include "runtime/pool/process_pool.hpp"

namespace millrace::runtime {
namespace {

constexpr std::size_t kSpareContext = 1024;
constexpr std::size_t kMaxBytesOut = std::size_t{1} << 22;

// Microseconds that may go into reading inputs before workers and waiters are looked after again.
constexpr std::uint64_t kReadSlice = 200;

}  // namespace

void ProcessPool::submit(JobPtr job, std::span<const std::byte> context) {
  check_owner();
  Lock lock(mutex_);
  submit(lock, std::move(job), context);
}

void ProcessPool::submit(Lock& lock, JobPtr job, std::span<const std::byte> context) {
  if (state_ != State::run) throw ValueError("Pool not running");
  if (broken_) std::rethrow_exception(broken_);
  job->id_ = next_job_id_++;
  job->owner_ = thread_token();
  job->started_ = job->settings_.progress ? Clock::now() : Clock::time_point{};
  if (!job->settings_.joblog.empty()) job->log_ = Joblog::open(*job);
  if (!context.empty()) {
    job->context_block_ = take_context(sizeof(ContextHeader) + context.size());
    auto* header = new (job->context_block_) ContextHeader{job->id_, context.size(), 0};
    std::memcpy(header->data(), context.data(), context.size());
  }
  const bool asynchronous = job->settings_.asynchronous;
  const bool caller_feeds = job->settings_.caller_feeds;
  if (asynchronous) ++asynchronous_;
  const auto behind = std::ranges::find_if(jobs_, [&job](const JobPtr& other) {
    return other->settings_.priority < job->settings_.priority;
  });
  if (spare_nodes_.empty()) spare_nodes_.emplace_back();
  spare_nodes_.front() = std::move(job);
  jobs_.splice(behind, spare_nodes_, spare_nodes_.begin());
  const bool blocked = !asynchronous && !caller_feeds;
  // While its caller is blocked a job that is alone stays where it is: nobody's input is read.
  Job* const only = blocked && jobs_.size() == 1 ? jobs_.front().get() : nullptr;
  feed(lock);
  if (only != nullptr) only->fresh_ = only->exhausted_;
  if (!blocked) wake_owed();
  if (!completed_.empty()) complete_jobs(lock);
  if (asynchronous_ != 0) start_collector();
}

// Memory for a job's context. The block of the last job is kept for the next: a small job costs
// less than the arena's bookkeeping.
std::byte* ProcessPool::take_context(std::size_t bytes) {
  if (bytes > kSpareContext) {
    return static_cast<std::byte*>(shm::Arena::instance().allocate(bytes));
  }
  if (spare_context_ != nullptr) return std::exchange(spare_context_, nullptr);
  return static_cast<std::byte*>(shm::Arena::instance().allocate(kSpareContext));
}

void ProcessPool::give_context(std::byte* block) noexcept {
  if (block == nullptr) return;
  const auto* header = reinterpret_cast<const ContextHeader*>(block);
  if (spare_context_ == nullptr && sizeof *header + header->size <= kSpareContext) {
    spare_context_ = block;
  } else {
    shm::Arena::instance().deallocate(block);
  }
}

// Tells workers that are bound to this very cpu not to spin on it.
void ProcessPool::note_parent_cpu() {
  const int cpu = ::sched_getcpu();
  // relaxed: advice for spinning workers.
  if (cpu == parent_cpu_) return;
  parent_cpu_ = cpu;
  shared_->parent_cpu.store(cpu, std::memory_order_relaxed);  // advice
  const auto seat = std::ranges::find_if(plan_.workers, [this, cpu](const PoolPlan::Worker& place) {
    return plan_.apply_binding && place.home == cpu;
  });
  shared_->parent_seat.store(
      seat == plan_.workers.end() ? -1 : static_cast<int>(seat - plan_.workers.begin()),
      std::memory_order_relaxed);
}

bool ProcessPool::may_feed(const Job& job) const {
  return !job.exhausted_ && !job.abandoned_ && !job.reading_ && !job.window_full() &&
         (!job.settings_.caller_feeds || (job.owner_ == thread_token() && job.has_read()));
}

// Reads one more piece of each input that this thread has to read, without the lock: inputs are
// user code and may use the pool themselves. True if anything was read.
bool ProcessPool::read_sources(Lock& lock) {
  const auto wanted = [](const JobPtr& job) {
    return job->settings_.caller_feeds && job->owner_ == thread_token() && !job->reading_ &&
           !job->exhausted_ && !job->abandoned_ && !job->window_full() && !job->has_read();
  };
  bool any = false;
  for (;;) {
    const auto at = std::ranges::find_if(jobs_, wanted);
    if (at == jobs_.end()) return any;
    const JobPtr job = *at;
    job->reading_ = true;
    lock.unlock();
    job->read();
    lock.lock();
    job->reading_ = false;
    any = true;
  }
}

// Gives out pieces while there is room. Inputs are read a slice of time at a time: a source that
// takes long must not keep what is ready from whoever waits for it.
bool ProcessPool::feed(Lock& lock) {
  std::size_t tasks = feed_round();
  bool any = tasks != 0;
  const std::uint64_t start = shm::ticks();
  while (read_sources(lock)) {
    any = true;
    tasks += feed_round();
    if (shm::ticks() - start > kReadSlice * shm::ticks_per_us()) {
      owed_wakes_ += std::exchange(tasks, 0);
      wake_owed();
      break;
    }
  }
  owed_wakes_ += tasks;
  const bool more = std::ranges::any_of(jobs_, [](const JobPtr& job) {
    return !job->exhausted_ && !job->abandoned_ && !job->window_full();
  });
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    const Lane& lane = *lanes_[i];
    // relaxed: advice to workers when to wake the parent for more.
    const std::uint64_t half = lane.next - std::min<std::uint64_t>(lane.next, lane.out.size() / 2);
    const std::uint64_t mark = more ? half : UINT64_MAX;
    // Workers look at it for every task: it is left alone while it need not change.
    if (shared_->low_water[i].load(std::memory_order_relaxed) == mark) continue;
    shared_->low_water[i].store(mark, std::memory_order_relaxed);
  }
  return any;
}

// The highest priority first, equals in turn, so that a long job does not starve a later one.
// Returns the number of tasks given out.
std::size_t ProcessPool::feed_round() {
  note_parent_cpu();
  std::size_t tasks = 0;
  for (auto group = jobs_.begin(); group != jobs_.end();) {
    const int priority = (*group)->settings_.priority;
    bool fed = false;
    auto it = group;
    while (it != jobs_.end() && (*it)->settings_.priority == priority) {
      Job& job = **it;  // it leaves the list in complete_jobs() only
      Lane* lane = may_feed(job) ? lane_for(job) : nullptr;
      if (lane != nullptr && feed_one(job, *lane)) {
        fed = true;
        ++tasks;
      }
      ++it;
    }
    if (!fed) group = it;  // nothing of this priority can be fed: on to the next
  }
  return tasks;
}

ProcessPool::Lane* ProcessPool::lane_for(const Job& job) {
  if (bytes_out_ > kMaxBytesOut) {
    std::size_t out = 0;
    for (const auto& lane : lanes_) out += lane->out.size();
    if (out > plan_.workers.size()) return nullptr;
  }
  if (lanes_.size() == 1) {
    return lanes_[0]->out.size() < lanes_[0]->depth ? lanes_[0].get() : nullptr;
  }
  Lane* best = nullptr;
  double best_load = 0;
  for (const auto& lane : lanes_) {
    if (lane->out.size() >= lane->depth) continue;
    if (job.settings_.node >= 0 && lane->node == job.settings_.node) return lane.get();
    const double load = static_cast<double>(lane->out.size()) / std::max(1, lane->workers);
    if (best == nullptr || load < best_load) {
      best = lane.get();
      best_load = load;
    }
  }
  return best;
}

std::optional<std::uint16_t> ProcessPool::free_slot(Lane& lane) {
  for (std::size_t step = 0; step < kTaskSlots; ++step, ++lane.next) {
    Ticket& ticket = lane.tickets[lane.next % kTaskSlots];
    if (ticket.out) continue;
    if (ticket.quarantined != 0) {
      if (!shm::ProcessTable::instance().is_dead(ticket.quarantined)) continue;
      ticket.quarantined = 0;
      ticket.drop();
    }
    return static_cast<std::uint16_t>(lane.next % kTaskSlots);
  }
  return std::nullopt;
}

bool ProcessPool::feed_one(Job& job, Lane& lane) {
  const auto index = free_slot(lane);
  if (!index) return false;
  Ticket& ticket = lane.tickets[*index];
  TaskRing::Slot& slot = lane.ring->at(*index);
  Piece piece;
  try {
    if (job.log_ && job.log_->knows_next()) {
      piece = job.skip();
      if (piece.count != 0) job.log_->replay(job, piece);
      if (piece.count == 0) job.exhausted_ = true;
      piece_ended(job, piece);
      return piece.count != 0;
    }
    ticket.writer.begin(slot.bytes, sizeof slot.bytes, lane.cache);
    piece = job.feed(ticket.writer);
    if (piece.count != 0) {
      const std::size_t reply = job.reply_bytes(piece);
      if (reply > sizeof slot.bytes) ticket.writer.make_room(reply);
    }
  } catch (...) {
    ticket.writer.drop();
    fail_feeding(job, std::current_exception());
    return false;
  }
  if (piece.count == 0) {
    ticket.writer.drop();
    job.exhausted_ = true;
    piece_ended(job, {});
    return false;
  }
  if (job.log_) job.log_->fed(piece);
  job.exhausted_ = piece.last;
  ticket.job = &job;
  ticket.piece = piece;
  ticket.attempts = 0;
  ++job.outstanding_;
  std::uint32_t size = static_cast<std::uint32_t>(ticket.writer.size());
  if (const auto block = ticket.writer.block(); block.data != nullptr) {
    const Far far{block.data, ticket.writer.size(), block.capacity};
    std::memcpy(slot.bytes, &far, sizeof far);
    size = kFar;
    bytes_out_ += block.capacity;
  }
  if (piece.starts_chunk) size |= kWhole;
  ticket.dealt = &job == dealing_;
  if (ticket.dealt) size |= kDealt;
  if (!job.settings_.timeout.infinite()) {
    size |= kTimed;
    ticket.timed = true;
    ++timed_out_;
  }
  slot.function = job.settings_.entry;
  slot.context = reinterpret_cast<std::uint64_t>(job.context_block_);
  // Needed when the worker may have written over it: to run it again, to give references back.
  if (job.settings_.retries != 0 || ticket.writer.holds_references()) {
    std::memcpy(ticket.kept, slot.bytes, sizeof ticket.kept);
  }
  publish(lane, *index, size);
  return true;
}

void ProcessPool::publish(Lane& lane, std::uint16_t index, std::uint32_t size) {
  Ticket& ticket = lane.tickets[index];
  lane.ring->at(index).size = size;
  ticket.out = true;
  ticket.seen_running = {};
  if (lane.out.empty()) lane.last_settled = 0;
  lane.out.push_back(index);
  ticket.position = lane.next;
  lane.ring->publish(lane.next++);
}

void ProcessPool::fail_feeding(Job& job, const std::exception_ptr& error) {
  job.exhausted_ = true;
  job.fail_source(error);
  piece_ended(job, {});
}

// Tasks that are out, claimed or not.
ProcessPool::Load ProcessPool::load() const {
  Load now;
  for (const auto& lane : lanes_) now.tasks += lane->out.size();
  now.ranges = std::ranges::any_of(ranges_, [](const auto& one) { return one->busy; });
  return now;
}

// Workers that spin, or are about to sleep and look once more: each takes a task by itself.
// `published` tasks were put out since they could last look.
std::size_t ProcessPool::spinning_workers(std::size_t published, const Load& load) const {
  if (load.ranges) return 0;
  std::size_t awake = static_cast<std::size_t>(shared_->workers);
  for (std::int32_t word = 0; word * 64 < shared_->workers; ++word) {
    // WAKE worker: seq_cst: ordered after the publication of the tasks.
    const std::uint64_t idle = shared_->idle[word].load(std::memory_order_seq_cst);
    awake -= std::min<std::size_t>(awake, static_cast<std::size_t>(std::popcount(idle)));
  }
  const std::size_t older = load.tasks - std::min(load.tasks, published);
  return awake - std::min(awake, older);
}

// Workers that are awake, but for the one whose cpu this thread has.
std::size_t ProcessPool::awake_beside_parent() const {
  const int seat = shared_->parent_seat.load(std::memory_order_relaxed);  // advice, as all of it
  std::size_t awake = 0;
  for (std::int32_t word = 0; word * 64 < shared_->workers; ++word) {
    std::uint64_t bits = ~shared_->idle[word].load(std::memory_order_relaxed);
    const std::int32_t left = shared_->workers - word * 64;
    if (left < 64) bits &= (std::uint64_t{1} << left) - 1;
    if (seat >= 0 && seat / 64 == word) bits &= ~(std::uint64_t{1} << (seat % 64));
    awake += static_cast<std::size_t>(std::popcount(bits));
  }
  return awake;
}

// Wakes workers for what was published since the last time. As few as there is work for: each wake
// costs the waker some ten microseconds, and a woken worker wakes the next if there is more.
void ProcessPool::wake_owed() {
  const std::size_t tasks = std::exchange(owed_wakes_, 0);
  if (tasks != 0 && busy()) wake_for(tasks, load());
}

// True if anybody was.
bool ProcessPool::wake_for(std::size_t tasks, const Load& load) {
  std::uint64_t idle = 0;
  for (int word = 0; word * 64 < shared_->workers; ++word) {
    // SLEEP worker: worker.cpp announces, pool_feed.cpp looks
    idle |= shared_->idle[word].load(std::memory_order_seq_cst);
  }
  if (idle == 0) return false;
  const std::size_t spinning = spinning_workers(tasks, load);
  std::size_t woken = 0;
  while (woken < 2 && spinning + woken < tasks && worth_waking(*shared_) &&
         wake_one_worker(*shared_)) {
    ++woken;
  }
  return woken != 0;
}

}  // namespace millrace::runtime
