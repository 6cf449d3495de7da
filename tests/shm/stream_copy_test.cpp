// Copies past the cache and of another cpu's lines: the bytes, their ends, and what a reader of
// another thread sees.
#include "shm/stream_copy.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <cstring>
#include <thread>
#include <vector>

namespace {

using millrace::shm::near_copy;
using millrace::shm::stream_copy;
using Copy = void (*)(void*, const void*, std::size_t) noexcept;

constexpr std::size_t kGuard = 128;

std::byte pattern(std::size_t i) { return static_cast<std::byte>(i * 31 + i / 251 + 1); }

class BlockCopy : public testing::TestWithParam<Copy> {};

TEST_P(BlockCopy, CopiesEveryByteAndNoneBesideForEveryAlignmentAndEnd) {
  std::vector<std::byte> from(8192 + kGuard);
  for (std::size_t i = 0; i < from.size(); ++i) from[i] = pattern(i);
  for (const std::size_t size : {0UL, 1UL, 63UL, 2047UL, 2048UL, 2049UL, 4096UL, 8191UL}) {
    for (std::size_t in = 0; in < 64; in += 7) {
      for (std::size_t out = 0; out < 64; out += 5) {
        std::vector<std::byte> to(size + 2 * kGuard, std::byte{0});
        GetParam()(to.data() + kGuard + out - 64, from.data() + in, size);
        const std::byte* at = to.data() + kGuard + out - 64;
        ASSERT_EQ(std::memcmp(at, from.data() + in, size), 0) << size << ' ' << in << ' ' << out;
        for (const std::byte* p = to.data(); p != at; ++p) ASSERT_EQ(*p, std::byte{0});
        for (const std::byte* p = at + size; p != to.data() + to.size(); ++p) {
          ASSERT_EQ(*p, std::byte{0});
        }
      }
    }
  }
}

// A release store after the copy is enough, though streaming stores obey no order by themselves.
TEST_P(BlockCopy, IsWholeForWhoeverSeesALaterReleaseStore) {
  constexpr std::size_t kSize = 64 * 1024;
  constexpr unsigned kRounds = 200;
  std::vector<std::byte> from(kSize);
  std::vector<std::byte> to(kSize);
  std::atomic<unsigned> written{0};
  std::atomic<unsigned> checked{0};
  unsigned torn = 0;
  std::thread reader([&] {
    for (unsigned round = 1; round <= kRounds; ++round) {
      while (written.load(std::memory_order_acquire) != round) std::this_thread::yield();
      for (const std::byte b : to) torn += b != static_cast<std::byte>(round) ? 1 : 0;
      checked.store(round, std::memory_order_release);
    }
  });
  for (unsigned round = 1; round <= kRounds; ++round) {
    std::memset(from.data(), static_cast<int>(round & 255), kSize);
    GetParam()(to.data(), from.data(), kSize);
    written.store(round, std::memory_order_release);
    while (checked.load(std::memory_order_acquire) != round) std::this_thread::yield();
  }
  reader.join();
  EXPECT_EQ(torn, 0U);
}

INSTANTIATE_TEST_SUITE_P(Both, BlockCopy, testing::Values(&stream_copy, &near_copy));

}  // namespace
