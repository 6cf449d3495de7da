// How processes end, and what is printed meanwhile. CPython: _TestProcess, _TestFinalize,
// TestFlags and TestStdinBadfiledescriptor of Lib/test/_test_multiprocessing.py.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <memory>
#include <millrace/process.hpp>
#include <string>
#include <thread>
#include <vector>

#include "tests/leak_check.hpp"

namespace mp = millrace;
using namespace std::chrono_literals;
using mp::test::run_program;

namespace {

class ProcessExitTest : public mp::test::LeakCheck {};

std::size_t count(const std::string& text, const std::string& word) {
  std::size_t found = 0;
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
    ++found;
  }
  return found;
}

bool contains(const std::string& text, const std::string& word) { return count(text, word) > 0; }

[[noreturn]] void fail_deep_inside() { throw std::out_of_range("no such cell"); }

TEST_F(ProcessExitTest, UncaughtExceptionIsDescribedOnStderr) {  // P10; test_exception
  const auto outcome = run_program([] {
    mp::Process p({.name = "worker"}, fail_deep_inside);
    p.start();
    p.join();
    std::printf("%d", *p.exitcode());
  });
  EXPECT_EQ(outcome.out, "1");
  EXPECT_TRUE(contains(outcome.err, "Process worker:\n")) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "std::out_of_range: no such cell\n")) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "fail_deep_inside")) << outcome.err;
}

TEST_F(ProcessExitTest, SystemExitWithTextPrintsItAndGivesOne) {  // P10; test_sys_exit
  const auto outcome = run_program([] {
    mp::Process p([] { throw mp::SystemExit("ignore this"); });
    p.start();
    p.join();
    std::printf("%d", *p.exitcode());
  });
  EXPECT_EQ(outcome.out, "1");
  EXPECT_EQ(outcome.err, "ignore this\n");
}

TEST_F(ProcessExitTest, KeyboardInterruptGivesOne) {  // P10, P16
  const auto outcome = run_program([] {
    mp::Process p([] { throw mp::KeyboardInterrupt(); });
    p.start();
    p.join();
    std::printf("%d", *p.exitcode());
  });
  EXPECT_EQ(outcome.out, "1");
  EXPECT_TRUE(contains(outcome.err, "KeyboardInterrupt"));
}

TEST_F(ProcessExitTest, NothingIsPrintedTwice) {  // P22
  const auto outcome = run_program([] {
    std::printf("from parent;");  // not a terminal: stays in the buffer
    std::cout << "by stream;";
    std::fprintf(stderr, "error;");
    for (int i = 0; i < 3; ++i) {
      mp::Process p([] {
        std::printf("from child;");
        std::cout << "child's stream;";
      });
      p.start();
      p.join();
    }
  });
  EXPECT_EQ(count(outcome.out, "from parent;"), 1U);
  EXPECT_EQ(count(outcome.out, "by stream;"), 1U);
  EXPECT_EQ(count(outcome.out, "from child;"), 3U);
  EXPECT_EQ(count(outcome.out, "child's stream;"), 3U);
  EXPECT_EQ(outcome.err, "error;");
}

TEST_F(ProcessExitTest, BrokenStdoutDoesNotChangeTheExitCode) {  // P22; test_std_streams_flushed
  const auto outcome = run_program([] {
    int ends[2];
    if (::pipe(ends) != 0) std::abort();
    ::close(ends[0]);
    mp::Process p([&ends] {
      ::dup2(ends[1], STDOUT_FILENO);
      std::printf("into nothing");
      throw mp::SystemExit(4);
    });
    p.start();
    p.join();
    std::printf("%d", *p.exitcode());
  });
  EXPECT_EQ(outcome.out, "4");
}

TEST_F(ProcessExitTest, ClosedStdoutDoesNotChangeTheExitCode) {  // P22
  const auto outcome = run_program([] {
    mp::Process p([] {
      ::close(STDOUT_FILENO);
      std::printf("into nothing");
      throw mp::SystemExit(4);
    });
    p.start();
    p.join();
    std::printf("%d", *p.exitcode());
  });
  EXPECT_EQ(outcome.out, "4");
}

TEST_F(ProcessExitTest, ChildReadsStdinFromNull) {  // P22; test_queue_in_process and neighbours
  const auto outcome = run_program([] {
    int ends[2];
    if (::pipe(ends) != 0) std::abort();
    if (::write(ends[1], "a\nb\n", 4) != 4) std::abort();
    ::dup2(ends[0], STDIN_FILENO);
    std::string line;
    std::getline(std::cin, line);  // "b" is now in the buffer
    mp::Process p([] {
      std::string more;
      std::printf("%d ", static_cast<bool>(std::getline(std::cin, more)));
      char byte = 0;
      std::printf("%zd ", ::read(STDIN_FILENO, &byte, 1));
    });
    p.start();
    p.join();
    std::getline(std::cin, line);
    std::printf("%s", line.c_str());
  });
  EXPECT_EQ(outcome.out, "0 0 b");
}

TEST_F(ProcessExitTest, ExitJoinsChildrenAndTerminatesDaemons) {  // P07, P22; test_daemon_process
  const auto outcome = run_program([] {
    static int gate[2];
    if (::pipe(gate) != 0) std::abort();
    for (int i = 0; i < 3; ++i) {
      mp::Process([] {
        char byte = 0;
        while (::read(gate[0], &byte, 1) != 1) {
        }
        std::printf("joined;");
      }).start();
    }
    mp::Process({.daemon = true}, [] {
      for (;;) ::pause();
    }).start();
    // Runs in the middle of the exit sequence: the children still wait then.
    static mp::Finalize late([] { (void)!::write(gate[1], "xxx", 3); }, {.exitpriority = 0});
  });
  EXPECT_EQ(outcome.exitcode, 0);
  EXPECT_EQ(outcome.out, "joined;joined;joined;");
}

TEST_F(ProcessExitTest, DaemonThatIgnoresSigtermIsKilledInTheEnd) {
  const auto outcome = run_program([] {
    static int ready[2];
    if (::pipe(ready) != 0) std::abort();
    mp::Process({.daemon = true}, [] {
      ::signal(SIGTERM, SIG_IGN);
      (void)!::write(ready[1], "x", 1);
      for (;;) ::pause();
    }).start();
    char byte = 0;
    (void)!::read(ready[0], &byte, 1);
  });
  EXPECT_EQ(outcome.exitcode, 0);
}

// Prints at once, so that the order over all processes can be seen.
auto saying(std::string text) {
  return [text = std::move(text)] { (void)!::write(STDOUT_FILENO, text.data(), text.size()); };
}

TEST_F(ProcessExitTest, FinalizersRunByPriorityThenNewestFirst) {  // W05; test_finalize
  const auto outcome = run_program([] {
    mp::Process p([] {
      static int gate[2];
      if (::pipe(gate) != 0) std::abort();
      auto* kept = new std::vector<mp::Finalize>;  // not destroyed, so they run at exit
      kept->emplace_back(saying("never "));
      kept->emplace_back(saying("low "), mp::FinalizeOptions{.exitpriority = -5});
      kept->emplace_back([] { (void)!::write(gate[1], "x", 1); },
                         mp::FinalizeOptions{.exitpriority = 0});
      kept->emplace_back(saying("older "), mp::FinalizeOptions{.exitpriority = 1});
      kept->emplace_back(saying("newer "), mp::FinalizeOptions{.exitpriority = 1});
      kept->emplace_back(saying("high "), mp::FinalizeOptions{.exitpriority = 10});
      kept->emplace_back(saying("cancelled "), mp::FinalizeOptions{.exitpriority = 10});
      kept->back().cancel();
      mp::Process([] {
        char byte = 0;
        while (::read(gate[0], &byte, 1) != 1) {
        }
        saying("child ")();
      }).start();
    });
    p.start();
    p.join();
  });
  EXPECT_EQ(outcome.out, "high newer older child low ");
}

TEST_F(ProcessExitTest, FinalizersOfAnExitingMainRunToo) {  // W05
  const auto outcome = run_program([] {
    new mp::Finalize(saying("first "), {.exitpriority = 2});
    new mp::Finalize(saying("second "), {.exitpriority = 1});
  });
  EXPECT_EQ(outcome.out, "first second ");
}

TEST_F(ProcessExitTest, FinalizerThrowsWithoutHarm) {
  const auto outcome = run_program([] {
    mp::Process p([] {
      new mp::Finalize([] { std::printf("after"); }, {.exitpriority = 1});
      new mp::Finalize([] { throw std::runtime_error("bad finalizer"); }, {.exitpriority = 2});
    });
    p.start();
    p.join();
    std::printf(" %d", *p.exitcode());
  });
  EXPECT_EQ(outcome.out, "after 0");
  EXPECT_TRUE(contains(outcome.err, "std::runtime_error: bad finalizer"));
}

TEST_F(ProcessExitTest, FinalizerRunsOnceAndOnlyHere) {  // W05
  int runs = 0;
  {
    mp::Finalize fin([&runs] { ++runs; });
    EXPECT_TRUE(fin.still_active());
    mp::Process p([&fin] {
      const bool active = fin.still_active();
      fin();
      throw mp::SystemExit(active ? 1 : 0);
    });
    p.start();
    p.join();
    EXPECT_EQ(p.exitcode(), 0);
    fin();
    EXPECT_FALSE(fin.still_active());
    fin();
  }
  EXPECT_EQ(runs, 1);
  {
    mp::Finalize fin([&runs] { ++runs; });
  }
  EXPECT_EQ(runs, 2);
  {
    mp::Finalize fin([&runs] { ++runs; }, {.exitpriority = 1});
    fin.cancel();
    EXPECT_FALSE(fin.still_active());
  }
  EXPECT_EQ(runs, 2);
}

TEST_F(ProcessExitTest, DaemonEndsWithItsKilledParent) {
  // The reader of the pipe sees its end only when the daemon, the last writer, is gone.
  int alive[2];
  ASSERT_EQ(::pipe(alive), 0);
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  mp::Process parent([&] {
    ::close(alive[0]);
    mp::Process daemon({.daemon = true}, [&] {
      (void)!::write(ready[1], "x", 1);
      for (;;) ::pause();
    });
    daemon.start();
    ::close(alive[1]);
    for (;;) ::pause();
  });
  parent.start();
  ::close(alive[1]);
  char byte = 0;
  EXPECT_EQ(::read(ready[0], &byte, 1), 1);
  parent.kill();
  parent.join();
  EXPECT_EQ(::read(alive[0], &byte, 1), 0);
  ::close(alive[0]);
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_F(ProcessExitTest, DaemonOutlivesTheThreadThatStartedIt) {
  int gate[2];
  ASSERT_EQ(::pipe(gate), 0);
  mp::Process daemon({.daemon = true}, [&gate] {
    char byte = 0;
    while (::read(gate[0], &byte, 1) != 1) {
    }
  });
  std::thread([&daemon] { daemon.start(); }).join();
  // The kernel has told the daemon of the thread's end by now, or will while it waits.
  EXPECT_FALSE(daemon.join(50ms));
  EXPECT_EQ(::write(gate[1], "x", 1), 1);
  daemon.join();
  EXPECT_EQ(daemon.exitcode(), 0);
  ::close(gate[0]);
  ::close(gate[1]);
}

TEST_F(ProcessExitTest, RefusedForkIsAnErrorThatNamesIt) {
  const auto outcome = run_program([] {
    mp::Process first([] {});
    first.start();  // makes the arena while that is allowed
    first.join();
    first.close();
    const auto before = mp::test::names_in("/proc/self/fd");
    rlimit none{0, 0};
    ::setrlimit(RLIMIT_NPROC, &none);
    if (::setresuid(65534, 65534, 65534) != 0) std::abort();
    mp::Process p([] {});
    try {
      p.start();
    } catch (const std::system_error& e) {
      std::printf("%d %s %d\n", e.code() == std::errc::resource_unavailable_try_again, e.what(),
                  before == mp::test::names_in("/proc/self/fd"));
    }
    std::printf("%s %zu", p.repr().find(" initial>") != std::string::npos ? "initial" : "other",
                mp::active_children().size());
  });
  if (::geteuid() == 0) {
    EXPECT_EQ(outcome.out,
              "1 fork of a child process: Resource temporarily unavailable 1\ninitial 0");
  }
}

TEST_F(ProcessExitTest, ExhaustedDescriptorsAreAnErrorAndNoChild) {
  const auto outcome = run_program([] {
    mp::Process first([] {});
    first.start();
    first.join();
    first.close();
    rlimit usual{};
    ::getrlimit(RLIMIT_NOFILE, &usual);
    rlimit few = usual;
    few.rlim_cur = 3;
    ::setrlimit(RLIMIT_NOFILE, &few);
    mp::Process p([] {});
    try {
      p.start();
    } catch (const std::system_error& e) {
      std::printf("%d %zu", e.code() == std::errc::too_many_files_open,
                  mp::active_children().size());
    }
    ::setrlimit(RLIMIT_NOFILE, &usual);  // sanitizers read /proc at exit
  });
  EXPECT_EQ(outcome.out, "1 0");
}

}  // namespace
