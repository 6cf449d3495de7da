// Handles and shared_array.
#include "shm/object.hpp"

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <millrace/arena.hpp>
#include <numeric>
#include <optional>
#include <thread>
#include <vector>

#include "shm/arena.hpp"
#include "shm/process_table.hpp"
#include "shm/reaper.hpp"
#include "shm/ref_table.hpp"
#include "tests/shm/in_child.hpp"

namespace millrace {
namespace {

using shm::Arena;
using test::in_child;
using test::start_child;
using test::wait_for;

class SharedArray : public ::testing::Test {
 protected:
  void SetUp() override {
    { const shared_array<int> warm(1); }
    before_ = Arena::instance().usage();
  }
  void TearDown() override {
    shm::reap_all_dead();
    EXPECT_EQ(blocks(), 0U);
    EXPECT_EQ(spans(), 0U);
  }
  // In use beyond what was at the start.
  [[nodiscard]] std::size_t blocks() const {
    return Arena::instance().usage().small_blocks - before_.small_blocks;
  }
  [[nodiscard]] std::size_t spans() const {
    const shm::ArenaUsage now = Arena::instance().usage();
    return (now.span_bytes - now.slab_bytes - before_.span_bytes + before_.slab_bytes) /
           shm::kSpanBytes;
  }

  shm::ArenaUsage before_;
};

TEST_F(SharedArray, IsZeroContiguousAndAligned) {
  for (const std::size_t n : {std::size_t{1}, std::size_t{10}, std::size_t{1000000}}) {
    shared_array<double> x(n);
    ASSERT_EQ(x.size(), n);
    EXPECT_EQ(x.size_bytes(), n * sizeof(double));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(x.data()) % 64, 0U);
    EXPECT_TRUE(std::all_of(x.begin(), x.end(), [](double v) { return v == 0; }));
    std::iota(x.begin(), x.end(), 1.0);
    EXPECT_EQ(x[n - 1], static_cast<double>(n));
    EXPECT_EQ(x.span().data(), x.data());
    EXPECT_EQ(x.span().size(), n);
  }
  const shared_array<double> again(1000000);  // on memory used before
  EXPECT_TRUE(std::all_of(again.begin(), again.end(), [](double v) { return v == 0; }));
}

TEST_F(SharedArray, AnObjectDropsWhatItRefersToWhenItIsFreed) {
  struct Pair {
    shm::ObjectRef first;
    shm::ObjectRef second;
  };
  const shm::ObjectRequest plain{64, 1, 0, {}};
  {
    shm::ObjectRef outer(shm::ObjectRequest{sizeof(Pair), 2, 0, {}, 2});
    auto* pair = static_cast<Pair*>(outer.payload());
    pair->first = shm::ObjectRef(plain);
    const shm::ObjectRef kept = pair->first;
    pair->second = kept;
    outer = shm::ObjectRef();
    EXPECT_EQ(blocks(), 2U) << "what is kept elsewhere stays: an object and its record";
  }
  EXPECT_EQ(blocks(), 0U);
}

TEST_F(SharedArray, HandleIsOnePointerAndConstLetsWrite) {
  static_assert(sizeof(shared_array<int>) == sizeof(void*));
  const shared_array<int> x(3);
  x[1] = 7;
  *x.begin() = 5;
  const shared_array<int> y = x;
  EXPECT_EQ(y[1], 7);
  EXPECT_EQ(x, y);
  EXPECT_NE(x, shared_array<int>(3));
}

TEST_F(SharedArray, MayHaveNoElements) {
  const shared_array<int> x(0);
  EXPECT_TRUE(x.empty());
  EXPECT_EQ(x.begin(), x.end());
  EXPECT_THROW((void)x.at(0), IndexError);
  const shared_array<int> none;
  EXPECT_EQ(none.size(), 0U);
  EXPECT_EQ(none.data(), nullptr);
  EXPECT_EQ(none, shared_array<int>());
}

TEST_F(SharedArray, AtCountsNegativeIndexesFromTheEnd) {
  const shared_array<int> x(4);
  std::iota(x.begin(), x.end(), 0);
  EXPECT_EQ(x.at(-1), 3);
  EXPECT_EQ(x.at(-4), 0);
  EXPECT_EQ(x.at(2), 2);
  EXPECT_THROW((void)x.at(4), IndexError);
  EXPECT_THROW((void)x.at(-5), IndexError);
}

TEST_F(SharedArray, TooLongNamesTheRequest) {
  try {
    const shared_array<double> x(SIZE_MAX / 8);
    ADD_FAILURE();
  } catch (const std::system_error& e) {
    EXPECT_EQ(e.code().value(), ENOMEM);
  }
  EXPECT_THROW(shared_array<double>(std::size_t{1} << 50U), std::system_error);
}

TEST_F(SharedArray, IsFreedWithItsLastHandle) {
  std::optional<shared_array<int>> x(std::in_place, 3000000);
  std::vector<shared_array<int>> copies(100, *x);
  EXPECT_EQ(spans(), 6U);
  x.reset();
  EXPECT_EQ(spans(), 6U);
  copies.resize(1);
  shared_array<int> moved = std::move(copies[0]);
  copies.clear();
  EXPECT_EQ(spans(), 6U);
  moved = shared_array<int>();
  EXPECT_EQ(spans(), 0U);
}

TEST_F(SharedArray, AssignmentDropsTheOldOne) {
  shared_array<int> a(2000000);
  shared_array<int> b(2000000);
  EXPECT_EQ(spans(), 8U);
  a = b;
  EXPECT_EQ(spans(), 4U);
  auto& same = a;
  a = same;
  a = std::move(same);
  EXPECT_EQ(a, b);
  b = shared_array<int>(5);
  EXPECT_EQ(spans(), 4U);
}

TEST_F(SharedArray, ManyArraysGrowTheTable) {
  std::vector<shared_array<int>> arrays;
  for (int i = 0; i < 5000; ++i) {
    arrays.emplace_back(4);
    arrays.back()[0] = i;
  }
  for (int i = 0; i < 5000; ++i) EXPECT_EQ(arrays[static_cast<std::size_t>(i)][0], i);
  EXPECT_EQ(in_child([&] { return arrays[4999][0] == 4999 ? 0 : 1; }), 0);
  shm::reap_all_dead();
  while (!arrays.empty()) {
    arrays.erase(arrays.begin() + static_cast<std::ptrdiff_t>(arrays.size() / 2));
  }
  EXPECT_LE(blocks(), 4U) << "levels of the table";
  before_ = Arena::instance().usage();
}

TEST_F(SharedArray, ChildKeepsWhatTheParentDrops) {
  int pipes[2][2];
  for (auto& p : pipes) ASSERT_EQ(::pipe(p), 0);
  std::optional<shared_array<int>> x(std::in_place, 2000000);
  (*x)[1999999] = 42;
  const pid_t child = start_child([&] {
    char byte = 0;
    if (::read(pipes[0][0], &byte, 1) != 1) return 1;
    const bool intact = (*x)[1999999] == 42;
    x.reset();
    if (::write(pipes[1][1], "x", 1) != 1) return 1;
    return intact ? 0 : 2;
  });
  x.reset();
  EXPECT_EQ(spans(), 4U) << "the child holds it";
  char byte = 'x';
  ASSERT_EQ(::write(pipes[0][1], &byte, 1), 1);
  ASSERT_EQ(::read(pipes[1][0], &byte, 1), 1);
  EXPECT_EQ(spans(), 0U) << "the child dropped it";
  EXPECT_EQ(wait_for(child), 0);
  for (auto& p : pipes) {
    ::close(p[0]);
    ::close(p[1]);
  }
}

TEST_F(SharedArray, ReaperDropsWhatAKilledProcessHeld) {
  std::optional<shared_array<int>> x(std::in_place, 2000000);
  const pid_t child = start_child([&] {
    const std::vector<shared_array<int>> copies(10, *x);
    const shared_array<int> own(2000000);
    ::raise(SIGKILL);
    return 0;
  });
  wait_for(child);
  x.reset();
  EXPECT_EQ(spans(), 8U);
  shm::reap_all_dead();
  EXPECT_EQ(spans(), 0U);
}

TEST_F(SharedArray, LaterForksReapEarlierChildren) {
  std::optional<shared_array<int>> x(std::in_place, 2000000);
  EXPECT_EQ(in_child([&] { return 0; }), 0);
  const shared_array<int> other(1);
  x.reset();
  EXPECT_EQ(spans(), 4U);
  EXPECT_EQ(in_child([&] { return 0; }), 0);
  EXPECT_EQ(spans(), 0U);
}

TEST_F(SharedArray, HandlesInSharedMemoryBelongToNobody) {
  using Handle = shared_array<int>;
  auto* place = static_cast<Handle*>(shm::allocate(3 * sizeof(Handle)));
  Arena::instance().give(place, shm::kNobody);
  EXPECT_EQ(in_child([&] {
              const Handle x(2000000);
              x[5] = 17;
              ::new (place) Handle(x);
              ::new (place + 1) Handle(*place);
              return 0;
            }),
            0);
  shm::reap_all_dead();
  EXPECT_EQ(spans(), 4U) << "its maker is dead";
  EXPECT_EQ((*place)[5], 17);
  EXPECT_EQ(in_child([&] {
              std::destroy_at(place + 1);
              const Handle mine(std::move(*place));
              std::destroy_at(place);
              return mine[5] == 17 ? 0 : 1;
            }),
            0);
  shm::reap_all_dead();
  EXPECT_EQ(spans(), 0U) << "moved out by a process that has ended";
  shm::deallocate(place);
}

TEST_F(SharedArray, TravelsInAMessage) {
  struct ArenaWriter : wire::Writer {
    explicit ArenaWriter(std::byte* at) { rebase(at, at, at + 64); }
  };
  auto* message = static_cast<std::byte*>(shm::allocate(64));
  Arena::instance().give(message, shm::kNobody);
  EXPECT_EQ(in_child([&] {
              const shared_array<int> x(2000000);
              x[7] = 8;
              ArenaWriter out(message);
              wire::Custom<shared_array<int>>::encode(out, x);
              return 0;
            }),
            0);
  shm::reap_all_dead();
  EXPECT_EQ(spans(), 4U) << "the message holds it";
  {
    wire::Reader twice(message, 8, wire::References::borrow);
    EXPECT_EQ(wire::Custom<shared_array<int>>::decode(twice)[7], 8);
    EXPECT_EQ(spans(), 4U);
    wire::Reader other(message, 8, wire::References::borrow);
    EXPECT_THROW((void)wire::Custom<shared_array<float>>::decode(other), Corrupt);
    wire::Reader in(message, 8);
    const auto x = wire::Custom<shared_array<int>>::decode(in);
    EXPECT_EQ(x[7], 8);
  }
  EXPECT_EQ(spans(), 0U);
  wire::Reader stale(message, 8);
  EXPECT_THROW((void)wire::Custom<shared_array<int>>::decode(stale), Corrupt);
  shm::deallocate(message);
}

TEST_F(SharedArray, MessageTakenBackDropsItsReference) {
  {
    wire::Writer out;
    const shared_array<int> x(2000000);
    wire::Custom<shared_array<int>>::encode(out, x);
    wire::Custom<shared_array<int>>::encode(out, shared_array<int>());
    out.revert(0);
  }
  EXPECT_EQ(spans(), 0U);
}

TEST_F(SharedArray, NoAddressArrivesThatIsNoObject) {
  const shared_array<int> x(100);
  const auto good = reinterpret_cast<std::uint64_t>(x.data());
  for (const std::uint64_t bad : {std::uint64_t{64}, good + 64, good + 4, good - 64,
                                  static_cast<std::uint64_t>(shm::kArenaBase), ~std::uint64_t{0}}) {
    EXPECT_THROW(shm::ObjectRef(bad, shm::object_type<int>(), false), Corrupt) << bad;
  }
  EXPECT_NO_THROW(shm::ObjectRef(good, shm::object_type<int>(), false));
}

TEST_F(SharedArray, OverwrittenPrefixIsNotFollowed) {
  EXPECT_EQ(in_child([] {
              const shared_array<int> x(100);
              std::memset(x.data() - 16, 0x5a, 64);
              try {
                const shared_array<int> y =
                    x;  // NOLINT(performance-unnecessary-copy-initialization)
              } catch (const Corrupt&) {
                return 7;
              }
              return 1;
            }),
            7);
}

TEST_F(SharedArray, ThreadsCopyAndDrop) {
  std::vector<shared_array<int>> arrays;
  for (int i = 0; i < 8; ++i) arrays.emplace_back(16);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = 0; i < 5000; ++i) {
        const shared_array<int> copy = arrays[(i + static_cast<std::size_t>(t)) % 8];
        const shared_array<int> fresh(4);
        EXPECT_EQ(copy.size(), 16U);
        EXPECT_EQ(fresh[0], 0);
        fresh[0] = 1;
      }
    });
  }
  for (auto& t : threads) t.join();
}

TEST_F(SharedArray, ProcessesPassArraysAroundWithoutLosingOne) {
  // Each array is made in one process, handed through a slot in shared memory and dropped in
  // another, while a third process only looks.
  using Handle = shared_array<int>;
  constexpr int kRounds = 3000;
  struct Slot {
    std::atomic<int> turn;
    alignas(Handle) std::byte handle[sizeof(Handle)];
  };
  auto* slot = ::new (shm::allocate(sizeof(Slot))) Slot{};
  auto* handle = reinterpret_cast<Handle*>(slot->handle);
  const pid_t maker = start_child([&] {
    for (int i = 0; i < kRounds; ++i) {
      while (slot->turn.load() != 2 * i) std::this_thread::yield();
      const Handle x(8);
      x[3] = i;
      ::new (handle) Handle(x);
      slot->turn.store(2 * i + 1);
    }
    return 0;
  });
  const pid_t taker = start_child([&] {
    for (int i = 0; i < kRounds; ++i) {
      while (slot->turn.load() != 2 * i + 1) std::this_thread::yield();
      const Handle x(std::move(*handle));
      std::destroy_at(handle);
      slot->turn.store(2 * i + 2);
      if (x[3] != i) return 1;
    }
    return 0;
  });
  EXPECT_EQ(wait_for(maker), 0);
  EXPECT_EQ(wait_for(taker), 0);
  shm::deallocate(slot);
}

TEST_F(SharedArray, NodeThatIsNotThereIsNamed) {
  try {
    const shared_array<int> x(10, {.placement = node(977)});
    ADD_FAILURE();
  } catch (const ValueError& e) {
    EXPECT_NE(std::string(e.what()).find("977"), std::string::npos) << e.what();
  }
}

TEST_F(SharedArray, EveryPlacementGivesUsableMemory) {
  for (const Placement& placement : {Placement(interleave), Placement(block), node(0)}) {
    for (const std::size_t n : {std::size_t{3}, std::size_t{3000}, std::size_t{3000000}}) {
      const shared_array<int> x(n, {.placement = placement});
      EXPECT_EQ(x[n - 1], 0);
      x[n - 1] = 1;
    }
  }
}

}  // namespace
}  // namespace millrace
