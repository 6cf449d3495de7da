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
      if (state_ == State::reading) state_ = handshake_->advance();
    }
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

TEST_F(HandshakeTest, AnEndIsSeenBehindWhatWasSaid) {
  begin(Side::accepting, 1000);
  say(framed(response_to(hear(), key_)));
  ASSERT_EQ(state_, State::reading);
  peer_.reset();
  EXPECT_EQ(handshake_->advance(), State::lost);
  EXPECT_EQ(handshake_->error(), 0);
}

}  // namespace
}  // namespace millrace::runtime
