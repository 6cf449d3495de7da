// How spawned processes end, and those that cannot begin. CPython: _TestProcess, test_sys_exit,
// test_sentinel and the errors of Lib/multiprocessing/spawn.py.
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <millrace/context.hpp>
#include <millrace/logging.hpp>
#include <millrace/process.hpp>
#include <millrace/sharedctypes.hpp>
#include <millrace/synchronize.hpp>
#include <stdexcept>
#include <string>
#include <system_error>

#include "tests/api/process_support.hpp"
#include "tests/api/spawn_support.hpp"

namespace mp = millrace;
using mp::test::readable;
using mp::test::run_program;
using mp::test::run_spawned;
using mp::test::spawn;

namespace {

class SpawnExitTest : public mp::test::SpawnTest {};
INSTANTIATE_TEST_SUITE_P(Methods, SpawnExitTest, mp::test::methods(), mp::test::method_name);

// What concerns the executed program itself, which is not the fork server's child.
class ExecutedTest : public mp::test::SpawnTest {};
INSTANTIATE_TEST_SUITE_P(Methods, ExecutedTest, ::testing::Values("spawn"), mp::test::method_name);

[[noreturn]] void fail_deep_inside() { throw std::out_of_range("no such cell"); }
void wait_for_ever(const mp::Event& ready) {
  ready.set();
  mp::Event().wait();
}

TEST_P(SpawnExitTest, ExitCodesAreThoseOfFork) {  // P10; test_sys_exit
  EXPECT_EQ(run_spawned([] {}), 0);
  EXPECT_EQ(run_spawned([] { throw mp::SystemExit(300); }), 300 % 256);
  EXPECT_EQ(run_spawned([] { std::exit(9); }), 9);
  EXPECT_EQ(run_spawned([] { ::raise(SIGKILL); }), -SIGKILL);
}

TEST_P(SpawnExitTest, UncaughtExceptionIsDescribedOnStderr) {  // P10; test_exception
  const auto outcome = run_program([] {
    auto p = spawn().Process({.name = "worker"}, fail_deep_inside);
    p.start();
    p.join();
    std::printf("%d", *p.exitcode());
  });
  EXPECT_EQ(outcome.out, "1");
  EXPECT_NE(outcome.err.find("Process worker:\n"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("std::out_of_range: no such cell\n"), std::string::npos)
      << outcome.err;
}

TEST_P(SpawnExitTest, TerminateAndKillEndIt) {  // P12, P13, P14; test_terminate, test_sentinel
  for (const int signal : {SIGTERM, SIGKILL}) {
    mp::Event ready;
    auto p = spawn().Process(wait_for_ever, ready);
    p.start();
    EXPECT_TRUE(ready.wait());
    EXPECT_FALSE(readable(p.sentinel()));
    EXPECT_TRUE(p.is_alive());
    signal == SIGTERM ? p.terminate() : p.kill();
    EXPECT_TRUE(p.join());
    EXPECT_TRUE(readable(p.sentinel()));
    EXPECT_EQ(p.exitcode(), -signal);
    p.close();
  }
}

TEST_P(SpawnExitTest, KilledWhileItBeginsLeavesNothing) {
  // SIGKILL at whatever point the child has come to: its entry, its message and the references in
  // it are freed, so that neither entries nor handles run out.
  mp::Value<long> told(0);
  for (int i = 0; i < 40; ++i) {
    auto p = spawn().Process([](const mp::Value<long>&, const std::string&) {}, told,
                             std::string(static_cast<std::size_t>(i) * 1000, 'x'));
    p.start();
    if (i % 4 != 0) ::usleep(static_cast<useconds_t>(i) * 100);  // not to synchronise: to vary
    p.kill();
    EXPECT_TRUE(p.join());
    EXPECT_TRUE(p.exitcode() == -SIGKILL || p.exitcode() == 0);
  }
  EXPECT_EQ(run_spawned([](const mp::Value<long>& to) { to.set(1); }, told), 0);
  EXPECT_EQ(told.get(), 1);
}

TEST_P(SpawnExitTest, DaemonsEndWithTheProgram) {  // P07; test_daemon_argument
  mp::Event ready;
  const auto outcome = run_program([&ready] {
    auto p = spawn().Process({.daemon = true}, wait_for_ever, ready);
    p.start();
    ready.wait();
    std::printf("%d", p.daemon() ? 1 : 0);
  });
  EXPECT_EQ(outcome.exitcode, 0);
  EXPECT_EQ(outcome.out, "1");  // and it is over: the daemon held the streams
}

TEST_P(SpawnExitTest, DaemonsEndWithASigkilledParent) {
  mp::Event ready;
  const auto outcome = run_program([&ready] {
    auto p = spawn().Process({.daemon = true}, wait_for_ever, ready);
    p.start();
    ready.wait();
    ::raise(SIGKILL);
  });
  EXPECT_EQ(outcome.exitcode, -SIGKILL);
}

TEST_P(SpawnExitTest, DaemonsHaveNoChildren) {  // P03, P07
  EXPECT_EQ(run_spawned([] {
              auto daemon = spawn().Process({.daemon = true}, [] {
                auto child = spawn().Process([] {});
                try {
                  child.start();
                } catch (const mp::AssertionError&) {
                  throw mp::SystemExit(3);
                }
              });
              daemon.start();
              daemon.join();
              throw mp::SystemExit(daemon.exitcode().value_or(99));
            }),
            3);
}

TEST_P(SpawnExitTest, OutputIsFlushedOnce) {  // P22
  const auto outcome = run_program([] {
    std::printf("parent;");
    auto p = spawn().Process([] { std::printf("child;"); });
    p.start();
    p.join();
  });
  EXPECT_EQ(outcome.out, "parent;child;");
}

TEST_P(SpawnExitTest, LogGoesOnInTheChild) {  // W03, W04; test_subprocess_log
  const auto outcome = run_program([] {
    mp::log_to_stderr(mp::logging::Level::warning);
    auto p = spawn().Process({.name = "w"}, [] {
      mp::get_logger().warning("from child");
      mp::get_logger().info("not this");
    });
    p.start();
    p.join();
  });
  EXPECT_EQ(outcome.err, "[WARNING/w] from child\n");
}

TEST_P(ExecutedTest, ProgramThatCannotBeExecutedIsNamed) {  // C08
  mp::set_executable("/nowhere/program");
  auto p = spawn().Process([] {});
  try {
    p.start();
    ADD_FAILURE();
  } catch (const std::system_error& e) {
    EXPECT_EQ(e.code().value(), ENOENT);
    EXPECT_NE(std::string(e.what()).find("/nowhere/program"), std::string::npos);
  }
  mp::set_executable("");
  p.start();
  EXPECT_TRUE(p.join());
  EXPECT_EQ(p.exitcode(), 0);
}

TEST_P(ExecutedTest, ForeignProgramDoesNotRunTheTarget) {  // C08
  mp::set_executable("/bin/true");
  EXPECT_EQ(run_spawned([] { throw mp::SystemExit(5); }), 0);
  mp::set_executable("");
}

TEST_P(ExecutedTest, MainThatStartsWithoutFreezeSupportIsTold) {  // C09; test_noforkbomb
  const auto outcome = run_program([] {
    ::setenv("SPAWN_TEST_MAIN", "starts", 1);
    auto p = spawn().Process([] { std::printf("target"); });
    p.start();
    p.join();
    std::printf("%d", *p.exitcode());
  });
  EXPECT_EQ(outcome.out, "refused;1");
  EXPECT_NE(outcome.err.find("mp::freeze_support(argc, argv);\n"), std::string::npos)
      << outcome.err;
}

TEST_P(ExecutedTest, MainThatReturnsWithoutFreezeSupportIsTold) {  // C09
  const auto outcome = run_program([] {
    ::setenv("SPAWN_TEST_MAIN", "returns", 1);
    auto p = spawn().Process([] { std::printf("target"); });
    p.start();
    p.join();
    std::printf("%d", *p.exitcode());
  });
  EXPECT_EQ(outcome.out, "main;1");
  EXPECT_NE(outcome.err.find("without having run its target"), std::string::npos) << outcome.err;
}

TEST_P(ExecutedTest, ArgumentGivenByHandIsRefused) {
  const auto outcome = run_program([] {
    ::execl("/proc/self/exe", "program", "--millrace-spawn=40", nullptr);
    ::_exit(99);
  });
  EXPECT_EQ(outcome.exitcode, 1);
  EXPECT_NE(outcome.err.find("cannot be connected to its parent"), std::string::npos)
      << outcome.err;
}

TEST_P(SpawnExitTest, AProgramWithoutStdoutStartsProcessesAndPrintsNowhere) {
  const auto outcome = run_program([] {
    ::close(STDOUT_FILENO);
    ::setenv("SPAWN_TEST_MAIN", GetParam(), 1);
    ::execl("/proc/self/exe", "program", nullptr);
    ::_exit(99);
  });
  EXPECT_EQ(outcome.exitcode, 0);
  EXPECT_EQ(outcome.err, "nowhere;nowhere;started;");
}

void print_and_set(const mp::Event& ran) {
  std::fputs(::write(STDOUT_FILENO, "x", 1) < 0 ? "nowhere;" : "somewhere;", stderr);
  ran.set();
}

// Of the program above, whose stdout is closed: nothing that the library opens takes its place.
void start_without_stdout(const char* method) {
  mp::freeze_support(0, nullptr);
  const mp::Event ran;  // the arena is there
  std::fputs(::write(STDOUT_FILENO, "x", 1) < 0 ? "nowhere;" : "somewhere;", stderr);
  mp::Process process({.context = &mp::get_context(method)}, print_and_set, ran);
  process.start();
  process.join();
  std::fputs(ran.is_set() && process.exitcode() == 0 ? "started;" : "failed;", stderr);
}

}  // namespace

namespace millrace::test {

// What main() of this program does in place of freeze_support(), if anything.
bool behaves_badly() {
  const char* const how = std::getenv("SPAWN_TEST_MAIN");
  if (how == nullptr) return false;
  if (std::string(how) == "returns") {
    std::printf("main;");
    return true;
  }
  if (std::string(how) == "spawn" || std::string(how) == "forkserver") {
    start_without_stdout(how);
    return true;
  }
  try {
    mp::Process([] {}).start();
  } catch (const std::runtime_error& e) {
    std::printf("refused;");
    std::fprintf(stderr, "%s", e.what());
  }
  return true;
}

}  // namespace millrace::test
