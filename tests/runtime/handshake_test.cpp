#include "runtime/channels/handshake.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace millrace::runtime {
namespace {

using Side = AuthExchange::Side;
using State = Handshake::State;

std::string framed(std::string_view frame) {
  std::string bytes;
  for (const int shift : {24, 16, 8, 0}) bytes += static_cast<char>(frame.size() >> shift & 0xffU);
  return bytes.append(frame);
}

// A handshake whose peer is played by hand, and sends in pieces.
class HandshakeTest : public testing::Test {
 protected:
  void begin(Side side, std::size_t piece) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    piece_ = piece;
    peer_ = Descriptor(ends[0]);
    handshake_.emplace(Descriptor(ends[1]), side, key_, Timeout::Clock::time_point::max());
    state_ = handshake_->advance();
  }
  void say(std::string_view bytes) {
    for (; !bytes.empty(); bytes.remove_prefix(std::min(piece_, bytes.size()))) {
      const std::string_view some = bytes.substr(0, piece_);
      ASSERT_EQ(::send(peer_.get(), some.data(), some.size(), MSG_NOSIGNAL),
                static_cast<ssize_t>(some.size()));
      if (state_ == State::reading) go_on();
    }
  }
  void go_on() {
    EXPECT_TRUE(handshake_->look());
    state_ = handshake_->advance();
  }
  std::string hear() const {
    std::string frame(kAuthFrame, '\0');
    std::array<unsigned char, 4> head{};
    EXPECT_EQ(::recv(peer_.get(), head.data(), 4, MSG_DONTWAIT), 4);
    frame.resize(std::min<std::size_t>(head[3], kAuthFrame));
    EXPECT_EQ(::recv(peer_.get(), frame.data(), frame.size(), MSG_DONTWAIT),
              static_cast<ssize_t>(frame.size()));
    return frame;
  }
  // -1: so far
  ssize_t nothing_more() const {
    char byte = 0;
    return ::recv(peer_.get(), &byte, 1, MSG_DONTWAIT);
  }
  // What nobody has read yet.
  std::string left() {
    std::array<char, 64> bytes{};
    const ssize_t got = ::recv(handshake_->fd(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    return {bytes.data(), static_cast<std::size_t>(std::max<ssize_t>(got, 0))};
  }

  const AuthKey key_{"key", true};
  std::size_t piece_ = 1;
  Descriptor peer_;
  std::optional<Handshake> handshake_;
  State state_ = State::lost;
};

// Those of CPython before 3.12 are the shortest.
std::string short_challenge() { return "#CHALLENGE#" + std::string(20, 'c'); }
std::string long_challenge() { return "#CHALLENGE#{sha3_384}" + std::string(100, 'c'); }

constexpr std::string_view kBehind = "what is said to the Connection";

TEST_F(HandshakeTest, NotAByteTooManyIsReadWhoeverCalls) {
  for (const std::string& theirs : {short_challenge(), make_challenge(), long_challenge()}) {
    for (std::size_t piece = 1; piece < 300; piece += piece < 80 ? 1 : 40) {
      begin(Side::accepting, piece);
      const std::string proof = response_to(hear(), key_);
      say(framed(proof) + framed(theirs) + framed(kWelcome) + std::string(kBehind));
      ASSERT_EQ(state_, State::done) << piece;
      ASSERT_EQ(left(), kBehind) << piece;
      ASSERT_EQ(hear(), kWelcome);
      ASSERT_EQ(hear(), response_to(theirs, key_));
    }
  }
}

TEST_F(HandshakeTest, NotAByteTooManyIsReadWhoeverListens) {
  for (const std::string& theirs : {short_challenge(), make_challenge(), long_challenge()}) {
    for (std::size_t piece = 1; piece < 300; piece += piece < 80 ? 1 : 40) {
      begin(Side::connecting, piece);
      say(framed(theirs));
      ASSERT_EQ(hear(), response_to(theirs, key_));
      const std::string proof = response_to(hear(), key_);
      say(framed(kWelcome) + framed(proof) + std::string(kBehind));
      ASSERT_EQ(state_, State::done) << piece;
      ASSERT_EQ(left(), kBehind) << piece;
      ASSERT_EQ(hear(), kWelcome);
    }
  }
}

// A peer of this library's says last what memory it offers: none here.
TEST_F(HandshakeTest, AnOfferIsPartOfIt) {
  for (const std::string_view offer : {std::string_view("#MEMORY#"), std::string_view("?")}) {
    for (std::size_t piece = 1; piece < 200; ++piece) {
      begin(Side::accepting, piece);
      const std::string proof = response_to(hear(), key_);
      say(framed(proof) + framed(make_challenge(Mark::ours)) + framed(kWelcome) + framed(offer) +
          std::string(kBehind));
      ASSERT_EQ(state_, State::done) << piece;
      ASSERT_EQ(left(), kBehind) << piece;
    }
  }
}

// It is made while the proof is waited for: who has none hears nothing of it, and it is given back.
TEST_F(HandshakeTest, OnlyAPeerThatHasProvedItsKeyIsOfferedMemory) {
  for (const bool proved : {false, true}) {
    const int first_free = ::dup(STDERR_FILENO);
    ::close(first_free);
    begin(Side::connecting, 1000);
    say(framed(make_challenge(Mark::ours)));
    EXPECT_FALSE(hear().empty());
    const std::string proof = response_to(hear(), proved ? key_ : AuthKey{"another", true});
    EXPECT_EQ(nothing_more(), -1);
    say(framed(kWelcome) + framed(proof));
    EXPECT_EQ(state_, proved ? State::done : State::refused);
    EXPECT_EQ(hear(), proved ? kWelcome : kFailure);
    if (proved) {
      EXPECT_TRUE(hear().starts_with("#MEMORY# "));
    }
    EXPECT_EQ(nothing_more(), -1);
    handshake_.reset();
    peer_.reset();
    const int free_again = ::dup(STDERR_FILENO);
    ::close(free_again);
    EXPECT_EQ(free_again, first_free);
  }
}

TEST_F(HandshakeTest, FramesTooShortToLeadOnEndIt) {
  for (std::size_t piece = 1; piece < 100; ++piece) {
    begin(Side::accepting, piece);
    say(framed("short") + framed(make_challenge()) + framed(kWelcome));
    ASSERT_EQ(state_, State::refused) << piece;
    begin(Side::accepting, piece);
    say(framed(response_to(hear(), key_)) + framed("#CHALLENGE#") + framed(kWelcome));
    ASSERT_EQ(state_, State::refused) << piece;
    begin(Side::accepting, piece);
    say(framed(response_to(hear(), key_)) + framed(make_challenge()) + framed("#WEL"));
    ASSERT_EQ(state_, State::refused) << piece;
    begin(Side::accepting, piece);
    say(framed("") + framed(make_challenge()));
    ASSERT_EQ(state_, State::lost) << piece;
  }
}

TEST_F(HandshakeTest, NothingIsReadThatNobodyLookedFor) {
  begin(Side::accepting, 1000);
  const std::string proof = framed(response_to(hear(), key_));
  ASSERT_FALSE(handshake_->look());
  state_ = State::writing;  // say() lets it be
  say(proof);
  ASSERT_EQ(handshake_->advance(), State::reading);
  state_ = State::reading;
  say(framed(make_challenge()));
  EXPECT_EQ(hear(), kWelcome);
  EXPECT_FALSE(hear().empty());
  EXPECT_FALSE(handshake_->look());
  EXPECT_EQ(handshake_->advance(), State::reading);
}

TEST_F(HandshakeTest, BehindItsEndNothingIsRead) {
  begin(Side::accepting, 1000);
  say(framed(response_to(hear(), key_)));
  say(framed(make_challenge()));
  hear();
  hear();
  say(framed(kWelcome));
  ASSERT_EQ(state_, State::done);
  say("the Connection's");
  handshake_->look();
  EXPECT_EQ(handshake_->advance(), State::done);
  EXPECT_EQ(left(), "the Connection's");
}

TEST_F(HandshakeTest, AnEndIsSeenBehindWhatWasSaid) {
  begin(Side::accepting, 1000);
  say(framed(response_to(hear(), key_)));
  ASSERT_EQ(state_, State::reading);
  peer_.reset();
  go_on();
  EXPECT_EQ(state_, State::lost);
  EXPECT_EQ(handshake_->error(), 0);
}

}  // namespace
}  // namespace millrace::runtime
