// Range jobs: the parent publishes a record, workers pull chunks, nothing is copied.
#include "runtime/pool/pool_range.hpp"

#include <algorithm>
#include <bit>
#include <millrace/errors.hpp>
#include <utility>

#include "runtime/base/exceptions.hpp"
#include "shm/arena.hpp"

namespace millrace::runtime {
namespace {

constexpr std::uint64_t kWave = std::uint64_t{1} << 20;  // chunks whose words are there at one time

}  // namespace

ProcessPool::Range::~Range() {
  if (memory != nullptr) shm::Arena::instance().deallocate(memory);
  for (std::byte* old : outgrown) shm::Arena::instance().deallocate(old);
  if (context != nullptr) shm::Arena::instance().deallocate(context);
}

void ProcessPool::Range::grow(std::uint64_t chunks, int lanes, int seats, bool occupied) {
  const std::uint64_t room = std::max<std::uint64_t>(1024, std::bit_ceil(chunks));
  const sched::RangeJob::Capacity size{room, lanes, seats};
  if (occupied && memory != nullptr) outgrown.reserve(outgrown.size() + 1);
  auto* fresh =
      static_cast<std::byte*>(shm::Arena::instance().allocate(sched::RangeJob::bytes_for(size)));
  if (memory != nullptr) {
    if (occupied) {
      outgrown.push_back(memory);
    } else {
      shm::Arena::instance().deallocate(memory);
    }
  }
  memory = fresh;
  job = sched::RangeJob::create(memory, size);
  capacity = room;
}

// True while a worker may look into the memory of record `index`.
bool ProcessPool::inside_record(int index) const {
  const std::span slots(shared_->slots, static_cast<std::size_t>(shared_->workers));
  return std::ranges::any_of(slots, [index](const WorkerSlot& slot) {
    // ENTER record: worker.cpp announces, pool_range.cpp looks
    return slot.range_entered.load(std::memory_order_acquire) ==
               static_cast<std::uint32_t>(index) + 1 &&
           slot.id.load(std::memory_order_relaxed) != 0;
  });
}

// A record that is free, with room for `chunks`; waits while all are busy.
ProcessPool::Range* ProcessPool::take_record(Lock& lock, std::uint64_t chunks) {
  for (;;) {
    if (state_ != State::run) throw ValueError("Pool not running");
    if (broken_) std::rethrow_exception(broken_);
    Range* found = nullptr;
    for (const auto& range : ranges_) {
      if (!range->busy && (found == nullptr || range->capacity >= chunks)) found = range.get();
    }
    if (found == nullptr && ranges_.size() < kRangeRecords) {
      ranges_.push_back(std::make_unique<Range>(static_cast<int>(ranges_.size())));
      found = ranges_.back().get();
    }
    if (found == nullptr) {
      ++sleepers_;
      changed_.wait(lock);
      --sleepers_;
      continue;
    }
    if (found->capacity < chunks) {
      found->grow(chunks, static_cast<int>(lanes_.size()), shared_->workers,
                  inside_record(found->index));
      // relaxed: ENTER record orders it, as the generation that a worker looks at before it
      shared_->records[found->index].job.store(found->job, std::memory_order_relaxed);
    }
    found->busy = true;
    return found;
  }
}

void ProcessPool::start_wave(Range& range, std::uint64_t first_chunk, std::uint64_t chunks) {
  RangeRecord& record = shared_->records[range.index];
  range.wave_first = range.call.first + first_chunk * range.call.chunk;
  const std::uint64_t words[] = {range.call.entry, reinterpret_cast<std::uint64_t>(range.context),
                                 range.wave_first, range.call.last, range.call.chunk};
  record.failure.store(0, std::memory_order_relaxed);
  range.generation = range.generation == UINT32_MAX ? 1 : range.generation + 1;
  range.job->start(range.generation, chunks, seat_shares_, words);
  // ENTER record: pool_range.cpp and worker.cpp
  record.generation.store(range.generation, std::memory_order_seq_cst);
  // PUBLISH ranges: seq_cst: ordered before the look at sleeping workers.
  shared_->range_mask.fetch_or(1U << range.index, std::memory_order_seq_cst);
  owed_wakes_ += std::min<std::uint64_t>(chunks, plan_.workers.size());
}

void ProcessPool::finish_wave(Range& range) {
  RangeRecord& record = shared_->records[range.index];
  // PUBLISH ranges: workers look no more; seq_cst pairs with ENTER record.
  shared_->range_mask.fetch_and(~(1U << range.index), std::memory_order_seq_cst);
  record.generation.store(0, std::memory_order_seq_cst);  // ENTER record
  auto* failure = reinterpret_cast<RangeFailure*>(
      // FAIL range: worker.cpp writes, pool_range.cpp reads
      record.failure.exchange(0, std::memory_order_acquire));
  if (failure == nullptr) return;
  if (!range.failure) {
    wire::Reader reader(failure + 1, failure->size);
    range.failure = decode_exception(reader);
  }
  shm::Arena::instance().deallocate(failure);
}

// True when no worker runs that was told to end.
bool ProcessPool::quiet() const {
  if (state_ == State::terminate) return ended_;
  const auto& table = shm::ProcessTable::instance();
  return std::ranges::all_of(doomed_, [&table](auto worker) { return table.is_dead(worker); });
}

// Waits for the end of workers that were told to end: they may still write where they were told to,
// and that is the caller's again as soon as it gets its error.
void ProcessPool::await_quiet(Lock& lock) {
  struct Quiet final : Job {
    explicit Quiet(const ProcessPool& of) : Job({}), pool(of) {}
    Piece feed(wire::Writer&) override { return {}; }
    Piece skip() override { return {}; }
    void deliver(const Piece&, wire::Reader&, const PieceReport&) override {}
    void fail(const Piece&, const std::exception_ptr&) override {}
    bool ready() const override { return pool.quiet(); }
    const ProcessPool& pool;
  } quiet_now(*this);
  wait_locked(lock, quiet_now, Clock::time_point::max());
}

// Waits for a wave as part of a user's call. False when SIGINT ended it: the chunks that were left
// are taken back, the workers that run some are replaced, and the failure is KeyboardInterrupt.
bool ProcessPool::wait_or_cancel(Lock& lock, Range& range, RangeJobFront& front) {
  const shm::BlockingCall user;
  try {
    wait_locked(lock, front, Clock::time_point::max(), &user);
    return true;
  } catch (const KeyboardInterrupt&) {
    range.failure = std::current_exception();
  }
  range.job->cancel_all(range.generation);
  kill_runners(range);
  wait_locked(lock, front, Clock::time_point::max());
  return false;
}

void ProcessPool::run_range(const RangeCall& call) {
  check_owner();
  if ((call.last - call.first) / call.chunk < 2 * plan_.workers.size()) {
    return run_small_range(call);
  }
  Lock lock(mutex_);
  if (state_ != State::run) throw ValueError("Pool not running");
  if (broken_) std::rethrow_exception(broken_);
  const std::uint64_t chunks = (call.last - call.first - 1) / call.chunk + 1;
  Range& range = *take_record(lock, std::min(chunks, kWave));
  range.call = call;
  range.failure = nullptr;
  const std::size_t bytes = sizeof(ContextHeader) + call.context.size();
  if (bytes > range.context_bytes) {
    std::byte* block = nullptr;
    try {
      block = static_cast<std::byte*>(shm::Arena::instance().allocate(bytes));
    } catch (...) {
      range.busy = false;
      throw;
    }
    if (range.context != nullptr) shm::Arena::instance().deallocate(range.context);
    range.context = block;
    range.context_bytes = bytes;
  }
  auto* header = new (range.context)
      ContextHeader{next_job_id_++, call.context.size(), call.timeout.infinite() ? 0U : 1U};
  std::ranges::copy(call.context, header->data());  // which may be empty
  if (trace_) trace_->range(header->job, call.entry);
  RangeJobFront front({.total = call.last - call.first, .progress = call.progress}, range);
  front.started_ = Clock::now();
  note_parent_cpu();
  if (!call.timeout.infinite()) ++timed_ranges_;
  std::uint64_t first = 0;
  bool interrupted = false;
  for (; first < chunks && state_ != State::terminate && !broken_ && !interrupted; first += kWave) {
    start_wave(range, first, std::min(kWave, chunks - first));
    interrupted = !wait_or_cancel(lock, range, front);
    finish_wave(range);
  }
  if (!call.timeout.infinite()) --timed_ranges_;
  if (first < chunks && !range.failure) range.failure = broken_ ? broken_ : terminated_error();
  if (range.failure) await_quiet(lock);
  if (call.progress) show_progress(lock, front);
  const std::exception_ptr failure = std::exchange(range.failure, nullptr);
  range.busy = false;
  if (sleepers_ != 0) changed_.notify_all();
  begin_leaving(lock);
  lock.unlock();
  if (failure) std::rethrow_exception(failure);
}

// Ends the workers that run chunks which were taken back.
void ProcessPool::kill_runners(const Range& range) {
  range.job->for_each_lost(range.generation, [this](std::uint64_t, std::uint32_t owner) {
    if (owner != 0) kill_worker(owner);  // one that was dead already stands nowhere
  });
}

// The chunks that dead workers ran are lost, or free again.
bool ProcessPool::repair_ranges(const std::vector<std::uint32_t>& dead) {
  bool any = false;
  for (const auto& range : ranges_) {
    if (!range->busy) continue;
    for (const std::uint32_t worker : dead) {
      const auto report = [&](std::uint64_t chunk) {
        const std::uint64_t first = range->wave_first + chunk * range->call.chunk;
        const std::uint64_t left = range->call.last - first;
        const std::uint64_t last = first + std::min(range->call.chunk, left) - 1;
        if (trace_) trace_loss(worker, {.first = first, .count = last - first + 1});
        if (!range->failure) range->failure = loss_of(worker, first, last);
      };
      // A claim word counts 15 attempts: sched/range_job.hpp.
      const auto attempts = static_cast<unsigned>(std::min(range->call.retries, 14) + 1);
      const auto repaired = range->job->repair(range->generation, worker, attempts, report);
      any |= repaired.lost != 0 || repaired.returned != 0;
      if (repaired.claimable) {
        // OBSERVE: workers that found nothing look again.
        // NUDGE range: pool_range.cpp writes, worker.cpp reads
        shared_->records[range->index].nudge.fetch_add(1, std::memory_order_seq_cst);
        wake_for(plan_.workers.size(), load());
      }
    }
  }
  return any;
}

bool ProcessPool::range_deadlines(Clock::time_point now) {
  bool any = false;
  for (const auto& range : ranges_) {
    if (!range->busy || range->call.timeout.infinite()) continue;
    for (std::int32_t i = 0; i < shared_->workers; ++i) {
      WorkerSlot& slot = shared_->slots[i];
      // ENTER record: worker.cpp announces, pool_range.cpp looks
      if (slot.range_entered.load(std::memory_order_acquire) !=
          static_cast<std::uint32_t>(range->index) + 1) {
        continue;
      }
      // BEGIN task: worker.cpp writes, pool_loss.cpp reads
      const auto began = slot.began_ns.load(std::memory_order_seq_cst);
      // BEGIN chunk: worker.cpp writes, pool_range.cpp reads
      const std::uint64_t chunk = slot.range_chunk.load(std::memory_order_acquire);
      // BEGIN task: worker.cpp writes, pool_loss.cpp reads
      if (slot.began_ns.load(std::memory_order_seq_cst) != began) continue;
      if (began == 0 || now < Clock::time_point(std::chrono::nanoseconds(began)) +
                                  range->call.timeout.duration()) {
        continue;
      }
      const std::uint32_t worker = slot.id.load(std::memory_order_relaxed);
      if (range->job->runner(range->generation, chunk) != worker ||
          !range->job->cancel(range->generation, chunk)) {
        continue;
      }
      kill_worker(worker);
      if (!range->failure) {
        range->failure =
            std::make_exception_ptr(TimeoutError("a chunk ran longer than its timeout"));
      }
      any = true;
    }
  }
  return any;
}

void ProcessPool::cancel_ranges(const std::exception_ptr& error) {
  for (const auto& range : ranges_) {
    if (!range->busy) continue;
    if (range->job->cancel_all(range->generation) != 0 && !range->failure) range->failure = error;
    if (state_ != State::terminate) kill_runners(*range);  // else every worker is being ended
  }
}

}  // namespace millrace::runtime
