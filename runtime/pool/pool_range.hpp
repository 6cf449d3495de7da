// A range job in progress: the parent's side of one RangeRecord.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <memory>
#include <vector>

#include "runtime/pool/process_pool.hpp"

namespace millrace::runtime {

/// A place for range jobs; made when first needed, used again for job after job.
struct ProcessPool::Range {
  explicit Range(int place) : index(place) {}
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;
  ~Range();

  /// Makes room for `chunks` chunks of a pool that has `seats` worker seats on `lanes` nodes.
  /// `occupied`: a worker may still look into the present memory.
  void grow(std::uint64_t chunks, int lanes, int seats, bool occupied);

  int index;
  bool busy = false;
  std::byte* memory = nullptr;  ///< of the sched::RangeJob
  std::uint64_t capacity = 0;   ///< chunks it was made for
  /// Memory it grew out of while a worker that was stopped, or is slow to leave, stood inside. Each
  /// is at most half the size of the next: together less than the present one.
  std::vector<std::byte*> outgrown{};
  sched::RangeJob* job = nullptr;
  std::uint32_t generation = 0;
  std::byte* context = nullptr;
  std::size_t context_bytes = 0;
  RangeCall call{};
  std::uint64_t wave_first = 0;  ///< item at which the present wave begins
  std::exception_ptr failure{};  ///< the first
};

/// What run_range waits for.
class ProcessPool::RangeJobFront final : public Job {
 public:
  RangeJobFront(JobSettings settings, Range& range) : Job(std::move(settings)), range_(range) {}
  Piece feed(wire::Writer&) override { return {}; }
  Piece skip() override { return {}; }
  void deliver(const Piece&, wire::Reader&, const PieceReport&) override {}
  void fail(const Piece&, const std::exception_ptr&) override {}
  bool ready() const override { return range_.job->complete(range_.generation); }
  std::uint64_t items_done() const override {
    const std::uint64_t done = range_.job->done(range_.generation) * range_.call.chunk;
    return range_.wave_first - range_.call.first +
           std::min(done, range_.call.last - range_.wave_first);
  }
  bool glance() const override { return range_.job->complete(range_.generation); }

 private:
  Range& range_;
};

}  // namespace millrace::runtime
