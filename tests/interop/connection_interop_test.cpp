// Connections whose other end is CPython: whoever listens, at whatever address, with a key and
// without, everything that an mp::Object holds gets across and back unchanged.
#include <openssl/evp.h>

#include <complex>
#include <cstdlib>
#include <limits>

#include "tests/interop/python_peer.hpp"

namespace millrace::test {
namespace {

class MeetingTest : public ListenerTest, public ::testing::WithParamInterface<Meeting> {};

// Half of all there are; the other half in one test below. CPython takes its time to start.
const Meeting kMeetings[] = {{true, "AF_UNIX", "secret"},
                             {true, "AF_INET", ""},
                             {false, "AF_UNIX", ""},
                             {false, "AF_INET", "secret"}};

INSTANTIATE_TEST_SUITE_P(Interop, MeetingTest, ::testing::ValuesIn(kMeetings));

std::string text_of_bytes(std::size_t size) {
  std::string bytes(size, '\0');
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i % 251);
  return bytes;
}

std::string sha256(std::string_view bytes) {
  std::array<unsigned char, 32> digest{};
  EXPECT_EQ(
      ::EVP_Digest(bytes.data(), bytes.size(), digest.data(), nullptr, ::EVP_sha256(), nullptr), 1);
  std::string text;
  for (const unsigned char each : digest) {
    text += "0123456789abcdef"[each >> 4U];
    text += "0123456789abcdef"[each & 15U];
  }
  return text;
}

std::vector<Object> values() {
  const auto big = std::numeric_limits<std::int64_t>::max();
  List many;
  for (int i = 0; i < 2500; ++i) many.append(i * i);
  return {None,
          true,
          false,
          0,
          255,
          256,
          65536,
          -1,
          big,
          std::numeric_limits<std::int64_t>::min(),
          0.0,
          -2.5,
          1e300,
          "",
          "hello",
          "\xc3\xa4\xe2\x82\xac\xf0\x9f\x90\x8d",
          std::string(300, 'x'),
          std::string(100'000, 'y'),
          Bytes(""),
          Bytes("raw\0", 4),
          Bytes(std::string(70'000, '\xff')),
          ByteArray("bytearray"),
          List{},
          List{1, "two", 3.0, None, List{List{}}},
          many,
          Tuple{},
          Tuple{1},
          Tuple{1, 2, 3},
          Tuple{1, 2, 3, Tuple{4}},
          Dict{},
          Dict{{"k", 1}, {2, List{}}, {Tuple{1, 2}, Dict{{None, true}}}},
          Set{},
          Set{7},
          FrozenSet{},
          FrozenSet{"a"},
          Slice{1, 2},
          Range{0, 5},
          std::complex<double>(1, -2)};
}

TEST_P(MeetingTest, EveryValueGoesThereAndBack) {
  const Meet meet(GetParam());
  for (const Object& value : values()) {
    meet->send(Tuple{"echo", value});
    const auto reply = meet->recv<Tuple>();
    EXPECT_EQ(reply[0], value.type_name());
    EXPECT_EQ(reply[1], value.repr());
    EXPECT_EQ(reply[2], value);
    EXPECT_EQ(reply[2].type_name(), value.type_name());
  }
}

TEST_P(MeetingTest, ExceptionsGoThereAndBack) {
  const Meet meet(GetParam());
  meet->send(Tuple{"fail", "ValueError", "wrong"});
  const Object error = meet->recv();
  EXPECT_EQ(error.repr(), "ValueError('wrong')");
  meet->send(Tuple{"echo", error});
  EXPECT_EQ(meet->recv()[1], "ValueError('wrong')");
  meet->send(Tuple{"echo", Object(IndexError("out of range"))});
  EXPECT_EQ(meet->recv()[1], "IndexError('out of range')");
  meet->send(Tuple{"echo", Object(TimeoutError("late"))});
  EXPECT_EQ(meet->recv()[0], "TimeoutError");
}

TEST_P(MeetingTest, BytesOfAnySizeGoThereAndBack) {
  const Meet meet(GetParam());
  const std::vector<std::size_t> sizes{0, 1, 2, 4, 16'383, 16'384, 16'385, 65'536, 1'000'003};
  meet->send(Tuple{"echo_bytes", sizes.size()});
  for (const std::size_t size : sizes) {
    const std::string bytes = text_of_bytes(size);
    meet->send_bytes(bytes);
    EXPECT_TRUE(meet->recv_bytes() == bytes) << size;
  }
}

TEST_P(MeetingTest, SixtyFourMebibytesGoThereAndBack) {
  const Meet meet(GetParam());
  constexpr std::size_t kSize = std::size_t{64} << 20U;
  const std::string bytes = text_of_bytes(kSize);
  meet->send(Tuple{"digest"});
  meet->send_bytes(bytes);
  EXPECT_EQ(meet->recv(), (Tuple{kSize, sha256(bytes)}));
  meet->send(Tuple{"pattern", kSize});
  EXPECT_TRUE(meet->recv_bytes() == bytes);
}

// Beyond 2 GiB by MILLRACE_INTEROP_HUGE=1, which takes 7 GB of memory; the header is the same.
TEST_P(MeetingTest, LongHeadersAreUnderstood) {
  const Meet meet(GetParam());
  meet->send(Tuple{"long_header", 5});
  EXPECT_EQ(meet->recv_bytes(), "xxxxx");
  if (std::getenv("MILLRACE_INTEROP_HUGE") == nullptr) return;
  constexpr std::size_t kSize = (std::size_t{1} << 31U) + 5;
  const std::string bytes = text_of_bytes(kSize);
  meet->send(Tuple{"digest"});
  meet->send_bytes(bytes);
  EXPECT_EQ(meet->recv(), (Tuple{kSize, sha256(bytes)}));
  meet->send(Tuple{"pattern", kSize});
  EXPECT_TRUE(meet->recv_bytes() == bytes);
}

TEST_P(MeetingTest, NamesThatAreNotKnownAreRefusedAndTheConnectionLives) {
  const Meet meet(GetParam());
  for (const char* command : {"unknown", "malicious"}) {
    meet->send(Tuple{command});
    EXPECT_THROW(meet->recv(), UnpicklingError);
  }
  meet->send(Tuple{"echo", 1});
  EXPECT_EQ(meet->recv()[2], 1);
}

TEST_P(MeetingTest, ALengthThatIsNoneEndsReceiving) {
  const Meet meet(GetParam());
  meet->send(Tuple{"header", -2});
  EXPECT_EQ(errno_of([&] { (void)meet->recv(); }), EMSGSIZE);
  EXPECT_FALSE(meet->readable());
  EXPECT_TRUE(meet->writable());
}

TEST_P(MeetingTest, TheEndInsideAMessageIsNoEndOfFile) {
  const Meet meet(GetParam());
  meet->send(Tuple{"die_inside"});
  try {
    (void)meet->recv_bytes();
    ADD_FAILURE();
  } catch (const std::system_error& error) {
    EXPECT_NE(std::string(error.what()).find("got end of file during message"), std::string::npos);
  }
}

TEST_P(MeetingTest, TheEndBetweenMessagesIsEndOfFile) {
  const Meet meet(GetParam());
  meet->send(Tuple{"die"});
  EXPECT_THROW(meet->recv(), EOFError);
  EXPECT_THROW(meet->recv(), EOFError);
}

TEST_P(MeetingTest, WhatDoesNotFitTheBufferIsInTheException) {
  const Meet meet(GetParam());
  meet->send(Tuple{"echo_bytes", 3});
  std::array<char, 4> small{};
  for (const char* text : {"abcd", "abcde", "ab"}) meet->send_bytes(text);
  EXPECT_EQ(meet->recv_bytes_into(small), 4U);
  try {
    (void)meet->recv_bytes_into(small);
    ADD_FAILURE();
  } catch (const BufferTooShort& error) {
    EXPECT_EQ(error.message(), "abcde");
  }
  EXPECT_EQ(meet->recv_bytes_into(small, 2), 2U);
  EXPECT_EQ(std::string_view(small.data(), 4), "abab");
}

TEST_F(ListenerTest, CPythonMeetsUsEverywhereElse) {
  for (const Meeting& how : {Meeting{true, "AF_UNIX", ""}, Meeting{true, "AF_INET", "secret"},
                             Meeting{false, "AF_UNIX", "secret"}, Meeting{false, "AF_INET", ""}}) {
    const Meet meet(how);
    meet->send(Tuple{"echo", "hello"});
    EXPECT_EQ(meet->recv()[2], "hello");
  }
}

TEST_F(ListenerTest, CPythonsClientWithAnotherKeyIsRefused) {
  const Listener listener({.authkey = "key", .handshake_timeout = kPatient});
  PythonPeer peer("call", listener.address().repr(), "other");
  EXPECT_THROW(listener.accept(), AuthenticationError);
  EXPECT_EQ(peer.line(), "AuthenticationError digest sent was rejected");
}

TEST_F(ListenerTest, CPythonsListenerRefusesAnotherKey) {
  PythonPeer peer("serve", "AF_INET", "key");
  const Address address = peer.address();
  EXPECT_THROW(Client(address, {.authkey = "other", .handshake_timeout = kPatient}),
               AuthenticationError);
  EXPECT_EQ(peer.line(), "AuthenticationError digest received was wrong");
}

TEST_F(ListenerTest, HmacMd5IsRefusedWhereTheUserSaysSo) {
  {
    const Listener listener({.authkey = "key", .legacy_md5 = false, .handshake_timeout = kPatient});
    PythonPeer peer("call", listener.address().repr(), "key");
    if (python_knows_sha256()) {
      listener.accept().send("stop");
    } else {
      EXPECT_THROW(listener.accept(), AuthenticationError);
      EXPECT_EQ(peer.line(), "AuthenticationError digest sent was rejected");
    }
  }
  PythonPeer peer("serve", "AF_UNIX", "key");
  const Address address = peer.address();
  try {
    Client(address, {.authkey = "key", .legacy_md5 = false, .handshake_timeout = kPatient})
        .send("stop");
    EXPECT_TRUE(python_knows_sha256());
  } catch (const AuthenticationError& error) {
    EXPECT_FALSE(python_knows_sha256());
    EXPECT_NE(std::string(error.what()).find("legacy_md5"), std::string::npos);
    (void)peer.line();  // it saw us go
  }
}

// CPython's own Client knows no AF_INET6.
TEST_F(ListenerTest, WeCallCPythonAtInet6) {
  if (!has_inet6()) {
    EXPECT_THROW(Client({"::1", 1}), std::system_error);
    return;
  }
  const Meet meet({true, "AF_INET6", "key"});
  meet->send(Tuple{"echo", 1});
  EXPECT_EQ(meet->recv()[2], 1);
}

}  // namespace
}  // namespace millrace::test
