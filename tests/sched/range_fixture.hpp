// A range job record on the heap, and what tests do with one.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "sched/range_job.hpp"

namespace millrace::sched {

struct FreeMemory {
  void operator()(void* memory) const { std::free(memory); }
};

/// A record in memory that was used for something else before.
class Record {
 public:
  explicit Record(const RangeJob::Capacity& capacity)
      : memory_(std::aligned_alloc(64, RangeJob::bytes_for(capacity))) {
    std::fill_n(static_cast<unsigned char*>(memory_.get()), RangeJob::bytes_for(capacity), 0xa5);
    job_ = RangeJob::create(memory_.get(), capacity);
  }
  RangeJob* operator->() { return job_; }
  RangeJob& operator*() { return *job_; }

 private:
  std::unique_ptr<void, FreeMemory> memory_;
  RangeJob* job_;
};

inline void start(RangeJob& job, std::uint32_t generation, std::uint64_t chunks,
                  const std::vector<int>& shares = {1}) {
  job.start(generation, chunks, shares);
}

/// A cursor that has joined.
inline std::unique_ptr<RangeCursor> joined(RangeJob& job, std::uint32_t generation,
                                           const RangeSeat& seat) {
  auto cursor = std::make_unique<RangeCursor>(seat);
  if (!job.join(generation, *cursor)) return nullptr;
  return cursor;
}

/// Runs all that can be claimed; returns the chunks in order.
inline std::vector<std::uint64_t> run_all(RangeJob& job, RangeCursor& cursor) {
  std::vector<std::uint64_t> ran;
  while (const auto chunk = job.claim(cursor)) {
    if (job.finish(cursor)) ran.push_back(*chunk);
  }
  return ran;
}

}  // namespace millrace::sched
