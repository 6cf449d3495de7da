// Starting and joining a process: under fork beside fork, _exit and waitpid; under spawn beside
// posix_spawn of this program; under forkserver beside fork, from a small parent and from one with
// a gibibyte of memory, whose page tables every fork copies.
#include <sched.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <millrace/context.hpp>
#include <millrace/process.hpp>
#include <string_view>

#include "bench/shm/harness.hpp"

namespace mp = millrace;

namespace {

using bench::Better;

constexpr int kForks = 200;
constexpr int kExecs = 30;
constexpr int kLargeForks = 30;
constexpr std::size_t kLarge = std::size_t{1} << 30;
constexpr std::string_view kNothing = "--nothing";

cpu_set_t g_allowed;  // what the program was started with: the harness pins its thread

void wait_for(pid_t pid) {
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void bare_fork() {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(0);
  wait_for(pid);
}

void bare_spawn() {
  char name[] = "process_bench";
  char argument[] = "--nothing";
  char* arguments[] = {name, argument, nullptr};
  pid_t pid = -1;
  if (::posix_spawn(&pid, "/proc/self/exe", nullptr, nullptr, arguments, ::environ) != 0) {
    std::abort();
  }
  wait_for(pid);
}

void nothing() {}

std::function<void()> start_by(const char* method) {
  return [&context = mp::get_context(method)] {
    auto p = context.Process(nothing);
    p.start();
    p.join();
    if (p.exitcode() != 0) std::abort();
  };
}

// Nanoseconds that one call takes, of `count` after a first.
double each(int count, const std::function<void()>& call) {
  ::sched_setaffinity(0, sizeof g_allowed, &g_allowed);
  call();
  const std::uint64_t begin = bench::now_ns();
  for (int i = 0; i < count; ++i) call();
  return static_cast<double>(bench::now_ns() - begin) / count;
}

// The same in a process with that much memory, all of it present.
double each_in_large(const std::function<void()>& call) {
  const bench::SharedBlock result(sizeof(double));
  const pid_t pid = ::fork();
  if (pid == 0) {
    const std::unique_ptr<char[]> memory(new char[kLarge]);
    std::memset(memory.get(), 1, kLarge);
    bench::keep(memory.get()[kLarge / 2]);
    *static_cast<double*>(result.get()) = each(kLargeForks, call);
    ::_exit(0);
  }
  wait_for(pid);
  return *static_cast<double*>(result.get());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && argv[1] == kNothing) return 0;
  mp::freeze_support(argc, argv);
  ::sched_getaffinity(0, sizeof g_allowed, &g_allowed);
  bench::Suite suite("process");
  suite.measure("bare fork", [] { return each(kForks, &bare_fork); });
  suite.measure("bare spawn", [] { return each(kExecs, &bare_spawn); });
  suite.measure("fork", [] { return each(kForks, start_by("fork")); });
  suite.measure("spawn", [] { return each(kExecs, start_by("spawn")); });
  suite.measure("forkserver", [] { return each(kForks, start_by("forkserver")); });
  suite.measure("bare fork of 1 GiB", [] { return each_in_large(&bare_fork); });
  suite.measure("forkserver beside 1 GiB", [] { return each_in_large(start_by("forkserver")); });
  suite.row({"start and join, fork", "ns", "fork", "bare fork", 1.15, Better::lower});
  suite.row({"start and join, spawn", "ns", "spawn", "bare spawn", 1.25, Better::lower});
  suite.row({"start and join, forkserver", "ns", "forkserver", "bare fork", 2.5, Better::lower});
  suite.row({"start and join, forkserver, 1 GiB", "ns", "forkserver beside 1 GiB",
             "bare fork of 1 GiB", 0.2, Better::lower});
  return suite.run(argc, argv);
}
