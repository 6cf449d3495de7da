// A socket's end whose descriptor is nobody's to look at: what it has read and what is received.
// **beyond** Python, whose connections read nothing ahead.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <future>
#include <millrace/millrace.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "runtime/channels/peer_memory.hpp"
#include "runtime/channels/socket_end.hpp"
#include "tests/api/sigint_support.hpp"
#include "tests/leak_check.hpp"

namespace millrace::runtime {
namespace {

using namespace std::chrono_literals;
using Waits = ConnectionEnd::Waits;

std::string head_of(std::size_t size) {
  return {static_cast<char>(size >> 24U & 0xff), static_cast<char>(size >> 16U & 0xff),
          static_cast<char>(size >> 8U & 0xff), static_cast<char>(size & 0xff)};
}
std::string message_of(std::string_view content) {
  return head_of(content.size()) + std::string(content);
}
std::string text_of(const Bytes& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
// What differs at each place.
std::string long_text(std::size_t size) {
  std::string text(size, ' ');
  std::uint32_t state = 1;
  for (char& each : text) {
    state = state * 1664525 + 1013904223;
    each = static_cast<char>(state >> 24U);
  }
  return text;
}

class ReadAheadTest : public test::LeakCheck {
 protected:
  void SetUp() override {
    LeakCheck::SetUp();
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    peer_ = Descriptor(ends[0]);
    connection_.emplace(socket_connection({Descriptor(ends[1]), {}, {}}));
    end().read_ahead({});
  }
  void TearDown() override {
    connection_->close();
    peer_.reset();
    LeakCheck::TearDown();
  }

  ConnectionEnd& end() { return end_of(*connection_); }
  void write(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(peer_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      ASSERT_GT(sent, 0);
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
  }
  int in_socket() {
    int bytes = -1;
    EXPECT_EQ(::ioctl(connection_->fileno(), FIONREAD, &bytes), 0);
    return bytes;
  }
  std::string received() { return text_of(connection_->recv_bytes()); }

  Descriptor peer_;
  std::optional<Connection> connection_;
};

TEST_F(ReadAheadTest, AMessageIsReadWithItsLength) {
  write(message_of("one") + message_of("two"));
  ASSERT_TRUE(end().something_there(Waits::no));
  EXPECT_EQ(in_socket(), 0);
  EXPECT_EQ(received(), "one");
  EXPECT_TRUE(end().something_there(Waits::no));  // of which the descriptor says nothing
  EXPECT_TRUE(connection_->poll(0s));
  EXPECT_EQ(received(), "two");
  EXPECT_FALSE(connection_->poll(0s));
  EXPECT_FALSE(end().something_there(Waits::no));
}

TEST_F(ReadAheadTest, NothingComesWithinTheLimit) {
  end().read_ahead(10ms);
  EXPECT_FALSE(end().something_there(Waits::yes));
}

TEST_F(ReadAheadTest, MessagesInPiecesComeWhole) {
  const std::string text = long_text(5000);
  std::thread writer([&] {
    for (const char each : message_of("a") + message_of("") + message_of(text)) write({&each, 1});
  });
  EXPECT_EQ(received(), "a");
  EXPECT_EQ(received(), "");
  EXPECT_EQ(received(), text);
  writer.join();
}

TEST_F(ReadAheadTest, LongMessagesComeWholeAmongShortOnes) {
  const std::string text = long_text(std::size_t{5} << 20U);
  std::thread writer([&] {
    write(message_of("before") + message_of(text) + message_of("between") + message_of(text));
  });
  EXPECT_EQ(received(), "before");
  EXPECT_EQ(received(), text);
  EXPECT_EQ(received(), "between");
  std::string room(text.size(), ' ');
  EXPECT_EQ(connection_->recv_bytes_into(room), text.size());
  EXPECT_EQ(room, text);
  writer.join();
}

TEST_F(ReadAheadTest, ALengthInEightBytesIsReadSo) {
  const std::string text = long_text(3000);
  write(head_of(0xffff'ffffU) + head_of(0) + message_of(text) + message_of("next"));
  EXPECT_EQ(received(), text);
  EXPECT_EQ(received(), "next");
}

TEST_F(ReadAheadTest, AMessageThatIsTooLongIsRefusedThoughItWasRead) {
  write(message_of("a message"));
  ASSERT_TRUE(end().something_there(Waits::no));
  EXPECT_THROW(connection_->recv_bytes(3), std::system_error);
}

TEST_F(ReadAheadTest, TheEndComesBehindWhatWasRead) {
  write(message_of("last"));
  peer_.reset();
  EXPECT_EQ(received(), "last");
  EXPECT_TRUE(end().something_there(Waits::yes));
  EXPECT_THROW(received(), EOFError);
}

TEST_F(ReadAheadTest, AnEndInsideAMessageIsNoMessage) {
  write(message_of("last") + head_of(100) + "ten bytes.");
  peer_.reset();
  EXPECT_EQ(received(), "last");
  EXPECT_THROW(received(), std::system_error);
  EXPECT_THROW(received(), EOFError);
}

TEST_F(ReadAheadTest, AnEndInsideALengthIsNoMessage) {
  write(head_of(100).substr(2));
  peer_.reset();
  EXPECT_THROW(received(), std::system_error);
}

// A peer that closes with something unread is ECONNRESET once, which Connection calls the end.
TEST_F(ReadAheadTest, AnErrorIsToldOnce) {
  connection_->send_bytes("that the peer does not read");
  peer_.reset();
  EXPECT_TRUE(end().something_there(Waits::no));
  EXPECT_THROW(received(), EOFError);
  EXPECT_THROW(received(), EOFError);
}

TEST_F(ReadAheadTest, CloseWakesWhoReceives) {
  std::promise<pid_t> thread;
  int error = 0;
  std::thread receiver([&] {
    thread.set_value(::gettid());
    try {
      received();
    } catch (const std::system_error& thrown) {
      error = thrown.code().value();
    }
  });
  const pid_t id = thread.get_future().get();
  while (!test::asleep(id)) std::this_thread::yield();
  connection_->close();
  receiver.join();
  EXPECT_EQ(error, EBADF);
}

TEST_F(ReadAheadTest, SigintEndsTheWaiting) {
  const test::Ended ended = test::run_forked(
      [&] {
        install_sigint();
        received();
        return 0;
      },
      [](pid_t child) {
        while (!test::asleep(child)) std::this_thread::yield();
        ::kill(child, SIGINT);
      });
  EXPECT_EQ(ended.code, 100);
}

TEST_F(ReadAheadTest, ItDoesNotTravel) {
  Queue<Connection> queue;
  EXPECT_THROW(queue.put(*connection_), TypeError);
}

// Between programs of one host long messages go through memory; short ones and heads do not.
TEST(ReadAhead, MessagesThroughMemoryComeInTheirOrder) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
  OfferedMemory offered = offer_memory();
  Descriptor opened = accept_memory(offered.frame);
  ASSERT_GE(opened.get(), 0);
  const Connection a = socket_connection(
      {Descriptor(ends[0]), std::move(offered.memory), AuthExchange::Side::connecting});
  const Connection b =
      socket_connection({Descriptor(ends[1]), std::move(opened), AuthExchange::Side::accepting});
  end_of(a).read_ahead({});
  end_of(b).read_ahead({});
  const std::string text = long_text(std::size_t{3} << 20U);
  std::thread echo([&] {
    for (int i = 0; i < 40; ++i) a.send_bytes(a.recv_bytes().view());
  });
  for (int i = 0; i < 20; ++i) {
    b.send_bytes(text);
    b.send_bytes("short");
    EXPECT_EQ(text_of(b.recv_bytes()), text);
    EXPECT_EQ(text_of(b.recv_bytes()), "short");
  }
  echo.join();
}

}  // namespace
}  // namespace millrace::runtime
