#include "runtime/channels/peer_memory.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <future>
#include <millrace/millrace.hpp>
#include <string>

#include "runtime/channels/handshake.hpp"
#include "runtime/channels/stream_socket.hpp"

namespace millrace::runtime {
namespace {

constexpr off_t kSize = 2 * (PeerLane::kHead + PeerLane::kArea);
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
const std::string kNumber = "00112233445566778899aabbccddeeff";

std::string offer_of(int fd, const std::string& number = kNumber) {
  return std::string(kNoOffer) + " " + std::to_string(::getpid()) + " " + std::to_string(fd) + " " +
         number;
}

Descriptor memory_of(off_t size, int seals, const std::string& name = "millrace-peer-" + kNumber) {
  Descriptor memory(::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(::ftruncate(memory.get(), size), 0);
  EXPECT_EQ(::fcntl(memory.get(), F_ADD_SEALS, seals), 0);
  return memory;
}

TEST(PeerMemoryTest, AnOfferLeadsToTheSameMemory) {
  const OfferedMemory offered = offer_memory();
  ASSERT_GE(offered.memory.get(), 0);
  ASSERT_LE(offered.frame.size(), kAuthFrame);
  const Descriptor opened = accept_memory(offered.frame);
  ASSERT_GE(opened.get(), 0);
  PeerLane here;
  PeerLane there;
  ASSERT_TRUE(here.map(offered.memory, 1));
  ASSERT_TRUE(there.map(opened, 1));
  EXPECT_FALSE(here.is_open());
  there.open();
  EXPECT_TRUE(here.is_open());
  *here.at(70) = std::byte{5};
  EXPECT_EQ(*there.at(70 + PeerLane::kArea), std::byte{5});
  EXPECT_NE(::ftruncate(opened.get(), 0), 0);
}

TEST(PeerMemoryTest, RoomIsWhatTheReceiverHasTaken) {
  const OfferedMemory offered = offer_memory();
  PeerLane lane;
  ASSERT_TRUE(lane.map(offered.memory, 0));
  EXPECT_EQ(lane.room(0), PeerLane::kArea);
  EXPECT_EQ(lane.room(100), PeerLane::kArea - 100);
  lane.take(100);
  EXPECT_EQ(lane.room(PeerLane::kArea), 100U);
  // What no receiver says.
  for (const std::uint64_t taken : {std::uint64_t{1} << 63U, std::uint64_t{5000}}) {
    lane.take(taken);
    EXPECT_EQ(lane.room(4000), 0U) << taken;
  }
}

TEST(PeerMemoryTest, OnlyTheMemoryOfThatNumberIsOpened) {
  const Descriptor good = memory_of(kSize, kSeals);
  EXPECT_GE(accept_memory(offer_of(good.get())).get(), 0);
  const std::string other = "10112233445566778899aabbccddeeff";
  EXPECT_LT(accept_memory(offer_of(good.get(), other)).get(), 0);
  EXPECT_LT(accept_memory(offer_of(memory_of(kSize, F_SEAL_GROW).get())).get(), 0);
  EXPECT_LT(accept_memory(offer_of(memory_of(kSize, F_SEAL_SHRINK | F_SEAL_GROW).get())).get(), 0);
  EXPECT_LT(accept_memory(offer_of(memory_of(kSize - 4096, kSeals).get())).get(), 0);
  EXPECT_LT(accept_memory(offer_of(memory_of(kSize + 4096, kSeals).get())).get(), 0);
  EXPECT_LT(accept_memory(offer_of(memory_of(kSize, kSeals, "else").get())).get(), 0);
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe(ends.data()), 0);
  const Descriptor in(ends[0]);
  const Descriptor out(ends[1]);
  EXPECT_LT(accept_memory(offer_of(in.get())).get(), 0);
  EXPECT_LT(accept_memory(offer_of(1 << 20)).get(), 0);
}

TEST(PeerMemoryTest, WhatIsNoOfferOffersNothing) {
  for (const std::string& frame :
       {std::string(), std::string(kNoOffer), std::string("#WELCOME#"), std::string(256, '#'),
        std::string(kNoOffer) + " 1", std::string(kNoOffer) + " -1 -1 " + kNumber,
        std::string(kNoOffer) + std::string(200, '9'), std::string(kNoOffer) + " 0 0 zz"}) {
    EXPECT_LT(accept_memory(frame).get(), 0) << frame;
  }
}

TEST(PeerMemoryTest, MemoryThatCannotBeMappedIsNone) {
  PeerLane lane;
  EXPECT_FALSE(lane.map(Descriptor(), 0));
  EXPECT_FALSE(lane.map(memory_of(kSize, kSeals | F_SEAL_WRITE), 0));
}

// A peer that has the key and this library's mark, and says what it likes afterwards.
class RudePeerTest : public testing::Test {
 protected:
  RudePeerTest() : listener_({.family = "AF_UNIX", .authkey = "key"}) {
    auto accepted =
        std::async(std::launch::async, [&] { return connection_.emplace(listener_.accept()); });
    socket_ = connect_to(listener_.address(), std::nullopt, {});
    Handshake handshake(std::move(socket_), AuthExchange::Side::connecting, key_,
                        Timeout::Clock::time_point::max());
    for (;;) {
      const auto state = handshake.advance();
      if (state == Handshake::State::done) break;
      EXPECT_TRUE(state == Handshake::State::reading || state == Handshake::State::writing);
      pollfd event{handshake.fd(), POLLIN, 0};
      ::poll(&event, 1, -1);
      handshake.look();
    }
    memory_ = handshake.release_memory();
    socket_ = handshake.release();
    accepted.get();
  }

  void say(std::initializer_list<std::uint32_t> words) const {
    std::string bytes;
    for (const std::uint32_t word : words) {
      for (const int shift : {24, 16, 8, 0}) bytes += static_cast<char>(word >> shift & 0xffU);
    }
    EXPECT_EQ(::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  int error_of_receiving() const {
    try {
      (void)connection_->recv_bytes();
    } catch (const std::system_error& error) {
      return error.code().value();
    }
    return 0;
  }

  static constexpr std::uint32_t kInPieces = 0xffff'fffe;
  static constexpr std::uint32_t kInSocket = 0x8000'0000;
  connection::Listener listener_;
  const AuthKey key_{"key", true};
  Descriptor socket_;
  Descriptor memory_;
  std::optional<Connection> connection_;
};

TEST_F(RudePeerTest, PiecesAreReadWhereTheyLie) {
  PeerLane lane;
  ASSERT_TRUE(lane.map(memory_, 0));
  std::memcpy(lane.at(0), "hello", 5);
  say({kInPieces, 0, 5, 3, 2});
  EXPECT_EQ(connection_->recv_bytes().view(), "hello");
  say({kInPieces, 0, 4, kInSocket | 4, 0x61626364});
  EXPECT_EQ(connection_->recv_bytes().view(), "abcd");
  say({kInPieces, 0, 0});
  EXPECT_EQ(connection_->recv_bytes().view(), "");
}

TEST_F(RudePeerTest, APieceOfNothingIsRefused) {
  say({kInPieces, 0, 5, 0});
  EXPECT_EQ(error_of_receiving(), EMSGSIZE);
  EXPECT_FALSE(connection_->readable());
}

TEST_F(RudePeerTest, APieceBeyondItsMessageIsRefused) {
  say({kInPieces, 0, 5, 6});
  EXPECT_EQ(error_of_receiving(), EMSGSIZE);
}

TEST_F(RudePeerTest, APieceBeyondTheAreaIsRefused) {
  constexpr auto kArea = static_cast<std::uint32_t>(PeerLane::kArea);
  say({kInPieces, 0, kArea - 1, kArea - 1});
  EXPECT_EQ(connection_->recv_bytes().size(), PeerLane::kArea - 1);
  say({kInPieces, 0, 5, 2});
  EXPECT_EQ(error_of_receiving(), EMSGSIZE);
}

TEST_F(RudePeerTest, AMessageBeyondMemoryIsRefused) {
  say({kInPieces, 0xffff'ffff, 0xffff'ffff, 5});
  EXPECT_EQ(error_of_receiving(), EMSGSIZE);
}

TEST_F(RudePeerTest, AnEndAmongThePiecesIsToldAsOne) {
  say({kInPieces, 0, 500, 5});
  socket_.reset();
  EXPECT_EQ(error_of_receiving(), EIO);
}

}  // namespace
}  // namespace millrace::runtime
