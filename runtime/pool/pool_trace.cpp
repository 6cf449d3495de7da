#include "runtime/pool/pool_trace.hpp"

#include <algorithm>
#include <chrono>
#include <map>
#include <millrace/logging.hpp>
#include <new>
#include <utility>

#include "runtime/base/symbols.hpp"
#include "shm/arena.hpp"
#include "shm/parking.hpp"

namespace millrace::runtime {

PoolTrace::PoolTrace(std::string path, int workers)
    : path_(std::move(path)),
      workers_(workers),
      most_notes_(static_cast<std::size_t>(workers) * TraceBuffer::kCapacity),
      start_ticks_(shm::ticks()),
      start_ns_(now_ns()) {
  TraceFile::check(path_);
  const auto count = static_cast<std::size_t>(workers);
  // Fresh pages of the arena are zero, and an event is written before it is read: only the counters
  // are made, so that no page is touched before it is needed.
  auto* memory =
      static_cast<std::byte*>(shm::Arena::instance().allocate(sizeof(TraceBuffer) * count));
  buffers_ = reinterpret_cast<TraceBuffer*>(memory);
  for (std::size_t i = 0; i < count; ++i) {
    new (&buffers_[i].count) std::atomic<std::uint64_t>(0);
    new (&buffers_[i].dropped) std::atomic<std::uint64_t>(0);
  }
}

PoolTrace::~PoolTrace() { shm::Arena::instance().deallocate(buffers_); }

void PoolTrace::settled(int lane, std::uint64_t position, std::uint64_t job, FunctionId entry,
                        const Piece& piece) {
  if (notes_.size() == most_notes_) {
    ++dropped_;
    return;
  }
  notes_.push_back({lane, position, job, entry, piece.first, piece.count});
}

void PoolTrace::range(std::uint64_t job, FunctionId entry) {
  if (ranges_.size() < most_notes_) ranges_.emplace_back(job, entry);
}

void PoolTrace::lost(int index, pid_t pid, const Piece& piece) {
  if (losses_.size() < most_notes_) losses_.push_back({index, pid, shm::ticks(), piece});
}

std::string PoolTrace::kind_of(FunctionId entry) {
  std::string symbol;
  try {
    symbol = describe_address(reinterpret_cast<std::uintptr_t>(resolve_function(entry)));
  } catch (const std::exception&) {  // its module is gone: the job goes by its number
  }
  return job_kind(symbol);
}

void PoolTrace::write_events(TraceFile& file, int index) {
  const double per_us = [this] {
    const auto us = static_cast<double>(now_ns() - start_ns_) / 1000.0;
    return us > 0 ? static_cast<double>(shm::ticks() - start_ticks_) / us : 1.0;
  }();
  const auto us = [&](std::uint64_t at) {
    return static_cast<double>(at - std::min(at, start_ticks_)) / per_us;
  };
  std::map<FunctionId, std::string> kinds;
  const auto name = [&](FunctionId entry, std::uint64_t job) {
    std::string& kind = kinds[entry];
    if (kind.empty()) kind = kind_of(entry);
    return kind + " #" + std::to_string(job);
  };
  const TraceBuffer& buffer = buffers_[index];
  dropped_ += buffer.dropped.load(std::memory_order_relaxed);
  bool fresh = true;
  const std::uint64_t count =
      buffer.count.load(std::memory_order_acquire);  // EVENT: pool_trace.hpp writes
  for (std::uint64_t i = 0; i < count; ++i) {
    const TraceEvent& event = buffer.events[i];
    if (event.kind == TraceEvent::Kind::start) {
      file.instant(index + 1, fresh ? "worker started" : "worker replaced", us(event.begin),
                   event.pid);
      fresh = false;
      continue;
    }
    TraceFile::Slice slice{.track = index + 1,
                           .name = {},
                           .begin_us = us(event.begin),
                           .duration_us = static_cast<double>(event.end - event.begin) / per_us,
                           .pid = event.pid,
                           .cpu = event.cpu,
                           .job = event.job,
                           .first = event.first,
                           .last = event.last - 1};
    if (event.kind == TraceEvent::Kind::chunk) {
      // In the order of their numbers.
      const auto at =
          std::ranges::lower_bound(ranges_, event.job, {}, &decltype(ranges_)::value_type::first);
      const bool known = at != ranges_.end() && at->first == event.job;
      slice.name = known ? name(at->second, event.job) : "range";
    } else {
      const auto before = [](const Note& a, const std::pair<int, std::uint64_t>& b) {
        return std::pair(a.lane, a.position) < b;
      };
      const std::pair key(static_cast<int>(event.lane), event.first);
      const auto note = std::lower_bound(notes_.begin(), notes_.end(), key, before);
      if (note == notes_.end() || std::pair(note->lane, note->position) != key) {
        continue;  // its reply was not wanted any more
      }
      slice.name = name(note->entry, note->job);
      slice.job = note->job;
      slice.first = note->first;
      slice.last = note->first + note->count - 1;
    }
    file.slice(slice);
  }
  for (const Loss& loss : losses_) {
    if (loss.index != index) continue;
    file.instant({.track = index + 1,
                  .name = "worker lost",
                  .begin_us = us(loss.at),
                  .pid = loss.pid,
                  .first = loss.piece.first,
                  .last = loss.piece.first + loss.piece.count - 1});
  }
}

void PoolTrace::write(const std::vector<WorkerBinding>& bindings) noexcept {
  if (std::exchange(written_, true)) return;
  try {
    std::ranges::sort(notes_, {},
                      [](const Note& note) { return std::pair(note.lane, note.position); });
    TraceFile file(path_);
    for (int index = 0; index < workers_; ++index) {
      const WorkerBinding& where = bindings[static_cast<std::size_t>(index)];
      std::string name = "worker " + std::to_string(index) + ", pid " + std::to_string(where.pid);
      name += where.cpus.size() == 1 ? ", cpu " + std::to_string(where.cpus[0])
                                     : ", " + std::to_string(where.cpus.size()) + " cpus";
      if (where.node >= 0) name += ", node " + std::to_string(where.node);
      file.track(index + 1, name);
      write_events(file, index);
    }
    file.close(dropped_);
  } catch (const std::exception& error) {
    try {
      get_logger().error(error.what());
    } catch (...) {  // a logger that fails must not harm the pool
    }
  }
}

}  // namespace millrace::runtime
