// Pipes whose users are killed: at every instruction of send and recv, and at random in the middle
// of long messages. Whoever is left goes on, gets whole messages, or is told of the end.
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>

#include <chrono>
#include <millrace/connection.hpp>
#include <millrace/process.hpp>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "shm/caller.hpp"
#include "tests/stress/step_kill.hpp"

namespace millrace {
namespace {

using namespace std::chrono_literals;
using stress::step_kill;
using stress::StepKillCase;

constexpr long kFewest = 40;

void expect_unbroken(const stress::StepKillResult& result) {
  EXPECT_EQ(result.broken, 0);
  EXPECT_GE(result.kills, kFewest);
  EXPECT_GT(result.instructions, 0) << "the operation did not come to its end";
  ::testing::Test::RecordProperty("kills", static_cast<int>(result.kills));
}

bool readable(int fd) {
  pollfd look{fd, POLLIN, 0};
  return ::poll(&look, 1, 0) == 1;
}

class PipeKill : public ::testing::Test {
 protected:
  void make() {
    auto [a, b] = Pipe();
    a_.emplace(a);
    b_.emplace(b);
    a.send(0);  // what is done once a process
    EXPECT_EQ(b.recv<int>(), 0);
  }
  // What is left goes both ways.
  bool works() {
    a_->send(7);
    if (b_->recv<int>() != 7) return false;
    b_->send("back");
    return a_->recv<std::string>() == "back" && !a_->poll() && !b_->poll();
  }

  std::optional<Connection> a_;
  std::optional<Connection> b_;
};

TEST_F(PipeKill, ASenderLeavesItsMessageOrNone) {
  StepKillCase c;
  c.stride = 3;
  c.setup = [&] { make(); };
  c.prepare = [] { shm::this_caller(); };
  c.operation = [&] { a_->send(41); };
  c.check = [&](long, bool finished) {
    const bool sent = b_->poll();
    if (sent && b_->recv<int>() != 41) return false;
    return (sent || !finished) && works();
  };
  expect_unbroken(step_kill(c));
}

TEST_F(PipeKill, AReceiverTakesAtMostItsMessage) {
  StepKillCase c;
  c.stride = 3;
  c.setup = [&] {
    make();
    a_->send(1);
    a_->send(2);
  };
  c.prepare = [] { shm::this_caller(); };
  c.operation = [&] { (void)b_->recv<int>(); };
  c.check = [&](long, bool finished) {
    int first = b_->recv<int>();
    if (first == 1 && !finished) first = b_->recv<int>();
    return first == 2 && works();
  };
  expect_unbroken(step_kill(c));
}

TEST_F(PipeKill, AnArmedBellIsNeverLost) {
  StepKillCase c;
  int fd = -1;
  c.stride = 11;  // system calls make it slow
  c.setup = [&] {
    make();
    fd = b_->fileno();
  };
  c.prepare = [] { shm::this_caller(); };
  c.operation = [&] { a_->send(41); };
  c.check = [&](long, bool finished) {
    if (finished && !readable(fd)) return false;
    a_->send(42);
    if (!readable(fd)) return false;
    int last = b_->recv<int>();
    if (last == 41) last = readable(fd) ? b_->recv<int>() : 0;
    if (last != 42 || b_->poll()) return false;
    return !readable(fd) && works();
  };
  expect_unbroken(step_kill(c));
}

TEST_F(PipeKill, AReceiverLeavesTheBellInOrder) {
  StepKillCase c;
  int fd = -1;
  c.stride = 11;  // system calls make it slow
  c.setup = [&] {
    make();
    fd = b_->fileno();
    a_->send(1);
  };
  c.prepare = [] { shm::this_caller(); };
  c.operation = [&] { (void)b_->recv<int>(); };
  c.check = [&](long, bool) {
    if (b_->poll()) {
      if (!readable(fd) || b_->recv<int>() != 1) return false;
    }
    (void)b_->poll();  // a unit too many is taken by a look
    if (readable(fd)) return false;
    a_->send(2);
    if (!readable(fd) || b_->recv<int>() != 2) return false;
    return !readable(fd) && works();
  };
  expect_unbroken(step_kill(c));
}

// ---- at random

std::string pattern(std::size_t bytes, int number) {
  return std::string(bytes, static_cast<char>('a' + number % 26));
}

bool is_whole(const Bytes& message) {
  const std::string_view text = message.view();
  return !text.empty() && text.find_first_not_of(text[0]) == std::string_view::npos;
}

TEST(PipeStorm, AKilledSenderIsTheEndOfWholeMessages) {
  std::mt19937 random(20240611);
  for (int round = 0; round < 100; ++round) {
    auto [a, b] = Pipe();
    Process sender([a = a, b = b, round] {
      b.close();
      for (int i = 0;; ++i)
        a.send_bytes(pattern(1 + static_cast<std::size_t>(i % 7) * 90'000, round));
    });
    sender.start();
    a.close();
    const auto wait = std::chrono::microseconds(random() % 2'000);
    std::thread killer([&] {
      std::this_thread::sleep_for(wait);
      sender.kill();
    });
    try {
      for (;;) ASSERT_TRUE(is_whole(b.recv_bytes()));
    } catch (const EOFError&) {
    } catch (const std::system_error&) {  // inside a message
    }
    killer.join();
    EXPECT_THROW(b.recv_bytes(), EOFError);
    sender.join();
  }
}

TEST(PipeStorm, AKilledReceiverIsABrokenPipe) {
  std::mt19937 random(20240612);
  for (int round = 0; round < 100; ++round) {
    auto [a, b] = Pipe();
    Process receiver([a = a, b = b] {
      a.close();
      for (;;) (void)b.recv_bytes();
    });
    receiver.start();
    b.close();
    const auto wait = std::chrono::microseconds(random() % 2'000);
    std::thread killer([&] {
      std::this_thread::sleep_for(wait);
      receiver.kill();
    });
    try {
      for (int i = 0;; ++i) a.send_bytes(pattern(1 + static_cast<std::size_t>(i % 7) * 90'000, i));
    } catch (const std::system_error& error) {
      EXPECT_EQ(error.code().value(), EPIPE);
    }
    killer.join();
    EXPECT_THROW((void)a.recv(), EOFError);
    receiver.join();
  }
}

// Many on one end: those who are left go on with whole messages.
TEST(PipeStorm, TheOthersOfAnEndGoOn) {
  std::mt19937 random(20240613);
  for (int round = 0; round < 20; ++round) {
    auto [a, b] = Pipe();
    std::vector<Process> senders;
    for (int s = 0; s < 4; ++s) {
      senders.emplace_back([a = a, b = b, s] {
        b.close();
        for (int i = 0; i < 40 || s % 2 != 0; ++i) {
          a.send_bytes(pattern(1 + static_cast<std::size_t>(i % 5) * 70'000, s));
        }
      });
      senders.back().start();
    }
    a.close();
    std::thread killer([&senders, wait = std::chrono::microseconds(random() % 3'000)] {
      for (std::size_t s = 1; s < senders.size(); s += 2) {
        std::this_thread::sleep_for(wait);
        senders[s].kill();
      }
    });
    int of_the_living = 0;
    try {
      for (;;) {
        const Bytes message = b.recv_bytes();
        ASSERT_TRUE(is_whole(message));
        of_the_living += message.view()[0] == 'a' || message.view()[0] == 'c';
      }
    } catch (const EOFError&) {
    } catch (const std::system_error&) {  // the last one was killed inside a message
    }
    killer.join();
    EXPECT_EQ(of_the_living, 80);
    for (Process& each : senders) each.join();
  }
}

}  // namespace
}  // namespace millrace
