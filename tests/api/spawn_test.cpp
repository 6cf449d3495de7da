// Process under spawn and forkserver. CPython: _TestProcess, TestStartMethod and TestSimpleQueue's
// neighbours of Lib/test/_test_multiprocessing.py with these types. This program executes itself:
// its main() calls freeze_support().
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <millrace/arena.hpp>
#include <millrace/context.hpp>
#include <millrace/logging.hpp>
#include <millrace/process.hpp>
#include <millrace/shared_memory.hpp>
#include <millrace/sharedctypes.hpp>
#include <millrace/synchronize.hpp>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/api/spawn_support.hpp"

namespace mp = millrace;
using mp::test::run_spawned;
using mp::test::spawn;
using mp::test::SpawnTest;

namespace {

INSTANTIATE_TEST_SUITE_P(Methods, SpawnTest, mp::test::methods(), mp::test::method_name);

// In the parent's memory only: a child that is made anew has its own.
int g_set_by_main = 0;
// Made by a static initialiser, before main() comes to freeze_support().
const mp::Lock g_early_lock;

void add(const mp::Value<long>& to, int a, int b) { to.set(a + b); }

TEST_P(SpawnTest, CallsTargetWithArguments) {  // P01, C02; test_process
  mp::Value<long> told(0);
  auto p = spawn().Process(add, told, 3, 4);
  EXPECT_EQ(p.pid(), std::nullopt);
  p.start();
  EXPECT_TRUE(p.pid().has_value());
  EXPECT_TRUE(p.join());
  EXPECT_EQ(p.exitcode(), 0);
  EXPECT_FALSE(p.is_alive());
  EXPECT_EQ(told.get(), 7);
}

TEST_P(SpawnTest, ChildBeginsAnew) {  // C02
  g_set_by_main = 7;
  EXPECT_EQ(run_spawned([] { throw mp::SystemExit(g_set_by_main); }), 0);
}

TEST_P(SpawnTest, ValuesAndCapturesArrive) {  // P01, C02
  mp::Value<long> told(0);
  EXPECT_EQ(
      run_spawned(
          [](const std::vector<std::string>& words, const std::unique_ptr<int>& number,
             const mp::Value<long>& to) {
            to.set(static_cast<long>(words.at(1).size()) + *number);
          },
          std::vector<std::string>{"a", std::string(100, 'b')}, std::make_unique<int>(11), told),
      0);
  EXPECT_EQ(told.get(), 111);
  int factor = 6;
  EXPECT_EQ(run_spawned([factor, told] { told.set(factor * 7); }), 0);
  EXPECT_EQ(told.get(), 42);
  EXPECT_EQ(run_spawned(mp::partial(add, told, 20), 30), 0);
  EXPECT_EQ(told.get(), 50);
}

TEST_P(SpawnTest, LargeArgumentsArrive) {
  std::vector<int> many(3'000'000, 1);
  mp::Value<long> told(0);
  EXPECT_EQ(run_spawned(
                [](const std::vector<int>& xs, const mp::Value<long>& to) {
                  long sum = 0;
                  for (const int x : xs) sum += x;
                  to.set(sum);
                },
                std::move(many), told),
            0);
  EXPECT_EQ(told.get(), 3'000'000);
}

TEST_P(SpawnTest, HandlesKeepWorking) {  // S01, C12: locks go to any child
  mp::Lock lock;
  mp::Event ready;
  mp::shared_array<int> cells(100);
  lock.acquire();
  auto p = spawn().Process(
      [](const mp::Lock& l, const mp::Event& e, const mp::shared_array<int>& c) {
        e.set();
        const std::lock_guard guard(l);
        for (int& cell : c) ++cell;
      },
      lock, ready, cells);
  p.start();
  EXPECT_TRUE(ready.wait());
  EXPECT_EQ(cells[99], 0);
  lock.release();
  EXPECT_TRUE(p.join());
  EXPECT_EQ(p.exitcode(), 0);
  EXPECT_EQ(cells[0] + cells[99], 2);
}

TEST_P(SpawnTest, TellsWhatItIs) {  // P05, P11, C07, M03, M04; test_current, test_parent_process
  mp::Value<long> told(0);
  auto p = spawn().Process(
      {.name = "w"},
      [](const mp::Value<long>& to, const mp::Bytes& key, pid_t parent, const std::string& name,
         const std::string& wanted) {
        const auto maker = mp::parent_process();
        const mp::ProcessHandle self = mp::current_process();
        long right = self.name() == "w" ? 1 : 0;
        right += self.authkey() == key ? 2 : 0;
        right += maker && maker->pid() == parent && maker->name() == name ? 4 : 0;
        const std::string method = mp::get_start_method(mp::allow_none).value_or("");
        const bool by_server = method == "forkserver";
        right += maker && maker->is_alive() && (::getppid() != parent) == by_server ? 8 : 0;
        right += method == wanted ? 16 : 0;
        right += self.pid() == ::getpid() && !self.daemon() ? 32 : 0;
        mp::Process child([] {});
        right += child.name() == "Process-" + std::to_string(1) ? 0 : 64;
        to.set(right);
      },
      told, mp::current_process().authkey(), ::getpid(), mp::current_process().name(), GetParam());
  p.start();
  EXPECT_TRUE(p.join());
  EXPECT_EQ(p.exitcode(), 0);
  EXPECT_EQ(told.get(), 127);
}

TEST_P(SpawnTest, ChildrenAreNumberedUnderTheirParent) {  // P05
  auto p = spawn().Process([] {
    auto child = spawn().Process([] {});
    const std::string name = child.name();
    const bool nested = name.size() > 2 && name.rfind(spawn().process_class() + "-", 0) == 0 &&
                        name.substr(name.size() - 2) == ":1";
    child.start();
    child.join();
    throw mp::SystemExit(nested && child.exitcode() == 0 ? 5 : 6);
  });
  const std::string type =
      GetParam() == std::string("spawn") ? "SpawnProcess" : "ForkServerProcess";
  EXPECT_EQ(p.name().rfind(type + "-", 0), 0U);
  EXPECT_EQ(p.repr().rfind("<" + type + " name='" + type + "-", 0), 0U);
  p.start();
  EXPECT_TRUE(p.join());
  EXPECT_EQ(p.exitcode(), 5);
}

TEST_P(SpawnTest, DefaultMethodIsTakenAndInherited) {  // C06, C07; test_set_get
  mp::set_start_method(GetParam());
  EXPECT_EQ(mp::get_start_method(), GetParam());
  g_set_by_main = 3;
  mp::Process p(
      [](const std::string& wanted) {
        if (mp::get_start_method() != wanted || g_set_by_main != 0) throw mp::SystemExit(1);
      },
      GetParam());
  EXPECT_EQ(p.name().rfind("Process-", 0), 0U);
  p.start();
  EXPECT_TRUE(p.join());
  EXPECT_EQ(p.exitcode(), 0);
}

TEST_P(SpawnTest, OptionNamesTheContext) {  // C05
  g_set_by_main = 9;
  mp::Process p({.context = &spawn()}, [] { throw mp::SystemExit(g_set_by_main); });
  EXPECT_EQ(p.name().rfind(spawn().process_class() + "-", 0), 0U);
  p.start();
  p.join();
  EXPECT_EQ(p.exitcode(), 0);
}

TEST_P(SpawnTest, HasOnlyTheDescriptorsItNeeds) {  // C02; TestCloseFds.test_closefd
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  mp::Value<long> told(0);
  EXPECT_EQ(run_spawned(
                [](const mp::Value<long>& to, int foreign) {
                  struct stat null {};
                  struct stat in {};
                  (void)::stat("/dev/null", &null);
                  (void)::fstat(STDIN_FILENO, &in);
                  long open = 0;
                  for (int fd = 0; fd < 1024; ++fd) {
                    if (::fcntl(fd, F_GETFD) >= 0) ++open;
                  }
                  const bool gone = ::fcntl(foreign, F_GETFD) < 0;
                  to.set(gone && in.st_rdev == null.st_rdev ? open : -1);
                },
                told, ends[1]),
            0);
  EXPECT_EQ(told.get(), 6);  // stdin, stdout, stderr, the arena, the bag of descriptors
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST_P(SpawnTest, StaticInitialisersUseTheSameArena) {
  EXPECT_EQ(run_spawned([] {
              if (!g_early_lock.acquire(std::chrono::seconds(0))) throw mp::SystemExit(1);
              mp::shared_array<int> here(1000);
              here[999] = 1;
              g_early_lock.release();
            }),
            0);
}

struct Summer : mp::Process {
  Summer() : mp::Process({.name = "summer", .context = &spawn()}) {}
  void run() override {
    long sum = 0;
    for (const int x : numbers) sum += x;
    told.set(name() == "summer" ? sum : -1);
  }
  template <class Archive>
  void serialize(Archive& archive) {
    archive(numbers, told);
  }
  std::vector<int> numbers;
  mp::Value<long> told{0};
};
MILLRACE_PROCESS(Summer);

struct Plain : mp::Process {
  Plain() : mp::Process({.context = &spawn()}) {}
  void run() override { throw mp::SystemExit(12); }
};
MILLRACE_PROCESS(Plain);

struct WithMembers : mp::Process {
  WithMembers() : mp::Process({.context = &spawn()}) {}
  void run() override {}
  int n = 0;
};
MILLRACE_PROCESS(WithMembers);

struct Undeclared : mp::Process {
  Undeclared() : mp::Process({.context = &spawn()}) {}
  void run() override {}
};

TEST_P(SpawnTest, SubclassIsMadeAnewAndFilled) {  // P02; test_subclassing
  Summer w;
  w.numbers = {1, 2, 39};
  w.start();
  EXPECT_TRUE(w.join());
  EXPECT_EQ(w.exitcode(), 0);
  EXPECT_EQ(w.told.get(), 42);
  Plain plain;
  plain.start();
  EXPECT_TRUE(plain.join());
  EXPECT_EQ(plain.exitcode(), 12);
}

template <class P>
std::string refusal(P& p) {
  try {
    p.start();
  } catch (const mp::TypeError& e) {
    return e.what();
  }
  return "started";
}

TEST_P(SpawnTest, SubclassThatCannotBeSentIsNamed) {
  WithMembers members;
  EXPECT_NE(refusal(members).find("WithMembers"), std::string::npos);
  EXPECT_NE(refusal(members).find("serialize()"), std::string::npos);
  Undeclared undeclared;
  EXPECT_NE(refusal(undeclared).find("MILLRACE_PROCESS("), std::string::npos);
  EXPECT_EQ(undeclared.exitcode(), std::nullopt);
}

TEST_P(SpawnTest, PrivateAddressIsRefusedAndTheProcessMayTryAgain) {  // P03
  int here = 0;
  int* address = &here;
  auto p = spawn().Process([address] { *address = 1; });
  EXPECT_NE(refusal(p).find("mp::partial"), std::string::npos);
  EXPECT_NE(refusal(p).find("mp::partial"), std::string::npos);
  EXPECT_FALSE(p.is_alive());
}

struct Thrower {
  template <class Archive>
  void serialize(Archive&) {
    if constexpr (Archive::is_loading::value) throw std::range_error("not in this process");
  }
};

TEST_P(SpawnTest, FailureToDecodeEndsTheChildWithOne) {  // P10
  const auto outcome = mp::test::run_program([] {
    auto p = spawn().Process(
        {.name = "w"}, [](const Thrower&) {}, Thrower());
    p.start();
    p.join();
    std::printf("%d", *p.exitcode());
  });
  EXPECT_EQ(outcome.out, "1");
  EXPECT_NE(outcome.err.find("Process w:\n"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("not in this process"), std::string::npos) << outcome.err;
}

TEST_P(SpawnTest, EverythingTravels) {  // C12
  mp::RLock rlock;
  mp::Semaphore semaphore(0);
  mp::Condition condition;
  mp::Barrier barrier(2);
  mp::Array<int> array(3);
  mp::RawArray<double> raw(2);
  mp::SharedMemory segment({.create = true, .size = 10});
  auto p = spawn().Process(
      [](const mp::RLock& l, const mp::Semaphore& s, const mp::Condition& c, const mp::Barrier& b,
         const mp::Array<int>& a, const mp::RawArray<double>& r, const mp::SharedMemory& m) {
        b.wait();
        const std::scoped_lock guard(l, c);
        a[2] = 7;
        r[1] = 1.5;
        m.buf()[9] = std::byte{3};
        c.notify_all();
        s.release();
      },
      rlock, semaphore, condition, barrier, array, raw, segment);
  p.start();
  barrier.wait();
  semaphore.acquire();
  EXPECT_TRUE(p.join());
  EXPECT_EQ(p.exitcode(), 0);
  EXPECT_EQ(array[2], 7);
  EXPECT_EQ(raw[1], 1.5);
  EXPECT_EQ(segment.buf()[9], std::byte{3});
  segment.close();
  segment.unlink();
}

}  // namespace

int main(int argc, char** argv) {
  const bool executed = argc == 2 && argv[1][0] == 0;  // by the library: its argument is taken out
  const bool named = std::getenv("FORKSERVER_TEST_PROGRAM") != nullptr;
  if ((executed || !named) && mp::test::behaves_badly()) return 0;  // spawn_exit_test.cpp
  mp::freeze_support(argc, argv);
  if (const auto code = mp::test::run_named_program()) return *code;  // forkserver_test.cpp
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
