// What a pool of threads tells about itself.
#include <algorithm>
#include <millrace/errors.hpp>
#include <millrace/logging.hpp>
#include <millrace/thread_pool.hpp>
#include <ostream>
#include <string>
#include <typeinfo>
#include <utility>

#include "runtime/base/own_pid.hpp"
#include "runtime/pool/thread_seat.hpp"

namespace millrace::runtime {

std::vector<WorkerBinding> ThreadCore::bindings() const {
  check_owner();
  auto& self = const_cast<ThreadCore&>(*this);  // it sleeps on words of the core
  Lock lock(mutex_);
  const auto bound = [](const Seat& seat) { return seat.bound; };
  while (!std::ranges::all_of(seats_, bound)) self.sleep(lock, Clock::time_point::max(), false);
  std::vector<WorkerBinding> all;
  for (const Seat& seat : seats_) all.push_back(seat.binding);
  return all;
}

std::vector<WorkerStats> ThreadCore::stats() const {
  check_owner();
  const Lock lock(mutex_);
  std::vector<WorkerStats> all;
  for (const Seat& seat : seats_) all.push_back(seat.stats);
  return all;
}

// A worker has ended a chunk: for the timeline. With the lock.
void ThreadCore::trace(const Turn& turn, Clock::time_point end) {
  constexpr std::size_t kMostSlices = std::size_t{1} << 20;
  if (slices_.size() == kMostSlices) {
    ++slices_dropped_;
    return;
  }
  const auto us = [](Clock::duration time) {
    return std::chrono::duration<double, std::micro>(time).count();
  };
  slices_.push_back({.track = static_cast<int>(own_seat()) + 1,
                     .name = typeid(turn.job_).name(),
                     .begin_us = us(turn.began_ - made_),
                     .duration_us = us(end - turn.began_),
                     .pid = turn.tid_,
                     .cpu = current_cpu(),
                     .job = turn.job_.id_,
                     .first = turn.chunk_.first,
                     .last = turn.chunk_.first + turn.chunk_.count - 1});
}

// With the lock, when the threads have left.
void ThreadCore::write_trace() noexcept {
  if (trace_path_.empty()) return;
  try {
    TraceFile file(std::exchange(trace_path_, {}));
    for (std::size_t i = 0; i < seats_.size(); ++i) {
      file.track(static_cast<int>(i) + 1,
                 "worker " + std::to_string(i) + ", pid " + std::to_string(seats_[i].binding.pid));
    }
    for (TraceFile::Slice& slice : slices_) {
      slice.name = job_kind(slice.name) + " #" + std::to_string(slice.job);
      file.slice(slice);
    }
    file.close(slices_dropped_);
  } catch (const std::exception& error) {
    try {
      get_logger().error(error.what());
    } catch (...) {  // a logger that fails must not harm the pool
    }
  }
}

std::string ThreadCore::repr() const {
  Lock lock(mutex_, std::defer_lock);
  if (own_pid() == owner_pid_) lock.lock();  // in a forked child nobody would ever release it
  static constexpr const char* kNames[] = {"RUN", "CLOSE", "TERMINATE"};
  return std::string("<multiprocessing.pool.ThreadPool state=") + kNames[static_cast<int>(state_)] +
         " pool_size=" + std::to_string(seats_.size()) + ">";
}

}  // namespace millrace::runtime

namespace millrace {

std::ostream& operator<<(std::ostream& out, const ThreadPool& pool) { return out << pool.repr(); }

}  // namespace millrace
