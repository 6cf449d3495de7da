#include "shm/lane.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <millrace/errors.hpp>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "shm/arena.hpp"
#include "tests/shm/in_child.hpp"

namespace millrace::shm {
namespace {

struct LaneTest : ::testing::Test {
  Lane* lane = Lane::create(4096);
  ~LaneTest() override { Lane::destroy(lane); }
};

TEST_F(LaneTest, GivesAlignedRoomUntilItIsFull) {
  std::vector<void*> messages;
  while (void* m = lane->try_allocate(100)) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(m) % 16, 0U);
    std::memset(m, 0x11, 100);
    messages.push_back(m);
  }
  EXPECT_EQ(messages.size(), 4096U / 128);
  EXPECT_EQ(lane->messages_in_use(), messages.size());
  EXPECT_TRUE(Lane::release(messages[0]));
  EXPECT_NE(lane->try_allocate(100), nullptr);
  EXPECT_EQ(lane->try_allocate(100), nullptr);
}

TEST_F(LaneTest, RoomBehindALateReleaseIsNotReused) {
  std::vector<void*> messages;
  while (void* m = lane->try_allocate(40)) messages.push_back(m);
  for (std::size_t i = 1; i < messages.size(); ++i) EXPECT_TRUE(Lane::release(messages[i]));
  EXPECT_EQ(lane->try_allocate(40), nullptr);
  EXPECT_TRUE(Lane::release(messages[0]));
  EXPECT_NE(lane->try_allocate(lane->largest_message()), nullptr);
}

TEST_F(LaneTest, HoldsOneMessageAsLargeAsItself) {
  for (int i = 0; i < 5; ++i) {
    void* small = lane->try_allocate(1);
    ASSERT_NE(small, nullptr);
    EXPECT_EQ(lane->try_allocate(lane->largest_message()), nullptr);
    EXPECT_TRUE(Lane::release(small));
    void* m = lane->try_allocate(lane->largest_message());
    ASSERT_NE(m, nullptr);
    std::memset(m, 0xff, lane->largest_message());
    EXPECT_TRUE(Lane::release(m));
    EXPECT_EQ(lane->try_allocate(lane->largest_message() + 1), nullptr);
  }
}

TEST_F(LaneTest, ReleasesAMessageOnce) {
  void* m = lane->try_allocate(10);
  EXPECT_TRUE(Lane::release(m));
  EXPECT_FALSE(Lane::release(m));
  int on_stack[32] = {};
  EXPECT_FALSE(Lane::release(on_stack));
  EXPECT_FALSE(Lane::release(static_cast<std::byte*>(m) + 8));
  EXPECT_FALSE(Lane::release(static_cast<std::byte*>(m) + 64));
}

TEST_F(LaneTest, EmptyLaneStartsAtItsFirstUnitAgain) {
  void* first = lane->try_allocate(300);
  Lane::release(first);
  for (int i = 0; i < 100; ++i) {
    void* m = lane->try_allocate(300);
    EXPECT_EQ(m, first);
    Lane::release(m);
  }
}

TEST_F(LaneTest, OverwrittenLengthIsCorruptNotWild) {
  for (int i = 0; i < 3; ++i) ASSERT_NE(lane->try_allocate(100), nullptr);
  std::memset(reinterpret_cast<std::byte*>(lane) + sizeof(Lane), 0xee, 4096);
  void* m = lane->try_allocate(3000);
  while (m != nullptr && lane->try_allocate(1) != nullptr) {
  }
  auto* words = reinterpret_cast<std::uint32_t*>(reinterpret_cast<std::byte*>(lane) + sizeof(Lane));
  words[0] = 0x6e616c00;  // free, with the overwritten length
  EXPECT_THROW((void)lane->try_allocate(1), Corrupt);
}

TEST_F(LaneTest, RandomUseKeepsMessagesApart) {
  std::mt19937 random(3);
  std::deque<std::pair<unsigned char*, std::size_t>> held;
  std::size_t taken = 0;
  for (int i = 0; i < 100000; ++i) {
    const std::size_t bytes = random() % 700;
    auto* m = static_cast<unsigned char*>(lane->try_allocate(bytes));
    if (m != nullptr) {
      std::memset(m, static_cast<int>(bytes & 0xff), bytes);
      held.emplace_back(m, bytes);
      ++taken;
    }
    if (held.size() > 4 || m == nullptr) {
      ASSERT_FALSE(held.empty());
      std::swap(held.front(), held[random() % held.size()]);
      const auto [p, n] = held.front();
      for (std::size_t k = 0; k < n; ++k) ASSERT_EQ(p[k], n & 0xff);
      ASSERT_TRUE(Lane::release(p));
      held.pop_front();
    }
  }
  EXPECT_GT(taken, 50000U);
}

TEST_F(LaneTest, OthersReleaseOutOfOrderWhileTheOwnerAllocates) {
  constexpr int kMessages = MILLRACE_TEST_TSAN ? 20000 : 200000;
  std::atomic<std::uint64_t*> slots[4] = {};
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0};
  std::vector<std::thread> readers;
  for (int r = 0; r < 2; ++r) {
    readers.emplace_back([&, r] {
      for (unsigned k = 0;; ++k) {
        std::uint64_t* m = slots[(k + static_cast<unsigned>(r) * 3) % 4].exchange(nullptr);
        if (m == nullptr) {
          if (done.load()) break;
          std::this_thread::yield();
          continue;
        }
        wrong += m[0] != m[m[0] % 60];
        wrong += !Lane::release(m);
      }
    });
  }
  // Beside other work a yield can cost a time slice: a thousand messages at least, more while it
  // lasts.
  const auto enough = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  for (std::uint64_t i = 0; i < kMessages; ++i) {
    if (i % 1000 == 999 && std::chrono::steady_clock::now() > enough) break;
    void* m = nullptr;
    while ((m = lane->try_allocate(60 * 8)) == nullptr) std::this_thread::yield();
    auto* words = static_cast<std::uint64_t*>(m);
    for (int k = 0; k < 60; ++k) words[k] = i;
    for (std::uint64_t* expected = nullptr; !slots[i % 4].compare_exchange_weak(expected, words);
         expected = nullptr) {
      std::this_thread::yield();
    }
  }
  for (auto& slot : slots) {
    while (slot.load() != nullptr) std::this_thread::yield();
  }
  done = true;
  for (auto& t : readers) t.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(lane->messages_in_use(), 0U);
}

TEST_F(LaneTest, SweepReleasesWhatWasNotSent) {
  auto** sent = static_cast<void**>(allocate(2 * sizeof(void*)));
  EXPECT_EQ(test::in_child([&] {
              sent[0] = lane->try_allocate(100);
              (void)lane->try_allocate(10);
              sent[1] = lane->try_allocate(200);
              (void)lane->try_allocate(20);
              return 0;
            }),
            0);
  EXPECT_EQ(lane->messages_in_use(), 4U);
  lane->sweep([&](void* m) { return m == sent[0] || m == sent[1]; });
  EXPECT_EQ(lane->messages_in_use(), 2U);
  EXPECT_TRUE(Lane::release(sent[0]));
  EXPECT_TRUE(Lane::release(sent[1]));
  EXPECT_NE(lane->try_allocate(lane->largest_message()), nullptr);
  deallocate(sent);
}

}  // namespace
}  // namespace millrace::shm
