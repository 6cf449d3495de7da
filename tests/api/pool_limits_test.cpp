// Pools in programs that are short of something: address space, descriptors, processes, /dev/shm, a
// valid environment. Each is a program of its own, with an arena of its own: none is made here. It
// works, or an error says what is missing; nothing hangs or dies by a signal.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <millrace/arena.hpp>
#include <millrace/errors.hpp>
#include <millrace/interrupt.hpp>
#include <millrace/logging.hpp>
#include <millrace/pool.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "tests/leak_check.hpp"

namespace {

namespace mp = millrace;
using millrace::test::run_program;

constexpr rlim_t kMiB = rlim_t{1} << 20;

int square(int x) { return x * x; }

void limit(__rlimit_resource resource, rlim_t value) {
  const rlimit both{value, value};
  if (::setrlimit(resource, &both) != 0) std::abort();
}

/// Calls on a pool of two, private and shared, small and large.
void use_a_pool() {
  mp::Pool pool(2);
  if (pool.apply(square, 3) != 9) std::abort();
  std::vector<int> items(100'000, 2);
  for (const int x : pool.map(square, items)) {
    if (x != 4) std::abort();
  }
  const mp::shared_array<int> shared(1000);
  pool.parallel_for(1000, [shared](std::size_t i) { shared[i] = 1; });
  for (const int x : shared) {
    if (x != 1) std::abort();
  }
}

/// "ok", or what went wrong.
template <class Body>
void report(Body body) {
  ::alarm(100);
  try {
    body();
    std::printf("ok");
  } catch (const std::system_error& error) {
    std::printf("system error %d: %s", error.code().value(), error.what());
  } catch (const mp::ValueError& error) {
    std::printf("ValueError: %s", error.what());
  } catch (const std::exception& error) {
    std::printf("%s", error.what());
  }
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(PoolLimits, AddressSpace) {
  for (const rlim_t mib : {rlim_t{40}, rlim_t{100}, rlim_t{200}, rlim_t{400}, rlim_t{4000}}) {
    const auto program = run_program([mib] {
      limit(RLIMIT_AS, mib * kMiB);
      report(use_a_pool);
    });
    EXPECT_EQ(program.exitcode, 0) << mib << " MiB: " << program.err;
    EXPECT_FALSE(program.out.empty()) << mib << " MiB";
    if (mib >= 400) {
      EXPECT_EQ(program.out, "ok") << mib << " MiB";
    }
  }
}

TEST(PoolLimits, Descriptors) {
  int refused = 0;
  int worked = 0;
  for (rlim_t more = 0; more <= 24; more += 2) {
    const auto program = run_program([more] {
      const int next = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
      ::close(next);
      limit(RLIMIT_NOFILE, static_cast<rlim_t>(next) + more);
      report(use_a_pool);
    });
    EXPECT_EQ(program.exitcode, 0) << more << " descriptors: " << program.err;
    if (program.out == "ok") {
      ++worked;
    } else {
      ++refused;
      EXPECT_EQ(worked, 0) << "fewer were enough";
      EXPECT_TRUE(contains(program.out, "system error " + std::to_string(EMFILE))) << program.out;
    }
  }
  EXPECT_GT(refused, 0);
  EXPECT_GT(worked, 0);
}

// A descriptor with the number of a standard stream that is closed would be read, or printed into.
TEST(PoolLimits, ClosedStandardStreamsStayClosed) {
  const auto program = run_program([] {
    const int out = ::dup(STDOUT_FILENO);
    for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::close(stream);
    report([out] {
      mp::install_sigint();
      mp::Pool pool(2);
      use_a_pool();
      pool.apply(square, 2);
      // Nor in the process that forks the workers, whose stdin is /dev/null.
      const int taken = pool.apply([] {
        const std::string descriptors = "/proc/" + std::to_string(::getppid()) + "/fd/";
        char target[64];
        int found = 0;
        for (const char* stream : {"1", "2"}) {
          found += ::readlink((descriptors + stream).c_str(), target, sizeof target) > 0;
        }
        return found;
      });
      if (taken != 0) ::dprintf(out, "%d are taken there;", taken);
      auto later = pool.apply_async(square, 4);
      for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
        if (::fcntl(stream, F_GETFD) != -1) ::dprintf(out, "%d is taken;", stream);
      }
      if (later.get() != 16) ::dprintf(out, "no result;");
    });
    ::dup2(out, STDOUT_FILENO);  // for what report() says
  });
  EXPECT_EQ(program.out, "ok");
}

// Workers that cannot be replaced: the others do the work; without any, an error says why.
TEST(PoolLimits, ProcessesForReplacements) {
  const auto program = run_program([] {
    ::alarm(100);
    if (::geteuid() == 0 && ::setuid(12345) != 0) std::abort();  // root is exempt
    mp::Pool pool(2);
    const rlimit one{1, 1};
    ::prlimit(pool.apply([] { return ::getppid(); }), RLIMIT_NPROC, &one, nullptr);
    for (int left = 1; left >= 0; --left) {
      try {
        pool.apply([] { ::raise(SIGKILL); });
      } catch (const mp::WorkerLost& lost) {
        std::printf("%d ", lost.exitcode());
      }
      try {
        std::printf("%d ", pool.apply(square, 4));
      } catch (const mp::ProcessError& error) {
        std::printf("%s", error.what());
      }
    }
  });
  EXPECT_TRUE(program.out.starts_with("-9 16 -9 ")) << program.out;
  EXPECT_TRUE(contains(program.out, "the system refuses new processes")) << program.out;
  EXPECT_EQ(program.exitcode, 0) << program.err;
}

/// Mounts of the calling program's own under /dev.
bool may_mount() {
  return millrace::test::have_own_mounts(CLONE_NEWNS) ||
         millrace::test::have_own_mounts(CLONE_NEWUSER | CLONE_NEWNS);
}

TEST(PoolLimits, NoSharedMemoryFilesystem) {
  const auto program = run_program([] {
    if (!may_mount()) std::abort();
    while (::umount2("/dev/shm", MNT_DETACH) == 0) {
    }
    // An empty, read-only directory in its place: nothing can be made there.
    if (::mount("none", "/dev/shm", "tmpfs", MS_RDONLY, nullptr) != 0) std::abort();
    report(use_a_pool);
  });
  EXPECT_EQ(program.out, "ok") << program.err;
  EXPECT_EQ(program.exitcode, 0);
}

/// A file on a disk of 64 KiB that nobody else sees.
std::string file_on_a_small_disk(const char* name) {
  if (!may_mount() || ::mount("none", "/dev/shm", "tmpfs", 0, "size=64k") != 0) std::abort();
  return std::string("/dev/shm/") + name;
}

// The call fails with the file's name, and the pool goes on.
TEST(PoolLimits, AFullDiskUnderAJoblog) {
  const auto program = run_program([] {
    report([] {
      const std::string path = file_on_a_small_disk("joblog");
      mp::Pool pool(2);
      const auto long_text = [](int x) {
        return std::string(4000, static_cast<char>('a' + x % 26));
      };
      const std::vector<int> items(100, 1);
      try {
        (void)pool.map(long_text, items, {.chunksize = 1, .joblog = path});
      } catch (const std::system_error& error) {
        if (pool.map(long_text, items).size() != items.size()) std::abort();
        throw;
      }
    });
  });
  EXPECT_TRUE(contains(program.out, "system error 28: write joblog /dev/shm/joblog"))
      << program.out;
  EXPECT_EQ(program.exitcode, 0) << program.err;
}

// The pool has ended when the file is written: the log tells.
TEST(PoolLimits, AFullDiskUnderATrace) {
  const auto program = run_program([] {
    report([] {
      (void)mp::log_to_stderr();
      mp::Pool pool({.processes = 2, .trace = file_on_a_small_disk("run.json")});
      const std::vector<int> items(2000, 1);
      (void)pool.map(square, items, {.chunksize = 1});
      pool.close();
      pool.join();
    });
  });
  EXPECT_EQ(program.out, "ok");
  EXPECT_TRUE(contains(program.err, "trace file /dev/shm/run.json: No space left")) << program.err;
  EXPECT_EQ(program.exitcode, 0) << program.err;
}

TEST(PoolLimits, BindingThatIsNonsense) {
  const auto program = run_program([] {
    ::setenv("MILLRACE_BIND", "numa:nonsense", 1);
    report(use_a_pool);
  });
  EXPECT_TRUE(contains(program.out, "ValueError: MILLRACE_BIND")) << program.out;
  EXPECT_TRUE(contains(program.out, "'nonsense'")) << program.out;
  const auto option = run_program(
      [] { report([] { const mp::Pool pool({.processes = 2, .bind = "core,bogus"}); }); });
  EXPECT_TRUE(contains(option.out, "ValueError")) << option.out;
  EXPECT_TRUE(contains(option.out, "bogus")) << option.out;
}

TEST(PoolLimits, TopologyOfAnotherMachineIsPlannedWithButNotApplied) {
  const auto program = run_program([] {
    ::setenv("MILLRACE_TOPOLOGY", "synthetic:numa:4 core:2 pu:2", 1);
    report([] {
      const auto require = [](bool is, const char* what) {
        if (!is) throw std::runtime_error(what);
      };
      mp::Pool pool({.processes = 8, .bind = "numa"});
      std::set<int> nodes;
      for (const auto& worker : pool.bindings()) nodes.insert(worker.node);
      require(nodes == std::set<int>{0, 1, 2, 3}, "two workers to a node");
      const std::vector<int> items(1000, 2);
      const auto squares = pool.map(square, items, {.chunksize = 3});
      require(std::ranges::count(squares, 4) == 1000, "map");
      const std::string text(100'000, 'x');  // goes through memory of its node's lane
      const auto length = [](const std::string& s) { return s.size(); };
      for (int node = 0; node < 4; ++node) {
        require(pool.apply({.node = node}, length, text) == text.size(), "apply on a node");
      }
    });
  });
  EXPECT_EQ(program.out, "ok") << program.err;
}

TEST(PoolLimits, TinyArena) {
  const auto invalid = run_program([] {
    ::setenv("MILLRACE_ARENA_SIZE", "1K", 1);
    report(use_a_pool);
  });
  EXPECT_TRUE(contains(invalid.out, "ValueError: MILLRACE_ARENA_SIZE='1K'")) << invalid.out;
  const auto small = run_program([] {
    ::setenv("MILLRACE_ARENA_SIZE", "32M", 1);
    report([] {
      use_a_pool();
      mp::Pool pool(2);
      const auto large = [](std::size_t mib) { return std::string(mib << 20, 'x'); };
      try {
        (void)pool.apply(large, 100);
        std::printf("too much fits;");
      } catch (const mp::MaybeEncodingError& error) {
        std::printf("%s;", error.what());
      }
      try {
        (void)pool.apply([](const std::string& s) { return s.size(); },
                         std::string(100 << 20, 'x'));
        std::printf("too much fits;");
      } catch (const std::system_error& error) {
        std::printf("%d;", error.code().value());
      }
      try {
        const mp::shared_array<double> array(10'000'000);
        std::printf("too much fits;");
      } catch (const std::system_error& error) {
        std::printf("%s;", error.what());
      }
      if (pool.apply(large, 1).size() != kMiB) std::abort();  // there is room again
      use_a_pool();
    });
  });
  EXPECT_TRUE(small.out.starts_with("the result could not be serialised: allocate 100.0 MiB in"))
      << small.out << small.err;
  EXPECT_TRUE(contains(small.out, ";" + std::to_string(ENOMEM) + ";")) << small.out;
  EXPECT_TRUE(contains(small.out, "Cannot allocate memory;ok")) << small.out;
}

}  // namespace
