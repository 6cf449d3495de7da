// The fork server and its clients killed at random moments: every process that was started runs
// once and is seen to end, daemonic ones end with their parent, and nothing is left.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
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
    // 255: the server was killed before it answered, and init has reaped the child since.
    EXPECT_TRUE(p.exitcode() == 5 || p.exitcode() == 255) << p.exitcode().value_or(-999);
  }
  end_killer(killer);
  EXPECT_GT(started, 0);
  EXPECT_EQ(ran.get(), started);
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
