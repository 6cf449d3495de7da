// The bell behind fileno() when the process that asked for it is killed inside recv(), where nobody
// rings for it (pipe_bell.hpp): whoever polls afterwards is told of every message.
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <millrace/connection.hpp>
#include <millrace/process.hpp>
#include <optional>
#include <random>
#include <thread>

#include "tests/stress/step_kill.hpp"

namespace millrace {
namespace {

using namespace std::chrono_literals;
using stress::step_kill;
using stress::StepKillCase;
using stress::step_kill_parts::progress;

constexpr long kFewest = 10;

bool readable(int fd) {
  pollfd look{fd, POLLIN, 0};
  return ::poll(&look, 1, 0) == 1;
}

void wait_for(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
}

// What is there is told of, one by one, and what is sent now; then the bell is quiet.
bool tells_all(const Connection& from, const Connection& to, int fd) {
  for (;;) {
    const bool told = readable(fd);
    if (!from.poll()) break;
    if (!told) return false;
    (void)from.recv<int>();
  }
  to.send(42);
  if (!readable(fd) || from.recv<int>() != 42) return false;
  for (int looks = 0; looks < 8; ++looks) {  // each takes one unit that the dead left too many
    if (from.poll()) return false;
  }
  return !readable(fd);
}

// The victim asks, waits in recv() for a message that comes when it stands still at the instruction
// it dies at, or sleeps.
class PipeBellKill : public ::testing::Test {
 protected:
  StepKillCase waiting_in_recv() {
    StepKillCase c;
    c.stride = 97;
    c.first = 97;  // the sender tells by the instructions that it is under way
    c.setup = [this] {
      auto [a, b] = Pipe();
      a_.emplace(a);
      b_.emplace(b);
      a.send(0);  // what is done once a process
      EXPECT_EQ(b.recv<int>(), 0);
      progress->finished = false;
      progress->steps = 0;
      sender_ = ::fork();
      ASSERT_GE(sender_, 0);
      if (sender_ == 0) send_when_it_stands();
    };
    c.prepare = [this] { fd_ = b_->fileno(); };
    c.operation = [this] { (void)b_->recv<int>(); };
    c.frozen = [this](long) {
      wait_for(sender_);
      return true;
    };
    return c;
  }
  [[noreturn]] void send_when_it_stands() const {
    // A victim that waits goes on by the instructions of its looks: after a while it gets its own.
    for (long seen = 0, same = 0, looks = 0; same < 5 && looks < 500; ++looks) {
      std::this_thread::sleep_for(200us);
      const long now = progress->steps;
      same = now != 0 && now == seen ? same + 1 : 0;
      seen = now;
    }
    a_->send(41);
    ::_exit(0);
  }

  std::optional<Connection> a_;
  std::optional<Connection> b_;
  pid_t sender_ = 0;
  int fd_ = -1;
};

TEST_F(PipeBellKill, OneThatAsksAfterTheDeathIsTold) {
  StepKillCase c = waiting_in_recv();
  c.check = [this](long, bool) { return tells_all(*b_, *a_, b_->fileno()); };
  const auto result = step_kill(c);
  EXPECT_EQ(result.broken, 0);
  EXPECT_GE(result.kills, kFewest);
  EXPECT_GT(result.instructions, 0) << "the operation did not come to its end";
}

// ---- at random

void be_busy(std::chrono::microseconds time) {
  const auto until = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < until) {
  }
}

enum class Asks { after, before_and_after };

// One that asked is killed in the midst of messages; this process and a sibling are told of all.
void kill_one_that_asked(std::mt19937& random, Asks parent, Asks sibling) {
  auto [a, b] = Pipe();
  auto [go, wait_to_go] = Pipe();
  const int before = parent == Asks::before_and_after ? b.fileno() : -1;
  Process other([a = a, b = b, wait_to_go = wait_to_go, sibling] {
    if (sibling == Asks::before_and_after) (void)b.fileno();
    wait_to_go.send("asked");
    (void)wait_to_go.recv();
    if (!tells_all(b, a, b.fileno())) throw SystemExit(1);
  });
  other.start();
  (void)go.recv();
  Process victim([b = b] {
    (void)b.fileno();
    for (;;) (void)b.recv<int>();
  });
  victim.start();
  const auto some_time = [&random] { return std::chrono::microseconds(random() % 60); };
  a.send(-1);
  while (b.poll()) std::this_thread::yield();  // it has come to its loop
  for (auto left = random() % 100; left != 0; --left) {
    a.send(1);
    be_busy(some_time());
  }
  victim.kill();
  if (random() % 2 == 0) victim.join();
  a.send(2);
  victim.join();
  if (before >= 0) {
    EXPECT_TRUE(readable(before));
    EXPECT_TRUE(tells_all(b, a, before));
  }
  a.send(3);
  go.send("look");
  other.join();
  EXPECT_EQ(other.exitcode(), 0);
  a.send(4);
  const int fd = b.fileno();
  EXPECT_TRUE(readable(fd));
  EXPECT_TRUE(tells_all(b, a, fd));
}

TEST(PipeBellStorm, NobodyMissesAMessageForOneThatWasKilled) {
  std::mt19937 random(20240614);
  for (int round = 0; round < 60 && !::testing::Test::HasFailure(); ++round) {
    kill_one_that_asked(random, round % 2 == 0 ? Asks::after : Asks::before_and_after,
                        round % 3 == 0 ? Asks::before_and_after : Asks::after);
  }
}

// One that asked and one that it forked afterwards, which polls the inherited number: the first is
// killed in recv(), where nobody would ring for it, and the other is told of what is left.
bool heir_is_told(std::mt19937& random) {
  auto [a, b] = Pipe();
  auto [go, wait_to_go] = Pipe();
  Process victim([b = b, wait_to_go = wait_to_go] {
    const int fd = b.fileno();
    if (::fork() == 0) {
      ::prctl(PR_SET_PDEATHSIG, 0);  // it outlives its parent
      ::alarm(60);
      wait_to_go.send("forked");
      (void)wait_to_go.recv();
      wait_to_go.send(readable(fd));
      ::_exit(0);
    }
    for (;;) (void)b.recv<int>();
  });
  victim.start();
  (void)go.recv();
  a.send(-1);
  while (b.poll()) std::this_thread::yield();  // the victim has come to its loop
  for (auto left = 1 + random() % 30; left != 0; --left) {
    be_busy(std::chrono::microseconds(random() % 60));
    a.send(1);
  }
  victim.kill();
  if (random() % 2 == 0) victim.join();
  a.send(2);
  victim.join();
  go.send("look");
  return go.recv<bool>();
}

TEST(PipeBellStorm, AForkedChildThatPollsTheNumberOfAKilledOneIsTold) {
  std::mt19937 random(20240615);
  for (int round = 0; round < 200 && !::testing::Test::HasFailure(); ++round) {
    EXPECT_TRUE(heir_is_told(random)) << round;
  }
}

}  // namespace
}  // namespace millrace
