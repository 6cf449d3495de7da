// Value, Array and their raw kin (T01-T17).
// CPython: _TestValue, _TestArray, _TestSharedCTypes (test_copy here); more:
// ported_shared_test.cpp.
#include <algorithm>
#include <future>
#include <limits>
#include <millrace/millrace.hpp>
#include <ranges>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "shm/arena.hpp"
#include "tests/api/synchronize_support.hpp"

namespace mp = millrace;

namespace millrace::test {
namespace {

struct Foo {
  int x;
  double y;
  long long z;
};

static_assert(mp::Serializable<mp::Value<int>> && mp::Serializable<mp::Array<Foo>> &&
              mp::Serializable<mp::RawValue<Foo>> && mp::Serializable<mp::RawArray<char>>);
static_assert(sizeof(mp::Value<Foo>) == sizeof(void*) && sizeof(mp::Array<int>) == sizeof(void*));
static_assert(std::ranges::contiguous_range<mp::RawArray<int>>);

class SharedCTypes : public ProcessTest {};

TEST_F(SharedCTypes, ValueIsSeenByEveryProcessT01T08) {
  const mp::Value<int> number(7);
  const mp::Value<double> real(3.5);
  const mp::Value<Foo> foo({1, 2, 3});
  in_process([number, real, foo] {
    number.set(number.get() * 2);
    real.set(real.get() * 2);
    foo.update([](Foo& f) { f.x += 100; });
  });
  EXPECT_EQ(number.get(), 14);
  EXPECT_EQ(real.get(), 7.0);
  EXPECT_EQ(foo.get().x, 101);
  EXPECT_EQ(foo.get_obj().y, 2.0);
  EXPECT_EQ(mp::Value<long>().get(), 0);
}

TEST_F(SharedCTypes, ValueUsesTheLockItIsGivenT01T09) {
  const mp::Value<int> own(5);
  EXPECT_EQ(own.get_lock().repr(), "<RLock(None, 0)>");
  const mp::Lock lock;
  const mp::Value<int> with(5, {.lock = lock});
  EXPECT_TRUE(with.get_lock() == mp::AnyLock(lock));
  {
    const std::scoped_lock held(with);
    EXPECT_TRUE(lock.locked());
    with.get_obj() = 6;
  }
  EXPECT_FALSE(lock.locked());
  {
    const std::scoped_lock held(own.get_lock());
    own.set(own.get() + 1);  // an RLock: its holder may go on
  }
  own.acquire();
  EXPECT_FALSE(std::async(std::launch::async, [&] { return own.try_acquire(); }).get());
  own.release();
  EXPECT_EQ(own.get() + with.get(), 12);
}

TEST_F(SharedCTypes, UpdateIsOneStepT12) {
  const mp::Value<long> sum(0);
  const mp::Array<long> cells(1);
  std::vector<mp::Process> all;
  for (int i = 0; i < 3; ++i) {
    all.emplace_back([sum, cells] {
      for (int k = 0; k < 5000; ++k) {
        sum.update([](long& value) { ++value; });
        cells[0] += 1;
      }
    });
    all.back().start();
  }
  for (auto& p : all) p.join();
  EXPECT_EQ(sum.get(), 15000);
  EXPECT_EQ(cells[0], 15000);
}

TEST_F(SharedCTypes, WhoDiesWithTheLockIsReported) {
  const mp::Value<int> value(1);
  const pid_t dead = killed_after([value] {
    value.acquire();
    value.get_obj() = 2;
  });
  try {
    (void)value.get();
    ADD_FAILURE();
  } catch (const mp::AbandonedLock& e) {
    EXPECT_EQ(e.pid(), dead);
    value.get_obj() = 3;
  }
  EXPECT_EQ(value.get(), 3);
}

TEST_F(SharedCTypes, ArrayIsASequenceT02T13) {
  std::vector<int> plain{680, 626, 934, 821, 150, 233, 548, 982, 714, 831};
  const mp::Array<int> array(plain);
  EXPECT_EQ(array.size(), plain.size());
  EXPECT_EQ(array[3], plain[3]);
  EXPECT_EQ(array[-1], plain.back());
  EXPECT_THROW((void)array[10], mp::IndexError);
  EXPECT_THROW((void)array.at(-11), mp::IndexError);
  EXPECT_EQ(array.to_vector(), plain);
  EXPECT_EQ(array.slice(2, 7), (std::vector<int>(plain.begin() + 2, plain.begin() + 7)));
  EXPECT_EQ(array.slice(-2, 100), (std::vector<int>(plain.end() - 2, plain.end())));
  EXPECT_EQ(array.slice(7, 2), std::vector<int>());
  array.slice(4, 8, std::vector<int>{1, 2, 3, 4});
  std::copy_n(std::vector<int>{1, 2, 3, 4}.begin(), 4, plain.begin() + 4);
  EXPECT_THROW(array.slice(4, 8, std::vector<int>{1}), mp::ValueError);
  EXPECT_EQ(array.to_vector(), plain);
  in_process([array] {
    const std::span<int> all = array.get_obj();
    for (std::size_t i = 1; i < all.size(); ++i) all[i] += all[i - 1];
  });
  for (std::size_t i = 1; i < plain.size(); ++i) plain[i] += plain[i - 1];
  EXPECT_EQ(array.to_vector(), plain);
}

TEST_F(SharedCTypes, ElementsAreReadAndWrittenUnderTheLockT13) {
  const mp::Lock lock;
  const mp::Array<int> array({1, 2, 3}, {.lock = lock});
  array[0] = array[2];
  array[1] = 7;
  EXPECT_EQ(array.to_vector(), (std::vector<int>{3, 7, 3}));
  lock.acquire();
  auto writer = std::async(std::launch::async, [&] { array[0] = 9; });
  EXPECT_EQ(writer.wait_for(5ms), std::future_status::timeout);
  EXPECT_EQ(array.get_obj()[0], 3);
  lock.release();
  writer.get();
  EXPECT_EQ(array[0], 9);
}

TEST_F(SharedCTypes, ArraysAreMadeOfSizesListsAndRangesT02T04) {
  EXPECT_EQ(mp::Array<int>(10).to_vector(), std::vector<int>(10));
  EXPECT_EQ((mp::Array<int>{1, 2, 3}).to_vector(), (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(mp::Array<int>({4}).to_vector(), std::vector<int>{4});
  EXPECT_EQ(mp::Array<double>(std::views::iota(0, 3)).to_vector(), (std::vector<double>{0, 1, 2}));
  EXPECT_EQ(mp::Array<int>(0).size(), 0U);
  EXPECT_THROW(mp::Array<int>(-1), mp::ValueError);
  EXPECT_THROW(mp::RawArray<int>(-1), mp::ValueError);
  const mp::Array<int> a(3);
  const mp::Array<int> same(a);
  same[0] = 5;
  EXPECT_EQ(a[0], 5) << "a copy of the handle, not of the array";
  EXPECT_TRUE(a == same);
  const long long big = std::numeric_limits<int>::max() + 1LL;
  EXPECT_EQ(mp::Array<int>(std::vector<long long>{big})[0], std::numeric_limits<int>::min())
      << "C integers wrap";
}

TEST_F(SharedCTypes, MemoryThatWasUsedBeforeIsZeroT03T04) {
  for (int i = 0; i < 10; ++i) {
    const mp::RawArray<int> array(10);
    EXPECT_TRUE(std::ranges::all_of(array, [](int x) { return x == 0; }));
    std::ranges::fill(array, 7);
    const mp::RawValue<long> value;
    EXPECT_EQ(value.get(), 0);
    value.set(-1);
  }
}

TEST_F(SharedCTypes, CharactersAreTextT14T15) {
  const mp::Array<char> array("hello");
  EXPECT_EQ(array.size(), 5U);
  EXPECT_EQ(array.value(), "hello");
  array.value("abc");
  EXPECT_EQ(array.value(), "abc");
  EXPECT_EQ(array.raw(), std::string("abc\0o", 5));
  array.value("abcde");
  EXPECT_EQ(array.raw(), "abcde");
  EXPECT_THROW(array.value("abcdef"), mp::ValueError);
  EXPECT_EQ(mp::RawArray<char>("xy").value(), "xy");
  EXPECT_EQ(mp::Array<char>(4).value(), "");
}

TEST_F(SharedCTypes, CopyMakesANewObjectT05) {
  const mp::RawValue<Foo> foo({2, 5.0, 1LL << 33});
  const auto bar = mp::sharedctypes::copy(foo);
  foo.get_obj().x = 0;
  EXPECT_EQ(bar.get().x, 2);
  EXPECT_EQ(bar.get().z, 1LL << 33);
  const mp::RawArray<int> array{1, 2};
  const auto other = mp::sharedctypes::copy(array);
  array[0] = 9;
  EXPECT_EQ(other[0], 1);
}

TEST_F(SharedCTypes, SynchronizedAddsALockToTheSameMemoryT06) {
  const mp::RawValue<int> raw(7);
  const mp::Lock lock;
  const mp::Value<int> value = mp::sharedctypes::synchronized(raw, lock);
  value.set(8);
  EXPECT_EQ(raw.get(), 8);
  EXPECT_TRUE(value.get_lock() == mp::AnyLock(lock));
  const mp::RawArray<double> cells(2);
  const mp::Array<double> array = mp::sharedctypes::synchronized(cells);
  array[1] = 2.5;
  EXPECT_EQ(cells[1], 2.5);
  EXPECT_THROW(mp::sharedctypes::synchronized(value), mp::AssertionError);
}

TEST_F(SharedCTypes, AnArrayOfStructsT16) {
  const mp::Array<Foo> array({{1, 2, 3}, {4, 5, 6}});
  in_process([array] {
    const std::scoped_lock held(array);
    for (Foo& f : array.get_obj()) f.x *= 10;
  });
  EXPECT_EQ(static_cast<Foo>(array[1]).x, 40);
}

TEST_F(SharedCTypes, ReprsNameTheTypeT17) {
  EXPECT_EQ(mp::Value<int>(3).repr(), "<Synchronized wrapper for c_int(3)>");
  EXPECT_EQ(mp::Value<double>(2).repr(), "<Synchronized wrapper for c_double(2.0)>");
  EXPECT_EQ(mp::Value<char>('x').repr(), "<Synchronized wrapper for c_char(b'x')>");
  EXPECT_EQ(mp::RawValue<unsigned char>(200).repr(), "c_ubyte(200)");
  for (const auto& [value, text] : std::vector<std::pair<double, std::string>>{
           {100000, "100000.0"},
           {-1e15, "-1000000000000000.0"},
           {1e16, "1e+16"},
           {1e-4, "0.0001"},
           {1.5e-5, "1.5e-05"},
           {0.1, "0.1"},
           {-0.0, "-0.0"},
           {std::numeric_limits<double>::infinity(), "inf"}}) {
    EXPECT_EQ(mp::RawValue<double>(value).repr(), "c_double(" + text + ")");
  }
  EXPECT_EQ(mp::RawValue<wchar_t>(L'\u00e4').repr(), "c_wchar('\u00e4')");
  const mp::RawArray<long> raw(2);
  const std::string shown = raw.repr();
  EXPECT_EQ(shown.rfind("<multiprocessing.sharedctypes.c_long_Array_2 object at 0x", 0), 0U);
  EXPECT_EQ(mp::sharedctypes::synchronized(raw).repr(),
            "<SynchronizedArray wrapper for " + shown + ">");
  EXPECT_EQ(mp::Array<char>("abc").repr().rfind(
                "<SynchronizedString wrapper for <multiprocessing.sharedctypes.c_char_Array_3 ", 0),
            0U);
  std::ostringstream text;
  text << mp::Value<bool>(true);
  EXPECT_EQ(text.str(), "<Synchronized wrapper for c_bool(True)>");
}

TEST_F(SharedCTypes, TheyTravelAndServeAPool) {
  const mp::Array<int> array({1, 2, 3});
  const mp::RawArray<int> raw{4, 5, 6};
  mp::Pool pool(2);
  EXPECT_EQ(pool.apply([](const mp::Array<int>& mine) { return static_cast<int>(mine[2]); }, array),
            3);
  EXPECT_EQ(pool.map([](int x) { return 2 * x; }, raw), (std::vector<int>{8, 10, 12}));
  pool.parallel_for(3, [array](std::size_t i) { array[static_cast<std::ptrdiff_t>(i)] += 10; });
  EXPECT_EQ(array.to_vector(), (std::vector<int>{11, 12, 13}));
  pool.close();
  pool.join();
}

TEST_F(SharedCTypes, NothingIsLeftInTheArenaOnceAllHandlesAreGone) {
  const auto used = [] {
    mp::Process warm([] {});
    warm.start();
    warm.join();
    return shm::Arena::instance().usage().small_blocks;
  };
  (void)used();
  const std::size_t before = used();
  {
    const mp::Value<Foo> value({1, 2, 3});
    const mp::Array<int> array(100);
    const mp::Condition condition;
    const mp::Barrier barrier(
        2, [] {}, 1s);
    in_process([value, array, condition, barrier] { value.set({}); });
    EXPECT_GT(used(), before);
  }
  EXPECT_EQ(used(), before);
}

}  // namespace
}  // namespace millrace::test
