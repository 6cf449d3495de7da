// Range jobs of a few chunks: tasks, one a chunk, or dealt.
//
// Where only some workers are awake, most of all where a cpu is left for one, each of those would
// fetch chunk after chunk, a line there and a line back for each. So the chunks are dealt: every
// worker that spins gets its share as one task (range_task.hpp). They may wait for each other, so a
// worker's share is its own for kPatience microseconds only, as long as others are left asleep
// anyway (pool_wait.cpp): then the parent takes back what was not begun, and those chunks become
// tasks of their own for which others are woken. A chunk that throws, or whose worker dies, gives
// back those behind it at once.
//
// Invariants
//  1. Every chunk is in exactly one of: the job's input, a ticket's piece, ended. take_back() moves
//     chunks from a ticket to the input under the pool's lock, and only those that the cursor says
//     the worker cannot claim any more.
//  2. Whoever waits for a job that was dealt deals again before it sleeps.
//  3. A job that has failed as a whole (cancel, terminate) takes nothing back.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <millrace/errors.hpp>
#include <tuple>
#include <utility>
#include <vector>

#include "runtime/pool/process_pool.hpp"
#include "runtime/pool/range_task.hpp"
#include "shm/parking.hpp"

namespace millrace::runtime {

class ProcessPool::SmallRange final : public Job {
 public:
  SmallRange(JobSettings settings, ProcessPool& pool) : Job(std::move(settings)), pool_(pool) {}

  /// With the lock: makes it the job of this call, new or used before; the call outlives it.
  void begin(const RangeCall& call) {
    settings_.timeout = call.timeout;
    settings_.retries = call.retries;
    settings_.priority = call.priority;
    settings_.total = call.last - call.first;
    if (settings_.progress || call.progress) settings_.progress = call.progress;
    items_done_ = 0;
    exhausted_ = completing_ = done_ = false;
    chunk_ = call.chunk;
    entry_ = call.entry;
    next_ = call.first;
    end_ = call.last;
    hands_ = 0;
    asked_ = false;
  }

  Piece feed(wire::Writer& out) override {
    if (next_ == end_ && !returned_.empty()) {
      std::tie(next_, end_) = returned_.back();
      returned_.pop_back();
    }
    if (next_ == end_) return {.first = next_};
    const std::uint64_t left = (end_ - next_ - 1) / chunk_ + 1;
    if (!asked_) {
      hands_ = pool_.hands(*this, left);
      returned_.reserve(hands_);  // a share comes back once at most
      asked_ = true;
    }
    const bool deals = hands_ != 0 && pool_.dealt_since_ != 0;  // else it is too late for that
    const std::uint64_t chunks = deals ? (left - 1) / hands_-- + 1 : 1;
    const std::uint64_t count = chunks == left ? end_ - next_ : chunks * chunk_;
    out.put(RangeTask{entry_, next_, next_ + count, chunk_, ChunkCursor::fresh(chunks)});
    const std::uint64_t first = std::exchange(next_, next_ + count);
    return {.first = first, .count = count, .last = next_ == end_ && returned_.empty()};
  }
  Piece skip() override { return {.first = next_}; }  // only a joblog skips
  void deliver(const Piece&, wire::Reader&, const PieceReport&) override {}
  void fail(const Piece&, const std::exception_ptr& error) override {
    if (!failure) failure = error;
  }
  void fail_source(const std::exception_ptr& error) override {
    over_ = true;
    fail({}, error);
  }
  bool ends_silently() const override { return !settings_.progress; }

  /// Chunks come back; false when the job wants them no more.
  bool give_back(std::uint64_t first, std::uint64_t last) {
    if (over_) return false;
    returned_.emplace_back(first, last);
    return true;
  }
  [[nodiscard]] std::uint64_t chunk() const noexcept { return chunk_; }

  std::exception_ptr failure;

 private:
  ProcessPool& pool_;
  std::uint64_t chunk_ = 1;
  std::uint64_t entry_ = 0;
  std::uint64_t next_ = 0;
  std::uint64_t end_ = 0;
  std::size_t hands_ = 0;  // workers that have not got their share yet
  bool asked_ = false;
  bool over_ = false;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> returned_;
};

namespace {

// In the worker.
void run_range_task(TaskCall& call) {
  auto* const place = const_cast<std::byte*>(call.in.skip(sizeof(RangeTask)));
  RangeTask task;
  std::memcpy(&task, place, offsetof(RangeTask, cursor));
  ChunkCursor cursor(place);
  const auto entry =
      reinterpret_cast<RangeEntry>(resolve_function(static_cast<FunctionId>(task.entry)));
  RangeItems items{call.context, call.job, task.first, 0};
  do {
    items.last = items.first + std::min(task.chunk, task.last - items.first);
    entry(items);
    items.first = items.last;
  } while (cursor.claim());
}

}  // namespace

void ProcessPool::run_small_range(const RangeCall& call) {
  static const FunctionId entry = function_id(reinterpret_cast<AnyFunction>(&run_range_task));
  JobPtr held;  // dropped without the lock: it may hold the user's progress sink
  Lock lock(mutex_);
  held = std::exchange(spare_small_, nullptr);
  if (held == nullptr) held = make_ref<SmallRange>(JobSettings{.entry = entry}, *this);
  auto& job = static_cast<SmallRange&>(*held);
  job.begin(call);
  submit(lock, held, call.context);
  if (!job.ready()) wait_or_cancel(lock, job, Clock::time_point::max());
  if (!job.failure) {
    if (!call.progress) spare_small_ = std::move(held);
    return;
  }
  await_quiet(lock);
  lock.unlock();
  std::rethrow_exception(job.failure);
}

// With the lock, for a job of `chunks` chunks that is about to be handed out: among how many
// workers they are dealt. 0: every chunk is a task of its own, as where each has its own deadline,
// count or line in a timeline.
std::size_t ProcessPool::hands(const Job& job, std::uint64_t chunks) {
  const JobSettings& settings = job.settings();
  if (chunks < 2 || shared_->cpus < 2 || jobs_.size() != 1 || settings.retries != 0 ||
      !settings.timeout.infinite() || settings.progress || trace_ || shared_->max_tasks != 0) {
    return 0;
  }
  const Load now = load();
  std::size_t awake = now.tasks == 0 ? spinning_workers(0, now) : 0;
  // One that was woken where the parent runs gets no cpu while the parent waits awake.
  awake = std::min(awake, static_cast<std::size_t>(shared_->cpus - 1));
  if (awake == 0 || awake >= chunks) return 0;
  dealing_ = &job;
  dealt_since_ = shm::ticks();
  return awake;
}

// What nobody has begun of a dealt task is the job's again; its ticket keeps the rest.
void ProcessPool::take_back(Ticket& ticket, TaskRing::Slot& slot) {
  auto& job = static_cast<SmallRange&>(*ticket.job);
  Piece& piece = ticket.piece;
  const std::uint64_t begun = ChunkCursor(slot.bytes).close();
  if (begun >= (piece.count - 1) / job.chunk() + 1) return;
  const std::uint64_t kept = begun * job.chunk();
  if (job.give_back(piece.first + kept, piece.first + piece.count)) job.exhausted_ = false;
  piece.count = kept;
}

// After take_back(): of the chunks that a dead worker has begun all but the last have ended.
void ProcessPool::keep_running_chunk(Ticket& ticket, std::uint32_t worker) {
  const auto& job = static_cast<SmallRange&>(*ticket.job);
  Piece& piece = ticket.piece;
  const std::uint64_t chunks = (piece.count - 1) / job.chunk();
  const std::uint64_t ended = chunks * job.chunk();
  ticket.job->items_done_ += ended;
  piece.first += ended;
  piece.count -= ended;
  // The seat's own count is its next worker's already.
  for (std::size_t seat = 0; seat < ended_by_dead_.size(); ++seat) {
    const bool here = std::ranges::any_of(shared_->slots[seat].recent, [worker](const auto& id) {
      return id.load(std::memory_order_relaxed) == worker;
    });
    if (here) ended_by_dead_[seat] += chunks;
  }
}

// Shares that were not done soon: what was not begun becomes tasks of its own, for anybody.
void ProcessPool::deal_again(Lock& lock) {
  dealt_since_ = 0;
  for (const auto& lane : lanes_) {
    for (const std::uint16_t index : lane->out) {
      Ticket& ticket = lane->tickets[index];
      if (ticket.dealt) take_back(ticket, lane->ring->at(index));
    }
  }
  feed(lock);
  wake_owed();
}

}  // namespace millrace::runtime
