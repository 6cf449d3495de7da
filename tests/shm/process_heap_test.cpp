// mp::shared_allocator and the heap behind it.
#include "shm/process_heap.hpp"

#include <gtest/gtest.h>
#include <signal.h>

#include <boost/container/flat_map.hpp>
#include <boost/container/vector.hpp>
#include <list>
#include <map>
#include <millrace/arena.hpp>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "shm/arena.hpp"
#include "shm/process_table.hpp"
#include "shm/reaper.hpp"
#include "tests/shm/in_child.hpp"

namespace millrace {
namespace {

using shm::Arena;
using test::in_child;

template <class T>
using Vector = std::vector<T, shared_allocator<T>>;
using String = std::basic_string<char, std::char_traits<char>, shared_allocator<char>>;

std::size_t spans_in_use() { return Arena::instance().used_bytes() / shm::kSpanBytes; }

TEST(SharedAllocator, ServesStandardAndBoostContainers) {
  Vector<int> vector;
  for (int i = 0; i < 100000; ++i) vector.push_back(i);
  EXPECT_EQ(vector[99999], 99999);
  EXPECT_TRUE(Arena::contains(vector.data()));
  std::map<int, String, std::less<>, shared_allocator<std::pair<const int, String>>> map;
  for (int i = 0; i < 1000; ++i) map[i] = String(static_cast<std::size_t>(i), 'x');
  EXPECT_EQ(map[999].size(), 999U);
  std::unordered_map<int, int, std::hash<int>, std::equal_to<>,
                     shared_allocator<std::pair<const int, int>>>
      hashed;
  std::list<int, shared_allocator<int>> list;
  boost::container::flat_map<int, int, std::less<>, shared_allocator<std::pair<int, int>>> flat;
  boost::container::vector<int, shared_allocator<int>> boosted;
  for (int i = 0; i < 1000; ++i) {
    hashed[i] = i;
    list.push_back(i);
    flat[i] = i;
    boosted.push_back(i);
  }
  EXPECT_EQ(hashed.at(500) + list.back() + flat.at(7) + boosted[8], 500 + 999 + 7 + 8);
  EXPECT_EQ(shared_allocator<int>(), shared_allocator<char>());
}

TEST(SharedAllocator, HonoursAlignment) {
  struct alignas(256) Wide {
    char c[256];
  };
  shared_allocator<Wide> wide;
  for (const std::size_t n : {std::size_t{1}, std::size_t{3}, std::size_t{10000}}) {
    Wide* p = wide.allocate(n);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(p) % 256, 0U);
    wide.deallocate(p, n);
  }
}

TEST(SharedAllocator, LargeBlocksGoBackAtOnce) {
  shared_allocator<char> bytes;
  bytes.deallocate(bytes.allocate(100), 100);
  const std::size_t before = spans_in_use();
  char* p = bytes.allocate(10 * shm::kMiB);
  EXPECT_EQ(spans_in_use(), before + 6);
  p[10 * shm::kMiB - 1] = 1;
  bytes.deallocate(p, 10 * shm::kMiB);
  EXPECT_EQ(spans_in_use(), before);
}

TEST(SharedAllocator, TooLargeNamesTheRequest) {
  shared_allocator<double> doubles;
  EXPECT_THROW((void)doubles.allocate(SIZE_MAX / 4), std::system_error);
  EXPECT_THROW((void)doubles.allocate(std::size_t{1} << 46U), std::system_error);
}

TEST(SharedAllocator, FreeingWhatIsNotItsIsRefused) {
  const auto before = Arena::instance().usage().refused_frees;
  int on_stack = 0;
  shm::heap_deallocate(nullptr);
  shm::heap_deallocate(&on_stack);
  EXPECT_EQ(Arena::instance().usage().refused_frees, before + 1);
}

TEST(SharedAllocator, BlocksFreedByOthersAreUsedAgain) {
  shared_allocator<char> bytes;
  std::vector<char*> blocks;
  std::vector<char*> fill;
  for (int i = 0; i < 1000; ++i) blocks.push_back(bytes.allocate(1000));
  const std::size_t before = spans_in_use();
  for (int round = 0; round < 20; ++round) {
    EXPECT_EQ(in_child([&] {
                for (char* p : blocks) bytes.deallocate(p, 1000);
                return 0;
              }),
              0);
    for (char*& p : blocks) p = bytes.allocate(1000);
  }
  EXPECT_LE(spans_in_use(), before + 1);
  for (char* p : blocks) bytes.deallocate(p, 1000);
}

// The first heap of a program and of a child bring slabs that stay.
void settle() {
  const auto use = [] {
    const Vector<int> v(1000, 7);
    return v.back() == 7 ? 0 : 1;
  };
  EXPECT_EQ(use(), 0);
  EXPECT_EQ(in_child(use), 0);
  shm::reap_all_dead();
}

TEST(SharedAllocator, ObjectsOutliveTheirMakerAndThenTheHeapGoes) {
  settle();
  struct Made {
    Vector<int>* vector;
    char* large;
  };
  auto* made = static_cast<Made*>(shm::allocate(sizeof(Made)));
  const std::size_t before = spans_in_use();
  EXPECT_EQ(in_child([&] {
              shared_allocator<Vector<int>> place;
              made->vector = ::new (place.allocate(1)) Vector<int>;
              for (int i = 0; i < 1000; ++i) made->vector->push_back(i);
              made->large = shared_allocator<char>().allocate(3 * shm::kMiB);
              made->large[17] = 'x';
              ::raise(SIGKILL);
              return 0;
            }),
            -SIGKILL);
  shm::reap_all_dead();
  EXPECT_EQ((*made->vector)[999], 999);
  EXPECT_EQ(made->large[17], 'x');
  EXPECT_EQ(spans_in_use(), before + 3);
  std::destroy_at(made->vector);
  shm::heap_deallocate(made->vector);
  EXPECT_EQ(spans_in_use(), before + 2) << "the frozen heap went with its last object";
  shm::heap_deallocate(made->large);
  EXPECT_EQ(spans_in_use(), before);
  shm::deallocate(made);
}

TEST(SharedAllocator, EmptyHeapOfADeadProcessIsFreedByItsReaper) {
  settle();
  const std::size_t before = spans_in_use();
  EXPECT_EQ(in_child([] {
              { const Vector<int> v(1000, 7); }
              return 0;
            }),
            0);
  EXPECT_EQ(spans_in_use(), before + 1);
  shm::reap_all_dead();
  EXPECT_EQ(spans_in_use(), before);
}

TEST(SharedAllocator, ThreadsShareTheHeapOfTheirProcess) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      for (int i = 0; i < 2000; ++i) {
        const Vector<int> v(static_cast<std::size_t>(i % 100), i);
        if (!v.empty()) {
          EXPECT_EQ(v.back(), i);
        }
      }
    });
  }
  for (auto& t : threads) t.join();
}

#if !MILLRACE_TEST_TSAN
TEST(SharedAllocator, ForkWhileAnotherThreadAllocates) {
  std::atomic<bool> stop{false};
  std::thread allocating([&] {
    while (!stop) const Vector<int> v(100, 1);
  });
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(in_child([] {
                const Vector<int> v(100, 2);
                const shared_array<int> x(10);
                return v[99] == 2 && x[0] == 0 ? 0 : 1;
              }),
              0);
  }
  stop = true;
  allocating.join();
  shm::reap_all_dead();
}
#endif

}  // namespace
}  // namespace millrace
