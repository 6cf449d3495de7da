// Process under fork. CPython: Lib/test/_test_multiprocessing.py, _TestProcess and its neighbours.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <millrace/context.hpp>
#include <millrace/process.hpp>
#include <new>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/api/process_support.hpp"

namespace mp = millrace;
using namespace std::chrono_literals;

using mp::test::Gate;
using mp::test::ProcessTest;
using mp::test::Shared;
using mp::test::told;

namespace {

int add(int a, int b) {
  told()->store(a + b);
  return a + b;
}
void greet(const std::string& name) { told()->store(static_cast<int>(name.size())); }
void eat(std::unique_ptr<int> p) { told()->store(*p); }
void change(std::vector<int>& xs, int x) {
  xs.push_back(x);
  told()->store(static_cast<int>(xs.size()));
}
class Maths {
 public:
  int name() const {
    told()->store(77);
    return 77;
  }
};

TEST_F(ProcessTest, CallsTargetWithArguments) {  // P01; test_process
  mp::Process p(add, 3, 4);
  EXPECT_FALSE(p.is_alive());
  EXPECT_EQ(p.pid(), std::nullopt);
  EXPECT_EQ(p.ident(), std::nullopt);
  EXPECT_EQ(p.exitcode(), std::nullopt);
  p.start();
  EXPECT_TRUE(p.join());
  EXPECT_EQ(p.exitcode(), 0);
  EXPECT_FALSE(p.is_alive());
  EXPECT_EQ(told()->load(), 7);
}

TEST_F(ProcessTest, CalleeOwnsItsArguments) {  // P01
  for (mp::Process* p : {new mp::Process(greet, "bob"), new mp::Process(&Maths::name, Maths()),
                         new mp::Process(eat, std::make_unique<int>(3)),
                         new mp::Process(change, std::vector<int>{1, 2}, 5)}) {
    told()->store(0);
    p->start();
    EXPECT_TRUE(p->join());
    EXPECT_EQ(p->exitcode(), 0);
    EXPECT_GT(told()->load(), 2);
    delete p;
  }
}

TEST_F(ProcessTest, InheritsItsCallableAsItIs) {
  // Under fork a lambda may hold what would not travel.
  const std::string text = "inherited";
  mp::Process p([&text] { told()->store(static_cast<int>(text.size())); });
  p.start();
  p.join();
  EXPECT_EQ(told()->load(), 9);
}

TEST_F(ProcessTest, RunCallsTheTargetHereAndAgain) {  // P02
  mp::Process p(add, 1, 2);
  told()->store(0);
  p.run();
  EXPECT_EQ(told()->load(), 3);
  told()->store(0);
  p.run();
  EXPECT_EQ(told()->load(), 3);
  mp::Process none;
  none.run();
}

struct Worker : mp::Process {
  Worker() = default;
  explicit Worker(int count) : mp::Process({.name = "worker"}), n(count) {}
  void run() override { told()->store(n); }
  int n = -1;
};
MILLRACE_PROCESS(Worker);

TEST_F(ProcessTest, SubclassRunsItsOwnRun) {  // P02; test_subclassing
  Worker w(7);
  w.start();
  EXPECT_TRUE(w.join());
  EXPECT_EQ(told()->load(), 7);
  EXPECT_EQ(w.name(), "worker");
  Worker unnamed;
  EXPECT_EQ(unnamed.name().substr(0, 7), "Worker-");
  EXPECT_EQ(unnamed.repr().substr(0, 8), "<Worker ");
}

TEST_F(ProcessTest, StartsOnce) {  // P03
  mp::Process p([] {});
  p.start();
  EXPECT_THROW(p.start(), mp::AssertionError);
  p.join();
  EXPECT_THROW(p.start(), mp::AssertionError);
}

struct Holder {
  std::shared_ptr<int> held;
  void operator()() const {}
  template <class A>
  void serialize(A&) {}
};

TEST_F(ProcessTest, StartDropsCallableAndArguments) {  // P03; test_lose_target_ref
  auto watched = std::make_shared<int>(1);
  mp::Process p(Holder{watched});
  EXPECT_EQ(watched.use_count(), 2);
  p.start();
  EXPECT_EQ(watched.use_count(), 1);
  p.join();
}

TEST_F(ProcessTest, OnlyItsCreatorMayUseIt) {  // P03, P04, P06
  mp::Process p([] {});
  mp::Process tester([&p] {
    int refused = 0;
    try {
      p.start();
    } catch (const mp::AssertionError&) {
      ++refused;
    }
    try {
      p.join();
    } catch (const mp::AssertionError&) {
      ++refused;
    }
    try {
      (void)p.is_alive();
    } catch (const mp::AssertionError&) {
      ++refused;
    }
    throw mp::SystemExit(refused);
  });
  tester.start();
  tester.join();
  EXPECT_EQ(tester.exitcode(), 3);
}

TEST_F(ProcessTest, JoinTimesOutAndCanBeRepeated) {  // P04; test_timeout
  Gate gate;
  mp::Process p([&gate] { gate.wait(); });
  EXPECT_THROW(p.join(), mp::AssertionError);
  p.start();
  EXPECT_FALSE(p.join(10ms));
  EXPECT_FALSE(p.join(0s));
  EXPECT_FALSE(p.join(-1s));
  EXPECT_TRUE(p.is_alive());
  gate.open();
  EXPECT_TRUE(p.join(std::nullopt));
  EXPECT_TRUE(p.join());
  EXPECT_TRUE(p.join(0s));
}

TEST_F(ProcessTest, JoinOfItselfIsRefused) {  // P04
  EXPECT_THROW(mp::current_process().join(), mp::AssertionError);
  EXPECT_TRUE(mp::current_process().is_alive());
}

TEST_F(ProcessTest, SeveralThreadsMayJoinOne) {
  Gate gate;
  mp::Process p([&gate] { gate.wait(); });
  p.start();
  std::vector<std::thread> threads;
  std::atomic<int> ended{0};
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] { ended += p.join() ? 1 : 0; });
  }
  gate.open();
  for (auto& t : threads) t.join();
  EXPECT_EQ(ended.load(), 4);
  EXPECT_EQ(p.exitcode(), 0);
}

TEST_F(ProcessTest, DaemonFlagIsInheritedAndFixedByStart) {  // P07; test_daemon_argument
  mp::Process p({.daemon = true}, [] {});
  EXPECT_TRUE(p.daemon());
  p.daemon(false);
  EXPECT_FALSE(p.daemon());
  p.start();
  EXPECT_THROW(p.daemon(true), mp::AssertionError);
  p.join();
  EXPECT_FALSE(mp::current_process().daemon());
}

TEST_F(ProcessTest, OwnDaemonFlagMayBeSet) {  // P07: as CPython, which did not start it either
  const auto outcome = mp::test::run_program([] {
    mp::current_process().daemon(true);
    mp::Process p([] { std::printf("not run\n"); });
    std::printf("%d%d\n", mp::current_process().daemon(), p.daemon());
    EXPECT_THROW(p.start(), mp::AssertionError);
    mp::current_process().daemon(false);
    mp::Process q([] {
      mp::current_process().daemon(true);
      std::printf("%d\n", mp::current_process().daemon());
    });
    q.start();
    q.join();
    std::printf("%d\n", q.daemon());
  });
  EXPECT_EQ(outcome.out, "11\n1\n0\n");
}

TEST_F(ProcessTest, DaemonMayNotHaveChildren) {  // P03
  mp::Process p({.daemon = true}, [] {
    mp::Process inner([] {});
    const bool inherited = inner.daemon();
    try {
      inner.start();
    } catch (const mp::AssertionError&) {
      throw mp::SystemExit(inherited ? 5 : 6);
    }
  });
  p.start();
  p.join();
  EXPECT_EQ(p.exitcode(), 5);
}

TEST_F(ProcessTest, TerminateKillAndInterruptSendTheirSignals) {  // P13, P14, P16; test_terminate
  struct Case {
    void (mp::Process::*end)();
    int exitcode;
  };
  for (const Case& c : {Case{&mp::Process::terminate, -SIGTERM}, Case{&mp::Process::kill, -SIGKILL},
                        Case{&mp::Process::interrupt, -SIGINT}}) {
    Gate gate;
    mp::Process p([&gate] { gate.wait(); });
    EXPECT_THROW((p.*c.end)(), mp::AssertionError);
    p.start();
    EXPECT_TRUE(p.is_alive());
    (p.*c.end)();
    p.join();
    EXPECT_EQ(p.exitcode(), c.exitcode);
    (p.*c.end)();  // nothing to do
    EXPECT_EQ(p.exitcode(), c.exitcode);
  }
}

TEST_F(ProcessTest, TerminateReachesAChildOfAThreadThatBlocksSignals) {  // P13
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  Gate gate;
  mp::Process p([&gate] { gate.wait(); });
  ASSERT_EQ(::pthread_sigmask(SIG_SETMASK, &all, &before), 0);
  p.start();
  ASSERT_EQ(::pthread_sigmask(SIG_SETMASK, &before, nullptr), 0);
  p.terminate();
  p.join();
  EXPECT_EQ(p.exitcode(), -SIGTERM);
}

TEST_F(ProcessTest, MovesLikeAPointer) {
  mp::Process a(add, 2, 2);
  mp::Process b = std::move(a);
  EXPECT_THROW((void)a.name(), mp::ValueError);  // NOLINT(bugprone-use-after-move): the claim
  b.start();
  std::vector<mp::Process> all;
  all.push_back(std::move(b));
  all.emplace_back(add, 1, 1).start();
  for (auto& p : all) EXPECT_TRUE(p.join());
}

TEST_F(ProcessTest, SharedOptionsMakeEqualProcesses) {
  const mp::ProcessOptions saved{.name = "s"};
  mp::Process k(saved, add, 1, 2);
  mp::Process j({}, add, 1, 2);
  EXPECT_EQ(k.name(), "s");
  j.start();
  EXPECT_TRUE(j.join());
}

TEST_F(ProcessTest, DroppedProcessGoesOn) {
  Gate gate;
  told()->store(0);
  mp::Process([&gate] {
    gate.wait();
    told()->store(1);
  }).start();
  const auto children = mp::active_children();
  ASSERT_EQ(children.size(), 1U);
  gate.open();
  EXPECT_TRUE(children[0].join());
  EXPECT_EQ(children[0].exitcode(), 0);
  EXPECT_EQ(told()->load(), 1);
}

TEST_F(ProcessTest, BindingHoldsForTheChild) {
  Shared<std::atomic<int>> cpus;
  const auto count = [&cpus] {
    cpu_set_t set;
    CPU_ZERO(&set);
    ::sched_getaffinity(0, sizeof set, &set);
    cpus->store(CPU_COUNT(&set));
  };
  mp::Process unbound(count);
  unbound.start();
  unbound.join();
  cpu_set_t own;
  CPU_ZERO(&own);
  ::sched_getaffinity(0, sizeof own, &own);
  EXPECT_EQ(cpus->load(), CPU_COUNT(&own));
  mp::Process bound({.bind = "thread"}, count);
  bound.start();
  bound.join();
  EXPECT_EQ(bound.exitcode(), 0);
  EXPECT_EQ(cpus->load(), 1);
  EXPECT_THROW(mp::Process({.bind = "nonsense"}, count), mp::ValueError);
}

struct NotCopyable {
  std::unique_ptr<int> p;
  void operator()() const {}
};
static_assert(!std::is_constructible_v<mp::Process, NotCopyable>);
static_assert(!std::is_constructible_v<mp::Process, void (*)(int*), int*>);
static_assert(!std::is_constructible_v<mp::Process, void (*)(std::thread&), std::thread>);
static_assert(!std::is_copy_constructible_v<mp::Process>);
static_assert(std::is_nothrow_move_constructible_v<mp::Process>);

}  // namespace
