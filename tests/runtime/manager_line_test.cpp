// A manager's line, both ends in one process: what each step of one does to the other.
#include "runtime/managers/manager_line.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <cstring>
#include <millrace/errors.hpp>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "tests/leak_check.hpp"

namespace millrace::runtime {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
std::string text_of_bytes(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

class ManagerLineTest : public test::LeakCheck {
 protected:
  ManagerLine client_ = ManagerLine::make();
  ManagerLine server_ = ManagerLine::arrive(client_.depart());
  std::vector<std::byte> room_;
};

TEST_F(ManagerLineTest, NoLineTakesNothing) {
  ManagerLine none;
  none.watch();
  EXPECT_FALSE(none);
  EXPECT_FALSE(none.offer(bytes_of("request")));
  EXPECT_FALSE(none.look(true));
  EXPECT_FALSE(none.reclaim());
  EXPECT_FALSE(none.advised());
}

TEST_F(ManagerLineTest, WhoDoesNotWatchIsSentNothing) {
  EXPECT_FALSE(client_.offer(bytes_of("request")));
  EXPECT_FALSE(server_.look(true));
}

TEST_F(ManagerLineTest, AFrameReachesTheOneWhoWatches) {
  server_.watch();
  ASSERT_TRUE(client_.offer(bytes_of("request")));
  ASSERT_TRUE(server_.look(true));
  EXPECT_EQ(text_of_bytes(server_.frame()), "request");
  client_.watch();
  ASSERT_TRUE(server_.offer(bytes_of("reply")));
  ASSERT_TRUE(client_.look(false));
  ASSERT_TRUE(client_.take(room_));
  EXPECT_EQ(text_of_bytes(room_), "reply");
}

TEST_F(ManagerLineTest, WhoGaveUpWatchingIsSentNothing) {
  server_.watch();
  EXPECT_FALSE(server_.look(false));
  EXPECT_FALSE(client_.offer(bytes_of("request")));
}

TEST_F(ManagerLineTest, ALongFrameSendsTheReceiverToTheSocket) {
  const std::string fits(ManagerLine::kRoom, 'x');
  server_.watch();
  ASSERT_TRUE(client_.offer(bytes_of(fits)));
  ASSERT_TRUE(server_.look(false));
  EXPECT_EQ(text_of_bytes(server_.frame()), fits);
  server_.watch();
  EXPECT_FALSE(client_.offer(bytes_of(fits + 'x')));
  EXPECT_FALSE(server_.look(true));
}

TEST_F(ManagerLineTest, AReplyIsTakenOrReclaimed) {
  client_.watch();
  ASSERT_TRUE(server_.offer(bytes_of("reply")));
  ASSERT_TRUE(client_.look(true));
  EXPECT_TRUE(client_.take(room_));
  EXPECT_FALSE(server_.reclaim());

  client_.watch();
  ASSERT_TRUE(server_.offer(bytes_of("another")));
  EXPECT_TRUE(server_.reclaim());
  EXPECT_FALSE(client_.take(room_));
  EXPECT_FALSE(server_.reclaim());
}

TEST_F(ManagerLineTest, OfTakingAndReclaimingOneWins) {
  for (int round = 0; round < 100; ++round) {
    client_.watch();
    ASSERT_TRUE(server_.offer(bytes_of("reply")));
    std::atomic<bool> go{false};
    bool reclaimed = false;
    std::thread server([&] {
      while (!go.load()) std::this_thread::yield();
      reclaimed = server_.reclaim();
    });
    go.store(true);
    const bool taken = client_.look(false) && client_.take(room_);
    server.join();
    ASSERT_NE(taken, reclaimed) << "in round " << round;
  }
}

TEST_F(ManagerLineTest, CallsOfTwoThreadsGoThroughItOrRoundIt) {
  constexpr int kCalls = 300;
  std::atomic<int> round_it{0};  // requests that would go over the socket
  std::atomic<int> served{0};
  std::thread server([&] {
    for (int i = 0; i < kCalls; ++i) {
      int number = -1;
      server_.watch();
      if (server_.look(i % 2 == 0)) {
        EXPECT_EQ(server_.frame().size(), sizeof number);
        std::memcpy(&number, server_.frame().data(), sizeof number);
        EXPECT_EQ(number, i);
      } else {
        while (round_it.load() == 0) std::this_thread::yield();
        round_it.fetch_sub(1);
      }
      served.store(i + 1);
    }
  });
  for (int i = 0; i < kCalls; ++i) {
    if (!client_.offer({reinterpret_cast<const std::byte*>(&i), sizeof i})) round_it.fetch_add(1);
    while (served.load() != i + 1) std::this_thread::yield();
  }
  server.join();
  EXPECT_EQ(round_it.load(), 0);
}

TEST_F(ManagerLineTest, AdviceReachesTheClient) {
  EXPECT_FALSE(client_.advised());
  server_.advise(true);
  EXPECT_TRUE(client_.advised());
  server_.advise(false);
  EXPECT_FALSE(client_.advised());
}

TEST_F(ManagerLineTest, OnlyALineArrives) {
  const shm::ObjectRef other(shm::ObjectRequest{.bytes = 64, .type = shm::object_type<int>()});
  EXPECT_THROW(ManagerLine::arrive(reinterpret_cast<std::uint64_t>(other.payload())), Corrupt);
  const std::uint64_t departed = client_.depart();
  ManagerLine::drop(departed);
}

TEST_F(ManagerLineTest, EitherEndOutlivesTheOther) {
  server_.watch();
  ASSERT_TRUE(client_.offer(bytes_of("last words")));
  client_ = {};
  ASSERT_TRUE(server_.look(true));
  EXPECT_EQ(text_of_bytes(server_.frame()), "last words");
}

}  // namespace
}  // namespace millrace::runtime
