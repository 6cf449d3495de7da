// fileno() in the user's own poll, connection::wait, and SIGINT.
// Ported: CPython's TestWait, _TestPoll (test_multiprocessing).
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <millrace/millrace.hpp>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "tests/api/sigint_support.hpp"
#include "tests/api/synchronize_support.hpp"

namespace millrace::test {
namespace {

class ConnectionWaitTest : public Synchronize {};

void until_readable(int fd) {
  pollfd look{fd, POLLIN, 0};
  while (::poll(&look, 1, -1) != 1) {
  }
}

TEST_F(ConnectionWaitTest, FilenoIsReadableWhileThereIsSomething) {  // N03
  auto [a, b] = Pipe();
  const int fd = b.fileno();
  EXPECT_EQ(b.fileno(), fd);
  EXPECT_FALSE(readable(fd));
  a.send(1);
  a.send(2);
  EXPECT_TRUE(readable(fd));
  EXPECT_TRUE(readable(fd));
  EXPECT_EQ(b.recv<int>(), 1);
  EXPECT_TRUE(readable(fd));
  EXPECT_EQ(b.recv<int>(), 2);
  EXPECT_FALSE(readable(fd));
  a.close();
  EXPECT_TRUE(readable(fd));
  EXPECT_THROW(b.recv(), EOFError);
  EXPECT_TRUE(readable(fd));
}

TEST_F(ConnectionWaitTest, FilenoKnowsWhatCameBefore) {  // N03
  auto [a, b] = Pipe();
  a.send_bytes(std::string(1'000, 'x'));
  EXPECT_TRUE(readable(b.fileno()));
  EXPECT_EQ(b.recv_bytes().size(), 1'000U);
  EXPECT_FALSE(readable(b.fileno()));
}

TEST_F(ConnectionWaitTest, AnEpollWithTheConnectionInsideMissesNothing) {  // N03
  constexpr int kMessages = 20'000;
  auto [a, b] = Pipe();
  Process p([a = a, b = b] {
    b.close();
    for (int i = 0; i < kMessages; ++i) {
      a.send(i);
      if (i % 64 == 0) std::this_thread::yield();
    }
  });
  p.start();
  a.close();
  const Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event event{};
  event.events = EPOLLIN;
  ASSERT_EQ(::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, b.fileno(), &event), 0);
  int next = 0;
  bool over = false;
  while (!over) {
    while (::epoll_wait(epoll.get(), &event, 1, -1) != 1) {
    }
    try {
      for (int k = 0; k < 3 && b.poll(); ++k) {
        ASSERT_EQ(b.recv<int>(), next);
        ++next;
      }
    } catch (const EOFError&) {
      over = true;
    }
  }
  EXPECT_EQ(next, kMessages);
  p.join();
}

// Messages come in ones and twos, each pair when the last was answered; some are waited for in
// recv(), which needs no bell, others in a poll, which misses them if recv() did not leave the bell
// as it must.
TEST_F(ConnectionWaitTest, APollAfterARecvMissesNothing) {  // N03
  constexpr int kRounds = 6'000;
  auto [a, b] = Pipe();
  Process p([a = a, b = b] {
    b.close();
    for (int i = 0; i < kRounds; ++i) {
      a.send(2 * i);
      if (i % 3 == 0) a.send(2 * i + 1);
      EXPECT_EQ(a.recv<int>(), i);
    }
  });
  p.start();
  a.close();
  const int fd = b.fileno();
  for (int i = 0; i < kRounds; ++i) {
    if (i / 4 % 3 == 2) until_readable(fd);
    ASSERT_EQ(b.recv<int>(), 2 * i);
    if (i % 3 == 0) {
      if (i % 2 == 0) until_readable(fd);
      ASSERT_EQ(b.recv<int>(), 2 * i + 1);
    }
    b.send(i);
  }
  p.join();
  EXPECT_EQ(p.exitcode(), 0);
  EXPECT_THROW(b.recv(), EOFError);
}

TEST_F(ConnectionWaitTest, FilenoTellsOfAKilledPeer) {  // N03
  auto [a, b] = Pipe();
  const Gate gate;
  Process p([a = a, b = b, &gate] {
    b.close();
    gate.wait();
    ::raise(SIGKILL);
  });
  p.start();
  a.close();
  const int fd = b.fileno();
  EXPECT_FALSE(readable(fd) && b.poll());
  gate.open();
  until_readable(fd);
  EXPECT_THROW(b.recv(), EOFError);
  p.join();
}

// The only holder of the other end is one that fileno() had not heard of.
TEST_F(ConnectionWaitTest, FilenoTellsOfThePeersHeirs) {  // N03
  auto [a, b] = Pipe();
  auto [way, out] = Pipe();
  const Gate gate;
  Process heir([a = a, b = b, out = out, way = way, &gate] {
    a.close();
    b.close();
    way.close();
    const auto got = out.recv<Connection>();
    got.send("have it");
    gate.wait();
    ::raise(SIGKILL);
  });
  heir.start();
  const int fd = b.fileno();
  way.send(a);
  a.close();
  until_readable(fd);
  EXPECT_EQ(b.recv<std::string>(), "have it");
  gate.open();
  EXPECT_THROW(
      {
        until_readable(fd);
        b.recv();
      },
      EOFError);
  heir.join();
}

TEST_F(ConnectionWaitTest, AForkedChildHasAFilenoOfItsOwn) {  // N03
  auto [a, b] = Pipe();
  EXPECT_FALSE(readable(b.fileno()));
  Process p([a = a, b = b] {
    a.close();
    until_readable(b.fileno());
    EXPECT_EQ(b.recv<int>(), 5);
    until_readable(b.fileno());
    EXPECT_THROW(b.recv(), EOFError);
    if (::testing::Test::HasFailure()) throw SystemExit(3);
  });
  p.start();
  a.send(5);
  a.close();
  p.join();
  EXPECT_EQ(p.exitcode(), 0);
}

// They must agree on what is rung, or one of them is never told.
TEST_F(ConnectionWaitTest, ProcessesThatAskForFilenoAtOnceAreAllTold) {  // N03
  constexpr int kRounds = 100;
  using Count = std::atomic<int>;
  void* const memory =
      ::mmap(nullptr, sizeof(Count), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  auto& ready = *new (memory) Count;
  const Semaphore asked(0);
  for (int i = 0; i < kRounds; ++i) {
    ready = 0;
    auto [a, b] = Pipe();
    std::vector<Process> both;
    for (int k = 0; k < 2; ++k) {
      both.emplace_back([b = b, asked, &ready] {
        ++ready;
        for (int spins = 0; ready.load() < 2;) {
          if (++spins % 4'096 == 0) ::sched_yield();
        }
        const int fd = b.fileno();
        asked.release();
        until_readable(fd);
      });
      both.back().start();
    }
    for (int k = 0; k < 2; ++k) asked.acquire();
    for (int k = 0; k < 2; ++k) a.send(k);
    for (Process& each : both) {
      each.join();
      ASSERT_EQ(each.exitcode(), 0);
    }
  }
  ::munmap(memory, sizeof(Count));
}

TEST_F(ConnectionWaitTest, WaitServesFourChildren) {  // L08: TestWait.test_wait
  std::vector<Connection> readers;
  std::vector<Process> processes;
  for (int i = 0; i < 4; ++i) {
    auto [r, w] = Pipe({.duplex = false});
    processes.emplace_back(
        [](const Connection& to, int number) {
          for (int k = 0; k < 10; ++k) to.send(std::pair<int, int>(k, number));
        },
        w, i);
    processes.back().start();
    readers.push_back(r);
    w.close();
  }
  std::array<int, 4> next{};
  int messages = 0;
  while (!readers.empty()) {
    for (const Connection& r : connection::wait(readers)) {
      try {
        const auto [k, number] = r.recv<std::pair<int, int>>();
        EXPECT_EQ(k, next.at(static_cast<std::size_t>(number))++);
        ++messages;
      } catch (const EOFError&) {
        std::erase(readers, r);
      }
    }
  }
  EXPECT_EQ(messages, 40);
  for (Process& p : processes) p.join();
}

TEST_F(ConnectionWaitTest, WaitEndsAtItsTimeout) {  // L08: TestWait.test_wait_timeout
  auto [a, b] = Pipe();
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(connection::wait({a, b}, 30ms).empty());
  EXPECT_GE(std::chrono::steady_clock::now() - start, 30ms);
  EXPECT_TRUE(connection::wait({a, b}, -1s).empty());
  EXPECT_TRUE(connection::wait({}, 0s).empty());
  b.send(mp::None);
  const auto ready = connection::wait({a, b}, 20s);
  ASSERT_EQ(ready.size(), 1U);
  EXPECT_TRUE(ready[0] == a);
  EXPECT_FALSE(ready[0] == b);
}

TEST_F(ConnectionWaitTest, WaitRefusesOneGivenTwice) {  // L08
  auto [a, b] = Pipe();
  EXPECT_THROW(connection::wait({a, b, a}, 0s), KeyError);
  EXPECT_THROW(connection::wait({a, 0, b, 0}, 0s), KeyError);
  EXPECT_TRUE(connection::wait({a, b}, 0s).empty());
}

TEST_F(ConnectionWaitTest, WaitMixesConnectionsSentinelsAndDescriptors) {  // L08: test_wait_integer
  auto [a, b] = Pipe();
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const Fd r(ends[0]);
  const Fd w(ends[1]);
  const Gate gate;
  Process p([&gate] { gate.wait(); });
  p.start();
  EXPECT_TRUE(connection::wait({a, p.sentinel(), r.get()}, 5ms).empty());
  b.send(1);
  ASSERT_EQ(::write(w.get(), "x", 1), 1);
  auto ready = connection::wait({a, p.sentinel(), r.get()});
  ASSERT_EQ(ready.size(), 2U);
  EXPECT_TRUE(ready[0] == a);
  EXPECT_TRUE(ready[1] == r.get());
  EXPECT_EQ(ready[0].connection().recv<int>(), 1);
  EXPECT_THROW((void)ready[1].connection(), TypeError);
  gate.open();
  ready = connection::wait({p.sentinel()});
  ASSERT_EQ(ready.size(), 1U);
  EXPECT_TRUE(ready[0] == p.sentinel());
  EXPECT_EQ(connection::wait(std::vector<int>{r.get()}), std::vector<int>{r.get()});
  p.join();
  a.close();
  EXPECT_THROW(connection::wait({a}), std::system_error);
  EXPECT_THROW(connection::wait({-1}), ValueError) << "poll() would never see it";
}

// ---- SIGINT, after install_sigint()

class ConnectionSigintTest : public ::testing::Test {};

template <class Body>
void expect_interrupted(Body body) {
  EXPECT_EQ(run_forked([&] {
              install_sigint();
              const Interrupter interrupter(5ms);
              body();
              return 1;
            }).code,
            100);
}

TEST_F(ConnectionSigintTest, InterruptsReceivers) {
  expect_interrupted([] {
    auto [a, b] = Pipe();
    b.recv();
  });
  expect_interrupted([] {
    auto [a, b] = Pipe();
    (void)b.poll(std::nullopt);
  });
}

TEST_F(ConnectionSigintTest, InterruptsSenders) {
  expect_interrupted([] {
    auto [a, b] = Pipe();
    a.send_bytes(std::string(std::size_t{8} << 20, 'x'));
  });
}

TEST_F(ConnectionSigintTest, InterruptsWait) {
  expect_interrupted([] {
    auto [a, b] = Pipe();
    connection::wait({a, b});
  });
}

TEST_F(ConnectionSigintTest, AFrameThatASenderBrokeOffIsDropped) {
  EXPECT_EQ(run_forked([] {
              install_sigint();
              auto [a, b] = Pipe();
              try {
                const Interrupter interrupter(5ms);
                a.send_bytes(std::string(std::size_t{8} << 20, 'x'));
                return 1;
              } catch (const KeyboardInterrupt&) {
              }
              const auto whatever_signals_come = [](const auto& call) {  // one may be on its way
                for (;;) {
                  try {
                    return call();
                  } catch (const KeyboardInterrupt&) {
                  }
                }
              };
              std::thread sender(
                  [&, conn = a] { whatever_signals_come([&conn] { conn.send("whole"); }); });
              const auto got = whatever_signals_come([&b] { return b.recv<std::string>(); });
              sender.join();
              return got == "whole" ? 7 : 2;
            }).code,
            7);
}

}  // namespace
}  // namespace millrace::test
