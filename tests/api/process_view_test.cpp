// What can be seen of a process: name, pid, exit code, sentinel, text, parent, children. CPython:
// Lib/test/_test_multiprocessing.py, _TestProcess and _TestPythonProcess.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <millrace/context.hpp>
#include <millrace/process.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tests/api/process_support.hpp"

namespace mp = millrace;
using namespace std::chrono_literals;
using mp::test::Gate;
using mp::test::ProcessTest;
using mp::test::readable;
using mp::test::Shared;
using mp::test::told;

namespace {

class ProcessViewTest : public ProcessTest {};

TEST_F(ProcessViewTest, NamesCountUp) {  // P05; test_process names
  mp::Process a([] {});
  mp::Process b([] {});
  const std::string first = a.name();
  ASSERT_EQ(first.substr(0, 8), "Process-");
  EXPECT_EQ(b.name(), "Process-" + std::to_string(std::stoi(first.substr(8)) + 1));
  a.name("renamed");
  EXPECT_EQ(a.name(), "renamed");
  a.close();
  EXPECT_EQ(a.name(), "renamed");
  EXPECT_EQ(mp::get_context("fork").Process([] {}).name().substr(0, 12), "ForkProcess-");
  EXPECT_EQ(mp::Process({.name = ""}, [] {}).name().substr(0, 8), "Process-");  // as no name
}

TEST_F(ProcessViewTest, ChildrenOfChildrenAreNamedAfterThem) {  // P05
  const auto outcome = mp::test::run_program([] {
    mp::Process p([] {
      mp::Process inner([] { std::puts(mp::current_process().name().c_str()); });
      inner.start();
      inner.join();
      std::puts(mp::current_process().name().c_str());
    });
    p.start();
    p.join();
  });
  EXPECT_EQ(outcome.out, "Process-1:1\nProcess-1\n");
}

TEST_F(ProcessViewTest, PidIsTheChilds) {  // P08, P09
  Shared<std::atomic<pid_t>> pid;
  mp::Process p([&pid] {
    pid->store(::getpid());
    if (mp::current_process().pid() != ::getpid()) throw mp::SystemExit(1);
  });
  p.start();
  p.join();
  EXPECT_EQ(p.exitcode(), 0);
  EXPECT_EQ(p.pid(), pid->load());
  EXPECT_EQ(p.ident(), p.pid());
}

TEST_F(ProcessViewTest, ExitcodeSaysHowItEnded) {  // P10; test_exitcode, test_sys_exit
  struct Case {
    void (*body)();
    int exitcode;
  };
  for (const Case& c :
       std::vector<Case>{{[] {}, 0},
                         {[] { throw mp::SystemExit(3); }, 3},
                         {[] { throw mp::SystemExit(); }, 0},
                         {[] { throw mp::SystemExit(257); }, 1},
                         {[] { throw mp::SystemExit(-1); }, 255},
                         {[] { std::exit(9); }, 9},
                         {[] { ::_exit(10); }, 10},
                         {[] { ::raise(SIGKILL); }, -SIGKILL},
                         {[] { ::signal(SIGABRT, SIG_DFL), std::abort(); }, -SIGABRT}}) {
    mp::Process p(c.body);
    p.start();
    p.join();
    EXPECT_EQ(p.exitcode(), c.exitcode);
  }
}

TEST_F(ProcessViewTest, AuthkeyIsInherited) {  // P11; test_current_process
  const mp::Bytes key = mp::current_process().authkey();
  EXPECT_EQ(key.size(), 32U);
  mp::Process p([key] {
    if (mp::current_process().authkey() != key) throw mp::SystemExit(1);
  });
  EXPECT_EQ(p.authkey(), key);
  p.start();
  p.join();
  EXPECT_EQ(p.exitcode(), 0);
  mp::Process q([] {
    if (mp::current_process().authkey() != "secret") throw mp::SystemExit(1);
  });
  q.authkey("secret");
  q.start();
  q.join();
  EXPECT_EQ(q.exitcode(), 0);
}

TEST_F(ProcessViewTest, AnEmptyAuthkeyIsOneToo) {  // P11
  const mp::Bytes key = mp::current_process().authkey();
  mp::current_process().authkey("");
  EXPECT_EQ(mp::current_process().authkey(), "");
  mp::Process p([] {
    if (mp::current_process().authkey() != "") throw mp::SystemExit(1);
  });
  EXPECT_EQ(p.authkey(), "");
  p.start();
  p.join();
  EXPECT_EQ(p.exitcode(), 0);
  mp::current_process().authkey(key);
}

TEST_F(ProcessViewTest, SentinelIsReadableAfterTheEnd) {  // P12; test_sentinel
  Gate gate;
  mp::Process p([&gate] { gate.wait(); });
  EXPECT_THROW((void)p.sentinel(), mp::ValueError);
  p.start();
  const int sentinel = p.sentinel();
  EXPECT_FALSE(readable(sentinel));
  gate.open();
  p.join();
  EXPECT_TRUE(readable(sentinel));
}

TEST_F(ProcessViewTest, CloseReleasesAnEndedProcess) {  // P15; test_close
  Gate gate;
  mp::Process p([&gate] { gate.wait(); });
  p.start();
  EXPECT_THROW(p.close(), mp::ValueError);
  gate.open();
  p.join();
  p.close();
  p.close();
  EXPECT_THROW(p.start(), mp::ValueError);
  EXPECT_THROW(p.join(), mp::ValueError);
  EXPECT_THROW((void)p.is_alive(), mp::ValueError);
  EXPECT_THROW(p.terminate(), mp::ValueError);
  EXPECT_THROW(p.kill(), mp::ValueError);
  EXPECT_THROW((void)p.pid(), mp::ValueError);
  EXPECT_THROW((void)p.exitcode(), mp::ValueError);
  EXPECT_THROW((void)p.sentinel(), mp::ValueError);
  EXPECT_EQ(p.name().substr(0, 8), "Process-");
}

TEST_F(ProcessViewTest, ReprShowsTheStage) {  // P17; test_repr
  const std::string parent = " parent=" + std::to_string(::getpid()) + " ";
  Gate gate;
  mp::Process p({.name = "o'hara", .daemon = true}, [&gate] { gate.wait(); });
  EXPECT_EQ(p.repr(), "<Process name=\"o'hara\"" + parent + "initial daemon>");
  p.start();
  const std::string pid = " pid=" + std::to_string(*p.pid());
  EXPECT_EQ(p.repr(), "<Process name=\"o'hara\"" + pid + parent + "started daemon>");
  p.terminate();
  p.join();
  EXPECT_EQ(p.repr(),
            "<Process name=\"o'hara\"" + pid + parent + "stopped exitcode=-SIGTERM daemon>");
  p.close();
  EXPECT_EQ(p.repr(), "<Process name=\"o'hara\"" + parent + "closed daemon>");
  std::ostringstream text;
  text << p;
  EXPECT_EQ(text.str(), p.repr());
}

TEST_F(ProcessViewTest, ReprShowsAnyNameAsPythonDoes) {  // P17
  const mp::Process p({.name = "a'b\"c\t\x01\\"}, [] {});
  EXPECT_EQ(p.repr(), R"(<Process name='a\'b"c\t\x01\\' parent=)" + std::to_string(::getpid()) +
                          " initial>");
}

TEST_F(ProcessViewTest, ActiveChildrenAreThoseThatRun) {  // M01; test_active_children
  Gate gate;
  mp::Process p([&gate] { gate.wait(); });
  EXPECT_TRUE(mp::active_children().empty());
  p.start();
  ASSERT_EQ(mp::active_children().size(), 1U);
  EXPECT_EQ(mp::active_children()[0], p.handle());
  gate.open();
  for (const auto& child : mp::active_children()) child.join();
  EXPECT_TRUE(mp::active_children().empty());
}

TEST_F(ProcessViewTest, MainProcessHasNoParent) {  // M03, M04; test_current_process
  EXPECT_EQ(mp::current_process().name(), "MainProcess");
  EXPECT_EQ(mp::current_process().pid(), ::getpid());
  EXPECT_FALSE(mp::parent_process().has_value());
}

TEST_F(ProcessViewTest, ChildKnowsItsParent) {  // M04; test_parent_process
  const auto outcome = mp::test::run_program([] {
    mp::Process p([expected = ::getpid()] {
      const auto parent = mp::parent_process();
      std::printf("%s %d %d %d\n", parent->name().c_str(), parent->pid() == expected,
                  parent->is_alive(), parent->join(0s));
    });
    p.start();
    p.join();
  });
  EXPECT_EQ(outcome.out, "MainProcess 1 1 0\n");
}

TEST_F(ProcessViewTest, ChildLearnsOfItsParentsEnd) {  // M04; test_parent_process
  const auto outcome = mp::test::run_program([] {
    Gate started;
    mp::Process p([&started] {
      mp::Process orphan([&started] {
        const auto parent = mp::parent_process();
        const int sentinel = parent->sentinel();
        started.open();
        const bool joined = parent->join();
        std::printf("%d %d %d\n", joined, parent->is_alive(), readable(sentinel));
        std::fflush(stdout);
      });
      orphan.start();
      started.wait();
      ::_exit(0);
    });
    p.start();
    p.join();
  });
  EXPECT_EQ(outcome.out, "1 0 1\n");
}

TEST_F(ProcessViewTest, IgnoredChildSignalLeavesTheCodeUnknown) {
  const auto outcome = mp::test::run_program([] {
    ::signal(SIGCHLD, SIG_IGN);
    mp::Process p([] {});
    p.start();
    p.join();
    std::printf("%d %d\n", p.is_alive(), *p.exitcode());
  });
  EXPECT_EQ(outcome.out, "0 255\n");
}

}  // namespace
