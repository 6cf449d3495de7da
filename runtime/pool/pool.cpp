// Pool's own part of its calls: what does not depend on their types.
#include <cstdint>
#include <millrace/errors.hpp>
#include <millrace/pool.hpp>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "runtime/pool/pool_checks.hpp"

namespace millrace {

Pool::Pool() : Pool(PoolOptions{}) {}

Pool::Pool(const PoolOptions& options) : core_(runtime::PoolCore::make(options, {})) {}

Pool::Pool(Pool&&) noexcept = default;

Pool& Pool::operator=(Pool&& other) noexcept {
  if (this != &other) {
    if (core_) core_->terminate();
    core_ = std::move(other.core_);
  }
  return *this;
}

Pool::~Pool() {
  if (core_) core_->terminate();
}

void Pool::close() { core().close(); }
void Pool::terminate() { core().terminate(); }
void Pool::join() { core().join(); }
std::vector<WorkerBinding> Pool::bindings() const { return core().bindings(); }
std::vector<WorkerStats> Pool::stats() const { return core().stats(); }
std::string Pool::repr() const { return core().repr(); }

runtime::PoolCore& Pool::core() const {
  if (!core_) throw ValueError("Pool not running: it was moved from");
  return *core_;
}

bool Pool::plan_range(runtime::RangeCall& call, const MapOptions& options) const {
  core().check_running();
  if (!options.joblog.empty()) {
    throw ValueError("joblog: this call has no results to log; use map or reduce");
  }
  const std::uint64_t size = runtime::range_size(call.first, call.last);
  const auto workers = static_cast<std::uint64_t>(core().workers());
  call.chunk = runtime::chunk_of(options.chunksize, size, core().workers(),
                                 runtime::larger(1, (size + 32 * workers - 1) / (32 * workers)));
  call.timeout = options.timeout;
  runtime::check_retries(options.retries);
  call.retries = options.retries;
  call.priority = options.priority;
  call.progress = options.progress;
  return size != 0;
}

std::ostream& operator<<(std::ostream& out, const Pool& pool) { return out << pool.repr(); }

namespace runtime {

void check_map_into(const BulkInto& map, std::uint64_t results, const MapOptions& options) {
  if (map.size != results) {
    throw ValueError("map_into: the input has " + std::to_string(map.size) +
                     " items and the output " + std::to_string(results) +
                     "; they must be of one size");
  }
  const auto in_begin = reinterpret_cast<std::uintptr_t>(map.items);
  const auto out_begin = reinterpret_cast<std::uintptr_t>(map.results);
  if (options.retries > 0 && in_begin < out_begin + map.size * map.result_bytes &&
      out_begin < in_begin + map.size * map.item_bytes) {
    throw ValueError(
        "map_into: what is written in place cannot be tried again; retries needs an "
        "output of its own");
  }
}

}  // namespace runtime
}  // namespace millrace
