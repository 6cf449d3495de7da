#include "shm/arena.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <millrace/errors.hpp>
#include <random>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "shm/process_table.hpp"
#include "shm/reaper.hpp"
#include "tests/shm/in_child.hpp"

namespace millrace::shm {
namespace {

using test::in_child;

// Everything that was allocated in a test is free again after it, slabs excepted.
class ArenaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    arena_.deallocate(arena_.allocate(1));
    (void)self();
    before_ = arena_.usage();
  }
  void TearDown() override {
    reap_all_dead();
    const ArenaUsage after = arena_.usage();
    EXPECT_EQ(after.small_blocks, before_.small_blocks);
    EXPECT_EQ(after.refused_frees, before_.refused_frees + refused_);
    EXPECT_EQ(after.span_bytes - after.slab_bytes, before_.span_bytes - before_.slab_bytes);
  }

  Arena& arena_ = Arena::instance();
  ArenaUsage before_;
  std::uint64_t refused_ = 0;
};

TEST_F(ArenaTest, LiesAtItsAddressSealedAndClosedOnExec) {
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(arena_.base()), kArenaBase);
  constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  EXPECT_EQ(::fcntl(arena_.fd(), F_GET_SEALS) & kSeals, kSeals);
  EXPECT_EQ(::fcntl(arena_.fd(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  EXPECT_NE(::ftruncate(arena_.fd(), 4096), 0);
  EXPECT_EQ(errno, EPERM);
  EXPECT_TRUE(Arena::contains(arena_.base()));
  EXPECT_TRUE(Arena::contains(arena_.base() + arena_.size() - 1));
  EXPECT_FALSE(Arena::contains(arena_.base() + arena_.size()));
  EXPECT_FALSE(Arena::contains(arena_.base() - 1));
  EXPECT_FALSE(Arena::contains(nullptr));
  EXPECT_FALSE(Arena::contains(this));
}

TEST_F(ArenaTest, StaysOutOfCoreFiles) {
  std::ifstream maps("/proc/self/smaps");
  std::string line;
  bool inside = false;
  bool excluded = false;
  while (std::getline(maps, line)) {
    if (line.find("/memfd:millrace-arena") != std::string::npos) inside = true;
    if (inside && line.rfind("VmFlags:", 0) == 0) {
      excluded = line.find(" dd") != std::string::npos;
      break;
    }
  }
  EXPECT_TRUE(inside);
  EXPECT_TRUE(excluded) << line;
}

TEST_F(ArenaTest, BlocksOfEverySizeAreAlignedAndDisjoint) {
  std::vector<std::pair<std::byte*, std::size_t>> blocks;
  for (std::size_t bytes = 0; bytes <= 3 * kSpanBytes; bytes = bytes * 5 / 4 + 1) {
    auto* p = static_cast<std::byte*>(arena_.allocate(bytes));
    ASSERT_EQ(reinterpret_cast<std::uintptr_t>(p) % 64, 0U);
    if (bytes != 0) p[0] = p[bytes - 1] = std::byte{0xab};
    blocks.emplace_back(p, bytes);
  }
  std::sort(blocks.begin(), blocks.end());
  for (std::size_t i = 1; i < blocks.size(); ++i) {
    EXPECT_LE(blocks[i - 1].first + std::max<std::size_t>(blocks[i - 1].second, 1),
              blocks[i].first);
  }
  for (const auto& [p, bytes] : blocks) arena_.deallocate(p);
}

TEST_F(ArenaTest, ZeroedMemoryIsZeroEvenWhenUsedBefore) {
  for (const std::size_t bytes : {std::size_t{100}, std::size_t{30000}, 3 * kSpanBytes - 5}) {
    for (int round = 0; round < 3; ++round) {
      auto* p = static_cast<unsigned char*>(arena_.allocate_zeroed(bytes));
      EXPECT_TRUE(std::all_of(p, p + bytes, [](unsigned char c) { return c == 0; })) << bytes;
      std::memset(p, 0xff, bytes);
      arena_.deallocate(p);
    }
  }
}

TEST_F(ArenaTest, IgnoresAndCountsWhatIsNoLiveBlock) {
  int on_stack = 0;
  void* small = arena_.allocate(100);
  void* large = arena_.allocate(5 * kSpanBytes);
  arena_.deallocate(nullptr);
  arena_.deallocate(&on_stack);
  arena_.deallocate(static_cast<std::byte*>(small) + 8);
  arena_.deallocate(static_cast<std::byte*>(large) + kSpanBytes);
  arena_.deallocate(static_cast<std::byte*>(large) + 64);
  arena_.deallocate(arena_.base());
  arena_.deallocate(small);
  arena_.deallocate(small);
  arena_.deallocate(large);
  arena_.deallocate(large);
  refused_ = 7;
}

TEST_F(ArenaTest, NamesTheRequestWhenItIsFull) {
  for (const std::size_t bytes : {arena_.size(), SIZE_MAX, arena_.size() * 2}) {
    try {
      (void)arena_.allocate(bytes);
      ADD_FAILURE() << bytes;
    } catch (const std::system_error& e) {
      EXPECT_EQ(e.code().value(), ENOMEM);
      EXPECT_NE(std::string(e.what()).find("iB"), std::string::npos) << e.what();
    }
  }
}

TEST_F(ArenaTest, RefusesWhatMemoryCannotBack) {
  std::ifstream meminfo("/proc/meminfo");
  std::string name;
  std::size_t kib = 0;
  std::string unit;
  meminfo >> name >> kib >> unit;
  ASSERT_EQ(name, "MemTotal:");
  try {
    (void)arena_.allocate(kib * kKiB + kGiB);
    ADD_FAILURE() << "more than the machine has";
  } catch (const std::system_error& e) {
    EXPECT_EQ(e.code().value(), ENOMEM);
  }
}

TEST_F(ArenaTest, CountsWhatWasPromisedButIsNotTouched) {
  std::vector<void*> blocks;
  EXPECT_THROW(for (int i = 0; i < 2000; ++i) blocks.push_back(arena_.allocate(kGiB)),
               std::system_error);
  for (void* p : blocks) arena_.deallocate(p);
  EXPECT_NO_THROW(arena_.deallocate(arena_.allocate(kGiB)));
}

TEST_F(ArenaTest, ChildSeesWhatWasAllocatedAfterItsFork) {
  int go[2];
  ASSERT_EQ(::pipe(go), 0);
  const pid_t child = test::start_child([&] {
    const int* p = nullptr;
    if (::read(go[0], &p, sizeof p) != sizeof p) return 1;
    return *p;
  });
  int* p = static_cast<int*>(arena_.allocate(sizeof(int)));
  *p = 42;
  ASSERT_EQ(::write(go[1], &p, sizeof p), static_cast<ssize_t>(sizeof p));
  EXPECT_EQ(WEXITSTATUS(test::wait_for(child)), 42);
  arena_.deallocate(p);
  ::close(go[0]);
  ::close(go[1]);
}

TEST_F(ArenaTest, SweepFreesWhatADeadProcessOwnedAndNothingElse) {
  void* mine = arena_.allocate(100);
  void* slot = arena_.allocate(4 * sizeof(void*));
  auto** kept = static_cast<void**>(slot);
  EXPECT_EQ(in_child([&] {
              for (int i = 0; i < 1000; ++i)
                (void)arena_.allocate(static_cast<std::size_t>(i) * 40);
              for (int i = 0; i < 5; ++i) (void)arena_.allocate(3 * kSpanBytes);
              kept[0] = arena_.allocate(200);
              kept[1] = arena_.allocate(kSpanBytes);
              arena_.give(kept[0], kNobody);
              arena_.give(kept[1], kNobody);
              return 0;
            }),
            0);
  EXPECT_GT(arena_.usage().small_blocks, before_.small_blocks + 500);
  reap_all_dead();
  EXPECT_EQ(arena_.usage().small_blocks, before_.small_blocks + 3);
  arena_.deallocate(kept[0]);
  arena_.deallocate(kept[1]);
  arena_.deallocate(slot);
  arena_.deallocate(mine);
}

TEST_F(ArenaTest, GivesBackPagesBeyondWhatItRetains) {
  const auto touched = [&] {
    struct stat file {};
    EXPECT_EQ(::fstat(arena_.fd(), &file), 0);
    return static_cast<std::size_t>(file.st_blocks) * 512;
  };
  arena_.spans().set_retained_spans(0);
  arena_.deallocate(arena_.allocate(64 * kMiB));
  const std::size_t base = touched();
  void* p = arena_.allocate(64 * kMiB);
  std::memset(p, 1, 64 * kMiB);
  EXPECT_GE(touched(), base + 64 * kMiB);
  arena_.deallocate(p);
  EXPECT_LT(touched(), base + 4 * kMiB);
  arena_.spans().set_retained_spans(10000);
  p = arena_.allocate(64 * kMiB);
  std::memset(p, 1, 64 * kMiB);
  arena_.deallocate(p);
  EXPECT_GE(touched(), base + 60 * kMiB) << "recycled spans keep their pages";
  arena_.spans().set_retained_spans(0);
  arena_.deallocate(arena_.allocate(64 * kMiB));
}

TEST_F(ArenaTest, ThreadsAllocateAndFreeWithoutOverlap) {
  constexpr int kThreads = 4;
  constexpr int kRounds = MILLRACE_TEST_TSAN ? 3000 : 20000;
  std::vector<std::thread> threads;
  std::atomic<int> overlaps{0};
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<unsigned>(t));
      std::vector<std::pair<int*, int>> held;
      for (int i = 0; i < kRounds; ++i) {
        if (held.size() > 40 || (!held.empty() && random() % 2 == 0)) {
          const std::size_t k = random() % held.size();
          overlaps += *held[k].first != held[k].second;
          arena_.deallocate(held[k].first);
          held[k] = held.back();
          held.pop_back();
        } else {
          const std::size_t bytes =
              random() % 64 == 0 ? kSpanBytes * (1 + random() % 4) : 4 + random() % 4000;
          auto* p = static_cast<int*>(arena_.allocate(bytes));
          *p = t * 1000000 + i;
          held.emplace_back(p, *p);
        }
      }
      for (auto& [p, value] : held) {
        overlaps += *p != value;
        arena_.deallocate(p);
      }
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(overlaps, 0);
}

TEST_F(ArenaTest, ProcessesAllocateAndFreeWithoutOverlap) {
  std::vector<pid_t> children;
  for (int c = 0; c < 3; ++c) {
    children.push_back(test::start_child([&, c] {
      std::mt19937 random(static_cast<unsigned>(c));
      std::vector<std::pair<int*, int>> held;
      for (int i = 0; i < 20000; ++i) {
        const std::size_t bytes =
            random() % 64 == 0 ? kSpanBytes * (1 + random() % 4) : 4 + random() % 4000;
        auto* p = static_cast<int*>(arena_.allocate(bytes));
        *p = c * 1000000 + i;
        held.emplace_back(p, *p);
        if (held.size() > 40) {
          std::swap(held[random() % held.size()], held.back());
          if (*held.back().first != held.back().second) return 1;
          arena_.deallocate(held.back().first);
          held.pop_back();
        }
      }
      for (auto& [p, value] : held) {
        if (*p != value) return 1;
        arena_.deallocate(p);
      }
      return 0;
    }));
  }
  for (const pid_t child : children) EXPECT_EQ(test::wait_for(child), 0);
}

}  // namespace
}  // namespace millrace::shm
