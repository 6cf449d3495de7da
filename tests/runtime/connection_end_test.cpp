// Connection's calls over an end that is no pipe and no socket.
#include <gtest/gtest.h>

#include <map>
#include <millrace/connection.hpp>
#include <millrace/millrace.hpp>
#include <string>
#include <vector>

#include "tests/runtime/memory_end.hpp"

namespace millrace::test {
namespace {

struct Point {
  int x, y;
  bool operator==(const Point&) const = default;
};

template <class E, class F>
std::string text_of(F f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(ConnectionEnd, CarriesValuesOfTheirOwnTypes) {
  auto [a, b] = memory_pipe();
  a.send(42);
  a.send("text");
  a.send(Point{1, 2});
  a.send(std::vector<double>(1000, 0.5));
  EXPECT_EQ(b.recv<int>(), 42);
  EXPECT_EQ(b.recv<std::string>(), "text");
  EXPECT_EQ(b.recv<Point>(), (Point{1, 2}));
  EXPECT_EQ(b.recv<std::vector<double>>(), std::vector<double>(1000, 0.5));
}

TEST(ConnectionEnd, GivesWhatConvertsWithoutLoss) {
  auto [a, b] = memory_pipe();
  a.send(42);
  EXPECT_EQ(b.recv<long>(), 42);
  a.send(List{1, 2, 3});
  EXPECT_EQ(b.recv<std::vector<int>>(), (std::vector<int>{1, 2, 3}));
  a.send(std::vector<int>{1, 2});
  EXPECT_EQ(b.recv(), (List{1, 2}));
  a.send(std::map<std::string, int>{{"k", 1}});
  EXPECT_EQ(b.recv<Dict>(), (Dict{{"k", 1}}));
}

TEST(ConnectionEnd, RefusesOtherMessagesWhichAreGoneThen) {
  auto [a, b] = memory_pipe();
  a.send("text");
  EXPECT_THROW(b.recv<int>(), TypeError);
  a.send(300);
  EXPECT_THROW(b.recv<signed char>(), TypeError);
  a.send(Point{1, 2});
  EXPECT_THROW(b.recv(), TypeError);
  a.send(7);
  EXPECT_THROW(b.recv<Point>(), TypeError);
  a.send_bytes("bytes");
  EXPECT_THROW(b.recv<std::string>(), TypeError);
  a.send(1);
  EXPECT_EQ(b.recv<int>(), 1);
}

TEST(ConnectionEnd, AHandleInARefusedMessageIsGivenBack) {
  auto [a, b] = memory_pipe();
  shared_array<int> array(10);
  a.send(array);
  EXPECT_THROW(b.recv<int>(), TypeError);
  a.send(array);
  EXPECT_TRUE(b.recv<shared_array<int>>() == array);
}

TEST(ConnectionEnd, SpeaksPythonWhereTheEndDoes) {
  auto [a, b] = memory_pipe(true);
  a.send(List{42, None, "hello"});
  EXPECT_EQ(b.recv(), (List{42, None, "hello"}));
  a.send(std::vector<int>{1, 2});
  EXPECT_EQ(b.recv<std::vector<long>>(), (std::vector<long>{1, 2}));
  EXPECT_THROW(a.send(Point{1, 2}), TypeError);
  a.send_bytes("garbage");
  EXPECT_THROW(b.recv(), UnpicklingError);
  a.send(true);
  EXPECT_EQ(b.recv<bool>(), true);
}

TEST(ConnectionEnd, ChecksOffsetsAndSizes) {  // N06-N08
  auto [a, b] = memory_pipe();
  EXPECT_THROW(a.send_bytes("abc", -1), ValueError);
  EXPECT_THROW(a.send_bytes("abc", 4), ValueError);
  EXPECT_THROW(a.send_bytes("abc", 0, -1), ValueError);
  EXPECT_THROW(a.send_bytes("abc", 1, 3), ValueError);
  a.send_bytes("abc", 1, 2);
  a.send_bytes("abc", 3);
  EXPECT_EQ(b.recv_bytes(), "bc");
  EXPECT_EQ(b.recv_bytes(), "");
  EXPECT_THROW(b.recv_bytes(-1), ValueError);
  std::vector<std::byte> room(4);
  EXPECT_THROW(b.recv_bytes_into(room, -1), ValueError);
  EXPECT_THROW(b.recv_bytes_into(room, 5), ValueError);
}

TEST(ConnectionEnd, AMessageThatDoesNotFitIsInTheException) {  // N08
  auto [a, b] = memory_pipe();
  a.send_bytes("too long");
  std::vector<char> room(4, 'x');
  try {
    b.recv_bytes_into(room);
    FAIL();
  } catch (const BufferTooShort& error) {
    EXPECT_EQ(error.message(), "too long");
  }
  a.send_bytes("abc");
  EXPECT_EQ(b.recv_bytes_into(room, 1), 3U);
  EXPECT_EQ(std::string(room.data(), room.size()), "xabc");
}

TEST(ConnectionEnd, AMessageBeyondMaxlengthEndsReading) {  // N07
  auto [a, b] = memory_pipe();
  a.send_bytes("four");
  EXPECT_EQ(b.recv_bytes(4), "four");
  a.send_bytes("five!");
  EXPECT_THROW(b.recv_bytes(4), std::system_error);
  EXPECT_FALSE(b.readable());
  EXPECT_THROW(b.recv_bytes(), std::system_error);
  b.send(1);
  EXPECT_EQ(a.recv<int>(), 1);
}

TEST(ConnectionEnd, TheLastHandleOfAProcessClosesTheEnd) {  // N04
  auto [a, b] = memory_pipe();
  {
    const Connection copy = a;
    EXPECT_TRUE(copy == a);
    EXPECT_FALSE(copy == b);
    a = b;
    EXPECT_FALSE(b.poll());
  }
  EXPECT_TRUE(b.poll());
  EXPECT_THROW(b.recv(), EOFError);
  EXPECT_THROW(b.send(1), std::system_error);
}

TEST(ConnectionEnd, CloseIsForAllCopies) {  // N04, N09
  auto [a, b] = memory_pipe();
  const Connection copy = a;
  a.close();
  a.close();
  EXPECT_TRUE(copy.closed());
  EXPECT_EQ(text_of<std::system_error>([&, c = copy] { c.send(1); }).substr(0, 16),
            "handle is closed");
  EXPECT_THROW(copy.recv(), std::system_error);
  EXPECT_THROW((void)copy.poll(), std::system_error);
  EXPECT_THROW((void)copy.fileno(), std::system_error);
  EXPECT_FALSE(b.closed());
}

TEST(ConnectionEnd, OneOfThisProcessOnlyDoesNotTravel) {
  auto [a, b] = memory_pipe();
  EXPECT_THROW(a.send(b), TypeError);
}

}  // namespace
}  // namespace millrace::test
