#include <cxxabi.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <exception>
#include <limits>
#include <millrace/errors.hpp>
#include <millrace/job.hpp>
#include <millrace/logging.hpp>
#include <string>
#include <system_error>

#include "runtime/base/exceptions.hpp"
#include "runtime/pool/joblog.hpp"
#include "runtime/pool/parent_memory.hpp"
#include "runtime/pool/pool_checks.hpp"
#include "shm/arena.hpp"

namespace millrace::runtime {

void check_retries(int retries) {
  if (retries >= 0) return;
  throw ValueError("retries must be 0 or more, not " + std::to_string(retries));
}

Job::Job(JobSettings&& settings) : settings_(std::move(settings)) {
  check_retries(settings_.retries);
  if (settings_.node < -1) {
    throw ValueError("node must be a NUMA node's number or -1, for any, not " +
                     std::to_string(settings_.node));
  }
}
Job::~Job() = default;

std::uint64_t default_chunk(std::uint64_t items, int workers) noexcept {
  const std::uint64_t shares = 4 * static_cast<std::uint64_t>(workers);
  return items == 0 ? 1 : (items + shares - 1) / shares;
}

std::uint64_t chunk_of(const Chunksize& wish, std::uint64_t items, int workers,
                       std::uint64_t standard) {
  if (wish.guided())
    return items == 0 ? 1 : std::max<std::uint64_t>(1, default_chunk(items, workers));
  if (!wish.is_set()) return standard;
  if (wish.items() < 1) {
    throw ValueError("Chunksize must be 1+, not " + std::to_string(wish.items()));
  }
  return static_cast<std::uint64_t>(wish.items());
}

std::uint64_t range_size(std::uint64_t first, std::uint64_t last) {
  const std::uint64_t size = last > first ? last - first : 0;
  // A bound below 0 came as one of the largest: of -5 to 5 the first, of -1 items the last.
  constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (size > kMost || (first > kMost && last <= kMost)) {
    throw ValueError("parallel_for: indices are 0 and more, not from " +
                     std::to_string(static_cast<std::int64_t>(first)) + " to " +
                     std::to_string(static_cast<std::int64_t>(last)));
  }
  return size;
}

void log_callback_failure(const char* which) noexcept {
  try {
    std::string text = describe_exception(std::current_exception());
    if (text.ends_with('\n')) text.pop_back();
    get_logger().error(std::string("a pool's ") + which + " threw: " + text);
  } catch (...) {  // a logger that fails must not harm the pool
  }
}

void provide_pages(void* data, std::size_t bytes) noexcept {
  constexpr std::size_t kWorth = std::size_t{64} << 10;
  if (bytes < kWorth) return;
  static const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<std::uintptr_t>(data) / page * page;
  const auto last = (reinterpret_cast<std::uintptr_t>(data) + bytes) / page * page;
  const int saved = errno;  // an older kernel refuses, and nothing is lost
  if (last > first) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_POPULATE_WRITE);
  errno = saved;
}

bool in_arena(const void* data, std::size_t bytes) noexcept {
  return bytes != 0 && shm::Arena::exists() && shm::Arena::instance().contains(data);
}

void put_exception(wire::Writer& out, const std::exception_ptr& error) {
  encode_exception(out, error);
}

std::exception_ptr take_exception(wire::Reader& in) { return decode_exception(in); }

std::exception_ptr item_error() {
  try {
    throw;
  } catch (const SystemExit&) {
    throw;
  } catch (const KeyboardInterrupt&) {
    throw;
  } catch (const abi::__forced_unwind&) {
    throw;
  } catch (...) {
    return std::current_exception();
  }
}

int current_cpu() noexcept { return ::sched_getcpu(); }

std::int64_t now_ns() noexcept {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

namespace {

pid_t g_parent = 0;  // the process whose memory this worker may reach; set once at its start

template <class Call>
void transfer(Call call, void* local, std::uint64_t remote, std::size_t bytes, const char* name) {
  auto* at = static_cast<std::byte*>(local);
  for (std::uint64_t from = remote; bytes != 0;) {
    const iovec here{at, bytes};
    const iovec there{reinterpret_cast<void*>(from), bytes};
    const ssize_t moved = call(g_parent, &here, 1, &there, 1, 0);
    if (moved <= 0) {
      if (moved < 0 && errno == EINTR) continue;
      throw std::system_error(moved < 0 ? errno : EFAULT, std::generic_category(),
                              std::string(name) + " of the pool's parent");
    }
    at += moved;
    from += static_cast<std::uint64_t>(moved);
    bytes -= static_cast<std::size_t>(moved);
  }
}

}  // namespace

void set_parent_memory(pid_t parent) noexcept { g_parent = parent; }

bool probe_parent_memory(const void* word) noexcept {
  try {
    std::uint64_t value = 0;
    read_parent(&value, reinterpret_cast<std::uint64_t>(word), sizeof value);
    write_parent(&value, reinterpret_cast<std::uint64_t>(word), sizeof value);
    return true;
  } catch (...) {
    return false;  // not permitted here: payloads are copied by the parent instead
  }
}

void read_parent(void* to, std::uint64_t address, std::size_t bytes) {
  transfer(&::process_vm_readv, to, address, bytes, "process_vm_readv");
}

void write_parent(const void* from, std::uint64_t address, std::size_t bytes) {
  transfer(&::process_vm_writev, const_cast<void*>(from), address, bytes, "process_vm_writev");
}

}  // namespace millrace::runtime
