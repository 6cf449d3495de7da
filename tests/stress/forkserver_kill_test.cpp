// The fork server and its clients killed at random moments: every process that was started runs
// once and is seen to end, daemonic ones end with their parent, and nothing is left.
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <millrace/context.hpp>
#include <millrace/process.hpp>
#include <millrace/sharedctypes.hpp>
#include <millrace/synchronize.hpp>
#include <random>
#include <system_error>

#include "tests/api/forkserver_support.hpp"
#include "tests/leak_check.hpp"
#include "tests/stress/storm.hpp"

namespace mp = millrace;
using mp::test::forkserver;
using mp::test::kernel_tells_of_the_reaped;
using mp::test::kill_server;
using mp::test::run_program;

namespace {

class ForkServerKills : public mp::test::LeakCheck {
 protected:
  void SetUp() override {
    (void)mp::runtime::ForkServerNote::instance();
    LeakCheck::SetUp();
    std::printf("seed %u\n", seed_);
  }

  unsigned seed_ = std::random_device()();
  std::mt19937 random_{seed_};
};

// Kills every server a little after it has come up, until its parent ends it.
pid_t fork_killer(unsigned seed) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::mt19937 random(seed);
  for (;;) {
    while (mp::test::server_pid() == 0) ::usleep(100);
    ::usleep(std::uniform_int_distribution<useconds_t>(0, 30'000)(random));
    kill_server();
  }
}

void end_killer(pid_t pid) {
  ::kill(pid, SIGKILL);
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

TEST_F(ForkServerKills, WhateverWasStartedRunsOnceAndIsSeenToEnd) {
  mp::Value<long> ran(0);
  const pid_t killer = fork_killer(static_cast<unsigned>(random_()));
  ASSERT_GT(killer, 1);
  const long starts = mp::stress::kills_wanted(300);
  long started = 0;
  long unknown = 0;
  for (long i = 0; i < starts; ++i) {
    auto p = forkserver().Process(
        [](const mp::Value<long>& n) {
          n.update([](long& count) { ++count; });
          throw mp::SystemExit(5);
        },
        ran);
    try {
      p.start();
    } catch (const std::system_error& e) {
      EXPECT_EQ(e.code().value(), ECONNREFUSED) << e.what();  // server after server was killed
      continue;
    }
    ++started;
    EXPECT_TRUE(p.join());
    if (p.exitcode() != 5) ++unknown;
    // 255: the kernel has forgotten a child that init has reaped.
    EXPECT_TRUE(p.exitcode() == 5 || p.exitcode() == 255) << p.exitcode().value_or(-999);
  }
  end_killer(killer);
  EXPECT_GT(started, 0);
  EXPECT_EQ(ran.get(), started);
  if (kernel_tells_of_the_reaped()) {
    EXPECT_EQ(unknown, 0);
  }
}

// The server of this program is this program, so it ends itself, or its child, right behind a fork
// when a file of this name exists; it removes the file.
constexpr const char* kKillServer = "MILLRACE_TEST_KILL_SERVER_BEHIND_FORK";
constexpr const char* kKillChild = "MILLRACE_TEST_KILL_CHILD_BEHIND_FORK";

void end_if_asked(const char* variable) {
  char name[16] = {};
  ::prctl(PR_GET_NAME, name);
  const char* file = std::getenv(variable);
  if (std::strcmp(name, "millrace-forks") != 0 || file == nullptr) return;
  if (::unlink(file) == 0) ::raise(SIGKILL);
}

[[maybe_unused]] const int g_registered = ::pthread_atfork(
    nullptr, [] { end_if_asked(kKillServer); }, [] { end_if_asked(kKillChild); });

// A file whose name the environment of the next server tells.
class Asking {
 public:
  explicit Asking(const char* variable) : variable_(variable) {
    mp::test::end_server();
    ::close(::mkstemp(file_));
    ::unlink(file_);
    ::setenv(variable, file_, 1);
  }
  Asking(const Asking&) = delete;
  Asking& operator=(const Asking&) = delete;
  ~Asking() {
    ::unsetenv(variable_);
    mp::test::end_server();
  }
  void ask() const {
    std::FILE* made = std::fopen(file_, "wx");
    ASSERT_NE(made, nullptr);
    std::fclose(made);
  }
  [[nodiscard]] bool granted() const { return ::access(file_, F_OK) != 0; }

 private:
  const char* variable_;
  char file_[32] = "/tmp/millrace-fork-XXXXXX";
};

// Starts processes whose server or child is killed right behind the fork: each runs once and its
// exit code is exact.
void start_while_killed(const char* variable) {
  const Asking killer(variable);
  mp::Value<long> ran(0);
  const long starts = mp::stress::kills_wanted(60);
  for (long i = 0; i < starts; ++i) {
    auto before = forkserver().Process([] {});
    before.start();  // by a server that has come up
    before.join();
    killer.ask();
    const int code = static_cast<int>(i % 100) + 3;
    auto p = forkserver().Process(
        [code](const mp::Value<long>& n) {
          n.update([](long& count) { ++count; });
          throw mp::SystemExit(code);
        },
        ran);
    p.start();
    EXPECT_TRUE(p.join());
    while (!killer.granted()) ::usleep(100);  // the child may be quicker than its dying server
    if (kernel_tells_of_the_reaped()) {
      EXPECT_EQ(p.exitcode(), code);
    } else {
      EXPECT_TRUE(p.exitcode() == code || p.exitcode() == 255);
    }
  }
  EXPECT_EQ(ran.get(), starts);
}

TEST_F(ForkServerKills, ExitCodesAreExactWhenTheServerIsKilledBehindTheFork) {
  start_while_killed(kKillServer);
}

TEST_F(ForkServerKills, AProcessKilledBeforeItAnswersIsStartedAgain) {
  start_while_killed(kKillChild);
}

[[noreturn]] void start_daemons_for_ever() {
  for (;;) {
    auto p = forkserver().Process({.daemon = true}, [] { mp::Event().wait(); });
    p.start();
  }
}

// Ends this process without any handler, some microseconds from now.
void end_in(unsigned microseconds) {
  const itimerval when{{0, 0}, {0, static_cast<suseconds_t>(microseconds)}};
  ::signal(SIGALRM, SIG_DFL);
  ::setitimer(ITIMER_REAL, &when, nullptr);
}

TEST_F(ForkServerKills, DaemonsEndWithAParentKilledWhileItStartsThem) {
  const long rounds = mp::stress::kills_wanted(60);
  for (long i = 0; i < rounds; ++i) {
    const unsigned limit = std::uniform_int_distribution<unsigned>(100, 20'000)(random_);
    const auto outcome = run_program([limit] {
      end_in(limit);
      start_daemons_for_ever();
    });
    // It is over: every daemon held the streams.
    EXPECT_EQ(outcome.exitcode, -SIGALRM) << outcome.err;
    EXPECT_EQ(outcome.err, "");
  }
}

TEST_F(ForkServerKills, DaemonsEndWhenServerAndParentAreKilled) {
  const long rounds = mp::stress::kills_wanted(40);
  for (long i = 0; i < rounds; ++i) {
    const auto delay = std::uniform_int_distribution<useconds_t>(0, 3'000)(random_);
    const bool server_first = (i & 1) != 0;
    mp::Event ready;
    const auto outcome = run_program([&] {
      for (int k = 0; k < 3; ++k) {
        auto p = forkserver().Process(
            {.daemon = true}, [](const mp::Event& here) { here.set(), mp::Event().wait(); }, ready);
        p.start();
      }
      ready.wait();
      if (server_first) kill_server();
      ::usleep(delay);
      if (!server_first) end_in(1 + delay);
      kill_server();
      ::raise(SIGKILL);
    });
    EXPECT_TRUE(outcome.exitcode == -SIGKILL || outcome.exitcode == -SIGALRM);
  }
}

}  // namespace

int main(int argc, char** argv) {
  mp::freeze_support(argc, argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
