// CPython's tests of queues, pipes and listeners, over its three start methods: each case names its
// counterpart in _TestQueue, TestSimpleQueue, _TestConnection, _TestPoll, TestWait and
// _TestPicklingConnections of Lib/test/_test_multiprocessing.py. PORTED.md has them all.
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cctype>
#include <map>
#include <millrace/millrace.hpp>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/api/ported_support.hpp"

namespace mp = millrace;
using namespace std::chrono_literals;

namespace millrace::test {
namespace {

using connection::Address;
using connection::Client;
using connection::Listener;

class PortedChannels : public SpawnTest {};
INSTANTIATE_TEST_SUITE_P(Methods, PortedChannels, all_methods(), method_name);

// A moment now and then, as CPython's tests have it.
void dawdle() {
  static std::minstd_rand random(static_cast<unsigned>(::getpid()));
  std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
}

TEST_P(PortedChannels, AChildEmptiesAFullQueue) {  // _TestQueue.test_put
  const mp::Queue<int> queue(6);
  const mp::Event start;
  auto child = started(
      1,
      [](const mp::Queue<int>& q, const mp::Event& e) {
        e.wait();
        for (int i = 1; i <= 6; ++i) {
          if (q.get() != i) throw mp::SystemExit(1);
        }
      },
      queue, start);
  for (int i = 1; i <= 6; ++i) queue.put(i);
  EXPECT_TRUE(queue.full());
  EXPECT_THROW(queue.put_nowait(7), mp::queue::Full);
  EXPECT_THROW(queue.put(7, 1ms), mp::queue::Full);
  start.set();
  end_well(child);
  EXPECT_TRUE(queue.empty());
  EXPECT_FALSE(queue.full());
}

TEST_P(PortedChannels, AChildFillsAnEmptyQueue) {  // _TestQueue.test_get, test_fork
  const mp::Queue<int> queue;
  for (int i = 0; i < 10; ++i) queue.put(i);
  auto child = started(
      1,
      [](const mp::Queue<int>& q) {
        for (int i = 10; i < 20; ++i) q.put(i);
      },
      queue);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(queue.get(), i);
  EXPECT_THROW(queue.get_nowait(), mp::queue::Empty);
  EXPECT_THROW(queue.get(1ms), mp::queue::Empty);
  end_well(child);
}

TEST_P(PortedChannels, JoinWaitsForFourWorkers) {  // _TestQueue.test_task_done
  const mp::JoinableQueue<int> queue;
  auto workers = started(
      4,
      [](const mp::JoinableQueue<int>& q) {
        while (q.get() >= 0) {
          dawdle();
          q.task_done();
        }
      },
      queue);
  for (int i = 0; i < 10; ++i) queue.put(i);
  queue.join();
  EXPECT_TRUE(queue.empty());
  for (int i = 0; i < 4; ++i) queue.put(-1);
  end_well(workers);
}

TEST_P(PortedChannels, EmptyIsTheSameInAChild) {  // TestSimpleQueue.test_empty
  const mp::SimpleQueue<bool> queue;
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(run_spawned(
                [](const mp::SimpleQueue<bool>& q) {
                  q.put(q.empty());
                  q.put(q.empty());
                },
                queue),
            0);
  EXPECT_FALSE(queue.empty());
  EXPECT_TRUE(queue.get());
  EXPECT_FALSE(queue.get());
  EXPECT_TRUE(queue.empty());
}

TEST_P(PortedChannels, AnEndIsClosedOnceItsChildIsStarted) {  // _TestConnection.test_spawn_close
  auto [conn, child_conn] = mp::Pipe();
  auto child = started(
      1,
      [](const mp::Connection& c) {
        for (mp::Bytes got = c.recv_bytes(); !got.empty(); got = c.recv_bytes()) c.send_bytes(got);
      },
      child_conn);
  child_conn.close();
  conn.send_bytes("hello");
  EXPECT_EQ(conn.recv_bytes(), "hello");
  conn.send_bytes("");
  conn.close();
  end_well(child);
}

// _TestConnection.test_fd_transfer, test_large_fd_transfer: there, and in the child, above 256
TEST_P(PortedChannels, DescriptorsOfAnyNumberAreSentToAChild) {
  auto [conn, child_conn] = mp::Pipe();
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const mp::Fd reader(ends[0]);
  mp::Fd writer(ends[1]);
  mp::Fd high(::fcntl(writer.get(), F_DUPFD_CLOEXEC, 300));
  ASSERT_GE(high.get(), 300);
  auto child = started(
      1,
      [](const mp::Connection& c) {
        std::vector<mp::Fd> taken;
        while (taken.empty() || taken.back().get() < 256) {
          taken.emplace_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
        }
        for (const char* text : {"foo", "bar"}) {
          const auto fd = c.recv<mp::Fd>();
          if (fd.get() < 256 || ::write(fd.get(), text, 3) != 3) throw mp::SystemExit(1);
        }
      },
      child_conn);
  conn.send(writer);
  conn.send(high);
  writer.reset();
  high.reset();
  end_well(child);
  std::array<char, 8> text{};
  EXPECT_EQ(::read(reader.get(), text.data(), text.size()), 6);
  EXPECT_STREQ(text.data(), "foobar");
  EXPECT_EQ(::read(reader.get(), text.data(), text.size()), 0) << "nobody has it any more";
}

// _TestConnection.test_missing_fd_transfer: of a pipe, and of a socket
TEST_P(PortedChannels, AMessageWithoutADescriptorIsATypeError) {
  auto [conn, child_conn] = mp::Pipe();
  const Listener listener;
  const auto client = Client(listener.address());
  const auto served = listener.accept();
  EXPECT_EQ(run_spawned(
                [](const mp::Connection& a, const mp::Connection& b) {
                  a.send(1);
                  b.send(2);
                },
                child_conn, client),
            0);
  EXPECT_THROW((void)conn.recv<mp::Fd>(), mp::TypeError);
  EXPECT_THROW((void)served.recv<mp::Fd>(), mp::TypeError);
}

TEST_P(PortedChannels, PollsFindWholeMessages) {  // _TestPoll.test_strings, test_dont_merge
  const std::vector<std::string> strings{"hello", "", "a", "b", "", "bye", "", "lop", "a", "cd"};
  auto [a, b] = mp::Pipe();
  EXPECT_FALSE(a.poll(0s));
  EXPECT_FALSE(a.poll(1ms));
  auto child = started(
      1,
      [](const mp::Connection& c, const std::vector<std::string>& all) {
        for (const std::string& each : all) {
          dawdle();
          c.send_bytes(each);
        }
      },
      b, strings);
  b.close();
  for (const std::string& each : strings) {
    while (!a.poll(1ms)) {
    }
    EXPECT_TRUE(a.poll());
    EXPECT_EQ(a.recv_bytes(), each);
  }
  EXPECT_THROW((void)a.recv_bytes(), mp::EOFError);
  end_well(child);
}

TEST_P(PortedChannels, APollElsewhereTakesNothing) {  // _TestPoll.test_boundaries
  auto [r, w] = mp::Pipe({.duplex = false});
  auto child = started(
      1, [](const mp::Connection& c) { (void)c.poll(std::nullopt); }, r);
  w.send_bytes("first");
  w.send_bytes("second");
  w.close();
  end_well(child);
  EXPECT_EQ(r.recv_bytes(), "first");
  EXPECT_EQ(r.recv_bytes(), "second");
}

TEST_P(PortedChannels, WaitServesSlowChildren) {  // TestWait.test_wait, test_wait_slow
  std::vector<mp::Connection> readers;
  std::vector<mp::Process> children;
  std::multiset<std::pair<int, int>> expected;
  for (int i = 0; i < 4; ++i) {
    auto [r, w] = mp::Pipe({.duplex = false});
    auto child = started(
        1,
        [](const mp::Connection& to, bool slow) {
          for (int k = 0; k < 10; ++k) {
            if (slow) dawdle();
            to.send(std::pair<int, int>(k, ::getpid()));
          }
          to.close();
        },
        w, i % 2 == 0);
    w.close();
    readers.push_back(r);
    for (int k = 0; k < 10; ++k) expected.emplace(k, *child[0].pid());
    children.push_back(std::move(child[0]));
  }
  std::multiset<std::pair<int, int>> messages;
  while (!readers.empty()) {
    for (const mp::Connection& r : mp::connection::wait(readers)) {
      try {
        messages.insert(r.recv<std::pair<int, int>>());
      } catch (const mp::EOFError&) {
        std::erase(readers, r);
      }
    }
  }
  EXPECT_EQ(messages, expected);
  end_well(children);
}

// A socket that listens at 127.0.0.1, and where.
struct PlainListener {
  PlainListener() : fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    auto* const plain = reinterpret_cast<sockaddr*>(&at);
    if (::bind(fd.get(), plain, size) != 0 || ::listen(fd.get(), 8) != 0 ||
        ::getsockname(fd.get(), plain, &size) != 0) {
      throw std::system_error(errno, std::generic_category());
    }
    port = ntohs(at.sin_port);
  }
  [[nodiscard]] mp::Fd accept() const {
    return mp::Fd(::accept4(fd.get(), nullptr, nullptr, SOCK_CLOEXEC));
  }
  mp::Fd fd;
  int port = 0;
};

mp::Fd plain_client(int port) {
  mp::Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<std::uint16_t>(port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) {
    throw std::system_error(errno, std::generic_category());
  }
  return fd;
}

void write_all(int fd, const std::string& text) {
  if (::write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    throw mp::SystemExit(1);
  }
}

TEST_P(PortedChannels, WaitServesSockets) {  // TestWait.test_wait_socket, test_wait_socket_slow
  const PlainListener listener;
  auto children = started(
      4,
      [](int port) {
        const mp::Fd to = plain_client(port);
        for (int i = 0; i < 10; ++i) {
          dawdle();
          write_all(to.get(), std::to_string(i) + "\n");
        }
      },
      listener.port);
  std::map<int, std::string> got;
  std::vector<mp::Fd> open;
  std::vector<int> readers;
  for (int i = 0; i < 4; ++i) {
    open.push_back(listener.accept());
    readers.push_back(open.back().get());
  }
  while (!readers.empty()) {
    for (const int fd : mp::connection::wait(readers)) {
      std::array<char, 32> block{};
      const ssize_t count = ::read(fd, block.data(), block.size());
      ASSERT_GE(count, 0);
      if (count == 0) std::erase(readers, fd);
      got[fd].append(block.data(), static_cast<std::size_t>(count));
    }
  }
  ASSERT_EQ(got.size(), 4U);
  for (const auto& [fd, text] : got) EXPECT_EQ(text, "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n");
  end_well(children);
}

// _TestPicklingConnections.test_pickling, _TestListenerClient.test_listener_client: one child
// accepts, for every family, what another sends, and hands the connection on.
TEST_P(PortedChannels, WhatAChildAcceptsIsHandedOn) {
  const std::vector<std::string> families{"AF_UNIX", "AF_INET"};
  auto [lconn, lconn0] = mp::Pipe();
  auto [rconn, rconn0] = mp::Pipe();
  auto accepting = started(
      1,
      [](const mp::Connection& to, const std::vector<std::string>& all) {
        for (const std::string& family : all) {
          const Listener listener({.family = family});
          to.send(listener.address());
          to.send(listener.accept());
        }
        const PlainListener plain;
        to.send(plain.port);
        to.send(plain.accept());
        (void)to.recv();
      },
      lconn0, families);
  auto calling = started(
      1,
      [](const mp::Connection& from, std::size_t count) {
        for (; count > 0; --count) Client(from.recv<Address>()).send("by " + std::to_string(count));
        write_all(plain_client(from.recv<int>()).get(), "plain");
      },
      rconn0, families.size());
  for (std::size_t count = families.size(); count > 0; --count) {
    rconn.send(lconn.recv<Address>());
    const auto conn = lconn.recv<mp::Connection>();
    EXPECT_EQ(conn.recv<std::string>(), "by " + std::to_string(count));
    EXPECT_THROW((void)conn.recv(), mp::EOFError);
  }
  rconn.send(lconn.recv<int>());
  {
    const auto plain = lconn.recv<mp::Fd>();
    std::array<char, 16> text{};
    EXPECT_EQ(::recv(plain.get(), text.data(), text.size(), MSG_WAITALL), 5);
    EXPECT_STREQ(text.data(), "plain");
  }
  lconn.send(0);
  end_well(accepting);
  end_well(calling);
}

TEST_P(PortedChannels, EndsOfOneWayAreSent) {  // _TestPicklingConnections.test_access
  auto [conn, child_conn] = mp::Pipe();
  auto child = started(
      1,
      [](const mp::Connection& c) {
        {
          const auto w = c.recv<mp::Connection>();
          if (w.readable() || !w.writable()) throw mp::SystemExit(1);
          w.send("all is well");
        }
        const auto r = c.recv<mp::Connection>();
        const auto text = r.recv<std::string>();
        c.send(text + text);
      },
      child_conn);
  child_conn.close();
  {
    auto [r, w] = mp::Pipe({.duplex = false});
    conn.send(w);
    w.close();
    EXPECT_EQ(r.recv<std::string>(), "all is well");
    EXPECT_THROW((void)r.recv(), mp::EOFError);
  }
  auto [r, w] = mp::Pipe({.duplex = false});
  conn.send(r);
  r.close();
  w.send("foobar");
  w.close();
  EXPECT_EQ(conn.recv<std::string>(), "foobarfoobar");
  end_well(child);
}

}  // namespace
}  // namespace millrace::test
