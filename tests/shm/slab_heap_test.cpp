#include "shm/slab_heap.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <thread>
#include <vector>

#include "shm/arena.hpp"
#include "shm/process_table.hpp"
#include "shm/reaper.hpp"
#include "shm/slab_geometry.hpp"
#include "tests/shm/in_child.hpp"

namespace millrace::shm {
namespace {

constexpr std::size_t kPeak = 64 * kMiB;
// What may stay of a peak: the slabs that are kept, and what was freed since the last two looks.
constexpr std::size_t kRest = 32 * kMiB;

class SlabHeapTest : public ::testing::Test {
 protected:
  void SetUp() override {
    arena_.deallocate(arena_.allocate(1));
    (void)self();
    blocks_ = arena_.usage().small_blocks;
    slab_rest_ms = 0;
  }
  void TearDown() override {
    reap_all_dead();
    EXPECT_EQ(arena_.usage().small_blocks, blocks_);
    slab_rest_ms = 1000;
  }

  // Bytes of the arena that have pages.
  [[nodiscard]] std::size_t touched() const {
    struct stat file {};
    EXPECT_EQ(::fstat(arena_.fd(), &file), 0);
    return static_cast<std::size_t>(file.st_blocks) * 512;
  }
  // Blocks of `bytes`, written to from end to end, `total` bytes in all.
  std::vector<void*> fill(std::size_t bytes, std::size_t total, int with) {
    std::vector<void*> blocks(total / bytes);
    for (void*& block : blocks) {
      block = arena_.allocate(bytes);
      std::memset(block, with, bytes);
    }
    return blocks;
  }
  void free_all(const std::vector<void*>& blocks) {
    for (void* block : blocks) arena_.deallocate(block);
  }

  Arena& arena_ = Arena::instance();
  std::size_t blocks_ = 0;
};

class SlabPeak : public SlabHeapTest, public ::testing::WithParamInterface<std::size_t> {};

TEST_P(SlabPeak, GoesBackToTheSystem) {
  const std::size_t base = touched();
  const auto blocks = fill(GetParam(), kPeak, 1);
  ASSERT_GE(touched(), kPeak);
  free_all(blocks);
  EXPECT_LT(touched(), base + kRest);
}

TEST_P(SlabPeak, KeepsItsPagesForTheNextOneThatComesSoon) {
  free_all(fill(GetParam(), kPeak, 1));
  free_all(fill(GetParam(), kPeak, 2));
  slab_rest_ms = 1U << 31U;
  const auto blocks = fill(GetParam(), kPeak, 3);
  const std::size_t full = touched();
  free_all(blocks);
  EXPECT_GE(touched() + 4 * kMiB, full);
}

TEST_P(SlabPeak, GoesBackAWhileLaterWhenTheProgramGoesOn) {
  slab_rest_ms = 20;
  const std::size_t base = touched();
  free_all(fill(GetParam(), kPeak, 1));
  while (touched() >= base + kRest) free_all(fill(4096, kMiB, 2));
}

TEST_P(SlabPeak, IsUsedAgain) {
  free_all(fill(GetParam(), kPeak, 1));
  const std::size_t slabs = arena_.usage().slab_bytes;
  const auto blocks = fill(GetParam(), kPeak, 2);
  EXPECT_EQ(arena_.usage().slab_bytes, slabs) << "slabs that gave their pages back have room";
  for (const void* block : blocks) {
    const auto* bytes = static_cast<const unsigned char*>(block);
    ASSERT_EQ(bytes[0], 2);
    ASSERT_EQ(bytes[GetParam() - 1], 2);
  }
  free_all(blocks);
}

TEST_P(SlabPeak, LeavesWhatLivesBetweenAlone) {
  auto blocks = fill(GetParam(), kPeak, 3);
  std::vector<void*> living;
  std::vector<void*> others;
  const std::size_t every = 4 * kMiB / GetParam();  // in every second slab
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    (i % every == 0 ? living : others).push_back(blocks[i]);
  }
  free_all(others);
  for (const void* block : living) {
    const auto* bytes = static_cast<const unsigned char*>(block);
    for (std::size_t i = 0; i < GetParam(); ++i) ASSERT_EQ(bytes[i], 3);
  }
  free_all(living);
}

INSTANTIATE_TEST_SUITE_P(Sizes, SlabPeak, ::testing::Values(64, 1024, 6144, 32768));

TEST_F(SlabHeapTest, ThreadsMayAllocateFromASlabThatGivesBack) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 6;
  constexpr std::size_t kBytes = 16384;
  std::atomic<int> damaged{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < kRounds; ++round) {
        const auto blocks = fill(kBytes, 24 * kMiB, t + 1);
        for (const void* block : blocks) {
          const auto* bytes = static_cast<const unsigned char*>(block);
          for (std::size_t i = 0; i < kBytes; i += 512) damaged += bytes[i] != t + 1;
        }
        free_all(blocks);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(damaged, 0);
}

#if !MILLRACE_TEST_TSAN
// Since when a slab is empty, as one process notes it, is what another reads.
TEST_F(SlabHeapTest, ProcessesAgreeOnTheTime) {
  constexpr int kProcesses = 8;
  slab_rest_ms = 1U << 30U;
  for (int i = 0; i < kProcesses; ++i) {
    const int code = test::in_child([&] {
      (void)self();
      free_all(fill(8192, kPeak, 1));
      free_all(fill(8192, kPeak, 1));
      return 0;
    });
    ASSERT_EQ(code, 0);
    const std::size_t full = touched();
    free_all(fill(64, 16 * kMiB, 1));
    EXPECT_GE(touched() + 4 * kMiB, full);
  }
}

TEST_F(SlabHeapTest, AProcessKilledWhileItGivesBackHoldsNothing) {
  constexpr int kKills = 20;
  for (int kill = 0; kill < kKills; ++kill) {
    int ready[2];
    ASSERT_EQ(::pipe(ready), 0);
    const pid_t child = ::fork();
    ASSERT_NE(child, -1);
    if (child == 0) {
      (void)self();
      for (bool first = true;; first = false) {
        free_all(fill(8192, 24 * kMiB, 1));
        if (first) (void)!::write(ready[1], "", 1);
      }
    }
    char byte = 0;
    EXPECT_EQ(::read(ready[0], &byte, 1), 1);
    ::usleep(
        static_cast<unsigned>(kill * 370));  // a different instant each time, nothing depends on it
    EXPECT_EQ(::kill(child, SIGKILL), 0);
    EXPECT_EQ(::waitpid(child, nullptr, 0), child);
    ::close(ready[0]);
    ::close(ready[1]);
    reap_all_dead();
    EXPECT_EQ(arena_.usage().small_blocks, blocks_);
  }
  free_all(fill(8192, kPeak, 2));
}
#endif

}  // namespace
}  // namespace millrace::shm
