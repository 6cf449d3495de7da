// Connections over pipes, within a process and between processes.
// Ported: CPython's _TestConnection, _TestPoll (test_multiprocessing).
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <map>
#include <millrace/millrace.hpp>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "tests/api/synchronize_support.hpp"

namespace millrace::test {
namespace {

class ConnectionTest : public Synchronize {};

void echo(const Connection& conn) {
  for (;;) {
    const Bytes message = conn.recv_bytes();
    if (message.empty()) break;
    conn.send_bytes(message);
  }
  conn.close();
}

TEST_F(ConnectionTest, AValueReceivedAsBytesIsItsPickle) {  // N07, N08
  auto [here, there] = Pipe();
  here.send(5);
  const Bytes pickle = there.recv_bytes();
  EXPECT_LT(pickle.size(), 10U);
  std::string room(64, '.');
  here.send(5);
  ASSERT_EQ(there.recv_bytes_into(room), pickle.size());
  EXPECT_EQ(Bytes(room.substr(0, pickle.size())), pickle);
  here.send(5);
  try {
    there.recv_bytes_into(room, 62);
    FAIL();
  } catch (const BufferTooShort& error) {
    EXPECT_EQ(error.message(), pickle);
  }
}

TEST_F(ConnectionTest, TheLengthOfAValueIsItsPickles) {  // N07
  auto [here, there] = Pipe();
  here.send(5);
  const auto length = static_cast<std::ptrdiff_t>(there.recv_bytes().size());
  here.send(5);
  EXPECT_EQ(there.recv_bytes(length).size(), static_cast<std::size_t>(length));
  here.send(5);
  try {
    (void)there.recv_bytes(length - 1);
    FAIL();
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code().value(), EMSGSIZE) << error.what();
  }
  EXPECT_FALSE(there.readable());
  there.send("the other way");
  EXPECT_EQ(here.recv(), "the other way");
}

// A value whose pickle is far shorter than what goes through the pipe for it.
TEST_F(ConnectionTest, AValueIsNotTooLongForWhatCarriesIt) {  // N07
  auto [here, there] = Pipe({.duplex = false});
  const Connection writer = there;
  const std::vector<int> zeroes(20'000, 0);
  Process sender([&] { writer.send(zeroes); });
  sender.start();
  const Bytes pickle = here.recv_bytes(60'000);
  EXPECT_LT(pickle.size(), zeroes.size() * sizeof(int));
  sender.join();
  Process again([&] { writer.send(zeroes); });
  again.start();
  EXPECT_THROW((void)here.recv_bytes(30'000), std::system_error);
  EXPECT_TRUE(here.closed()) << "it could only read";
  again.join();
}

TEST_F(ConnectionTest, WhatIsReceivedAsBytesInVainIsGivenBack) {
  auto [here, there] = Pipe();
  auto [watched, sent] = Pipe();
  here.send(sent);
  sent.close();
  std::string room(64, '.');
  EXPECT_THROW(there.recv_bytes_into(room), TypeError);
  EXPECT_TRUE(watched.poll(std::nullopt));
  EXPECT_THROW(watched.recv(), EOFError) << "nobody has the other end";
}

TEST_F(ConnectionTest, CarriesValuesAndBytesBothWays) {  // N01, N02, N06-N08: test_connection
  auto [conn, child_conn] = Pipe();
  Process p(echo, child_conn);
  p.start();
  child_conn.close();
  conn.send_bytes("hello");
  EXPECT_EQ(conn.recv_bytes(), "hello");
  std::vector<int> buffer(10);
  conn.send_bytes(std::vector<int>{1, 2, 3, 4});
  EXPECT_EQ(conn.recv_bytes_into(buffer), 4 * sizeof(int));
  EXPECT_EQ(buffer, (std::vector<int>{1, 2, 3, 4, 0, 0, 0, 0, 0, 0}));
  conn.send_bytes(std::vector<int>{7, 8});
  EXPECT_EQ(conn.recv_bytes_into(buffer, 3 * sizeof(int)), 2 * sizeof(int));
  EXPECT_EQ(buffer, (std::vector<int>{1, 2, 3, 7, 8, 0, 0, 0, 0, 0}));
  conn.send_bytes("latin " + std::string(80, 'x'));
  try {
    conn.recv_bytes_into(buffer);
    FAIL();
  } catch (const BufferTooShort& error) {
    EXPECT_EQ(error.message(), "latin " + std::string(80, 'x'));
  }
  EXPECT_FALSE(conn.poll());
  EXPECT_FALSE(conn.poll(1ms));
  EXPECT_FALSE(conn.poll(-1s));
  const std::string really_big(std::size_t{16} << 20, 'X');
  conn.send_bytes(really_big);
  EXPECT_EQ(conn.recv_bytes(), really_big);
  conn.send_bytes("");
  EXPECT_TRUE(conn.poll(std::nullopt));  // the end
  EXPECT_THROW(conn.recv(), EOFError);
  EXPECT_THROW(conn.recv_bytes(), EOFError);
  p.join();
  EXPECT_EQ(p.exitcode(), 0);
}

TEST_F(ConnectionTest, OneWayPipesGoOneWay) {  // Q01, N09-N12: test_duplex_false
  auto [reader, writer] = Pipe({.duplex = false});
  EXPECT_TRUE(reader.readable());
  EXPECT_FALSE(reader.writable());
  EXPECT_FALSE(writer.readable());
  EXPECT_TRUE(writer.writable());
  EXPECT_TRUE(reader.repr().starts_with("<multiprocessing.connection.Connection object at 0x"));
  writer.send(1);
  EXPECT_EQ(reader.recv(), 1);
  EXPECT_THROW(reader.send(2), std::system_error);
  EXPECT_THROW(writer.recv(), std::system_error);
  EXPECT_THROW((void)writer.poll(), std::system_error);
  EXPECT_THROW(reader.send_bytes("x"), std::system_error);
}

TEST_F(ConnectionTest, BothEndsInOneProcessSeeTheEndOfTheOther) {  // N01, N02, N05
  auto [a, b] = Pipe();
  a.send("last words");
  a.close();
  EXPECT_TRUE(b.poll());
  EXPECT_EQ(b.recv<std::string>(), "last words");
  EXPECT_TRUE(b.poll());
  EXPECT_THROW(b.recv(), EOFError);
  try {
    b.send(1);
    FAIL();
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code().value(), EPIPE);
  }
}

TEST_F(ConnectionTest, AForkedCopyKeepsTheEndOpen) {
  auto [a, b] = Pipe();
  auto [go, tell] = Pipe();
  Process p([b = b, go = go] {
    EXPECT_EQ(go.recv<int>(), 1);
    b.send("from the child");
  });
  p.start();
  b.close();
  EXPECT_FALSE(a.poll(20ms));
  tell.send(1);
  EXPECT_EQ(a.recv<std::string>(), "from the child");
  EXPECT_THROW(a.recv(), EOFError);
  p.join();
}

TEST_F(ConnectionTest, AKilledPeerIsTheEnd) {
  auto [a, b] = Pipe();
  Process p([b = b] {
    b.send(1);
    ::raise(SIGKILL);
  });
  p.start();
  b.close();
  EXPECT_EQ(a.recv<int>(), 1);
  EXPECT_THROW(a.recv(), EOFError);
  EXPECT_THROW(a.send(1), std::system_error);
  p.join();
}

TEST_F(ConnectionTest, ABlockedSenderLearnsOfItsPeersEnd) {
  auto [a, b] = Pipe();
  Process p([b = b] {
    (void)b.recv_bytes();
    ::raise(SIGKILL);
  });
  p.start();
  b.close();
  a.send_bytes("go");
  const std::string block(100'000, 'x');
  EXPECT_THROW(
      {
        for (;;) a.send_bytes(block);
      },
      std::system_error);
  p.join();
}

TEST_F(ConnectionTest, MessagesOfAllSizesArriveWhole) {  // Q01: sizes around every limit
  auto [a, b] = Pipe();
  Process p([a = a, b = b] {
    a.close();
    try {
      for (;;) b.send_bytes(b.recv_bytes());
    } catch (const EOFError&) {
    }
  });
  p.start();
  b.close();
  std::vector<std::size_t> sizes{0, 1, 39, 40, 41, 48, 49, 56, 57, 255, 256, 257, 4096};
  for (const std::size_t limit : {65'536UL, 131'072UL, 524'288UL, 1'048'576UL}) {
    for (const std::size_t near : {limit - 17, limit - 8, limit - 1, limit, limit + 1}) {
      sizes.push_back(near);
    }
  }
  for (const std::size_t size : sizes) {
    std::string message(size, 0);
    for (std::size_t i = 0; i < size; ++i) message[i] = static_cast<char>(i * 2654435761U >> 24U);
    a.send_bytes(message);
    const Bytes got = a.recv_bytes();
    ASSERT_TRUE(got.view() == message) << size << " bytes";
  }
  a.close();
  p.join();
  EXPECT_EQ(p.exitcode(), 0);
}

TEST_F(ConnectionTest, PollSeesMessageBoundaries) {  // N05: test_boundaries, test_dont_merge
  auto [a, b] = Pipe();
  EXPECT_FALSE(b.poll());
  a.send_bytes("a");
  a.send_bytes("bb");
  a.send_bytes("");
  EXPECT_TRUE(b.poll());
  EXPECT_TRUE(b.poll(1s));
  EXPECT_EQ(b.recv_bytes(), "a");
  EXPECT_TRUE(b.poll());
  EXPECT_EQ(b.recv_bytes(), "bb");
  EXPECT_TRUE(b.poll());  // test_empty_string
  EXPECT_EQ(b.recv_bytes(), "");
  EXPECT_FALSE(b.poll());
}

TEST_F(ConnectionTest, ConnectionsTravelOverConnections) {  // N13: _TestPicklingConnections
  auto [a, b] = Pipe();
  auto [c, d] = Pipe();
  Process p([b = b] {
    const auto conn = b.recv<Connection>();
    conn.send("by another way");
  });
  p.start();
  b.close();
  a.send(d);
  d.close();
  EXPECT_EQ(c.recv<std::string>(), "by another way");
  EXPECT_THROW(c.recv(), EOFError);
  p.join();
}

TEST_F(ConnectionTest, AConnectionOnTheWayIsOpen) {
  auto [a, b] = Pipe();
  auto [c, d] = Pipe();
  a.send(d);
  d.send(7);
  d.close();
  EXPECT_EQ(c.recv<int>(), 7);
  EXPECT_FALSE(c.poll(10ms));
  {
    const auto again = b.recv<Connection>();
    EXPECT_TRUE(again == d);
    again.send(8);
  }
  EXPECT_EQ(c.recv<int>(), 8);
  EXPECT_THROW(c.recv(), EOFError);
  EXPECT_THROW(a.send(d), std::system_error);  // closed ones do not travel
}

TEST_F(ConnectionTest, AnUnreadConnectionGoesWithItsPipe) {
  auto [c, d] = Pipe();
  {
    auto [a, b] = Pipe();
    a.send(d);
    d.close();
    EXPECT_FALSE(c.poll(1ms));
  }
  EXPECT_THROW(c.recv(), EOFError);
}

TEST_F(ConnectionTest, ManyThreadsTakeTurns) {  // beyond: sharing an end
  auto [a, b] = Pipe();
  constexpr int kEach = 300;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([conn = a, t] {
      const std::string block(static_cast<std::size_t>(t) * 60'000 + 10,
                              static_cast<char>('a' + t));
      for (int i = 0; i < kEach; ++i) conn.send_bytes(block);
    });
  }
  std::atomic<int> whole{0};
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([conn = b, &whole] {
      for (int i = 0; i < 2 * kEach; ++i) {
        const Bytes got = conn.recv_bytes();
        const std::string_view text = got.view();
        const auto size = static_cast<std::size_t>(text[0] - 'a') * 60'000 + 10;
        whole += text.size() == size && text.find_first_not_of(text[0]) == text.npos;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(whole, 4 * kEach);
}

TEST_F(ConnectionTest, CloseEndsABlockedCall) {  // N04
  auto [a, b] = Pipe();
  std::thread closer([conn = a] {
    std::this_thread::sleep_for(10ms);  // either order is right
    conn.close();
  });
  EXPECT_THROW(a.recv(), std::system_error);
  closer.join();
}

}  // namespace
}  // namespace millrace::test
