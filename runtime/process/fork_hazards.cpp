#include "runtime/process/fork_hazards.hpp"

#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <millrace/logging.hpp>
#include <stdexcept>
#include <string>

#include "runtime/base/fork_mutex.hpp"
#include "runtime/base/log_handler.hpp"
#include "shm/layout.hpp"

namespace millrace::runtime {
namespace {

// relaxed: a thread that begins or ends at the moment of a fork may be counted either way
std::atomic<long> g_own_threads{0};

// A forked child has but the thread that forked it.
[[maybe_unused]] const bool g_prepared = [] {
  run_after_fork_in_child([]() noexcept { g_own_threads.store(0, std::memory_order_relaxed); });
  return true;
}();

// The program's threads beside this one. The kernel counts them in the links of a folder.
long other_threads() noexcept {
  struct stat tasks {};
  if (::stat("/proc/self/task", &tasks) != 0) return 0;
  constexpr long kSanitizer = MILLRACE_UNDER_TSAN ? 1 : 0;  // it has a thread of its own
  return static_cast<long>(tasks.st_nlink) - 2 - 1 - kSanitizer -
         g_own_threads.load(std::memory_order_relaxed);
}

// The same, but for those that are just ending: a thread that was joined is counted a moment
// longer.
long lasting_threads() noexcept {
  long others = other_threads();
  for (int look = 0; others > 0 && look < 10; ++look) {
    ::usleep(200);
    others = other_threads();
  }
  return others;
}

// What an MPI function that answers a question says; false where there is no MPI.
bool mpi_says(const char* question) noexcept {
  using Question = int (*)(int*);
  const auto ask = reinterpret_cast<Question>(::dlsym(RTLD_DEFAULT, question));
  int answer = 0;
  return ask != nullptr && ask(&answer) == 0 && answer != 0;
}

bool insists() noexcept {
  const char* const setting = std::getenv("MILLRACE_FORK_AFTER_MPI");
  return setting != nullptr && *setting != 0 && std::string_view(setting) != "0";
}

}  // namespace

void check_fork() {
  if (mpi_says("MPI_Initialized") && !mpi_says("MPI_Finalized") && !insists()) {
    throw std::runtime_error(
        "a process cannot be forked after MPI_Init: MPI's connections and registered memory do not "
        "survive it. Use the start method spawn or forkserver, start before MPI_Init, or insist by "
        "MILLRACE_FORK_AFTER_MPI=1");
  }
  // Looking is slow where there are threads, and every start would say it again.
  if (!has_log_handler() || !get_logger().enabled(logging::Level::warning)) return;
  if (const long others = lasting_threads(); others > 0) {
    get_logger().warning(
        "This process (pid=" + std::to_string(::getpid()) + ") has " + std::to_string(others) +
        " other threads: what they hold locked stays locked in a forked child. The "
        "start methods spawn and forkserver are safe.");
  }
}

OwnThread::OwnThread() noexcept { g_own_threads.fetch_add(1, std::memory_order_relaxed); }

OwnThread::~OwnThread() { g_own_threads.fetch_sub(1, std::memory_order_relaxed); }

}  // namespace millrace::runtime
