// CPython's tests of memory that processes share, over its three start methods: each case names its
// counterpart in _TestValue, _TestArray, _TestSharedCTypes, _TestSharedMemory and
// TestResourceTracker of Lib/test/_test_multiprocessing.py. More of them: sharedctypes_test.cpp,
// shared_memory_test.cpp and shareable_list_test.cpp.
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <millrace/millrace.hpp>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "tests/api/ported_support.hpp"
#include "tests/api/shared_memory_support.hpp"

namespace mp = millrace;

namespace millrace::test {
namespace {

class PortedShared : public SpawnTest {};
INSTANTIATE_TEST_SUITE_P(Methods, PortedShared, all_methods(), method_name);

// The types of codes_values, as Value or as RawValue.
template <template <class> class V>
struct Numbers {
  V<int> i{4343};
  V<double> d{3.625};
  V<short> h{static_cast<short>(-232)};
  V<std::int64_t> q{std::int64_t{1} << 33};
  V<char> c{'x'};
};

template <template <class> class V>
void set_all(const V<int>& i, const V<double>& d, const V<short>& h, const V<std::int64_t>& q,
             const V<char>& c) {
  i.set(24234);
  d.set(-4.25);
  h.set(234);
  q.set(std::int64_t{1} << 34);
  c.set('y');
}

template <template <class> class V>
void expect_numbers_set_by_a_child() {
  const Numbers<V> n;
  EXPECT_EQ(n.i.get(), 4343);
  EXPECT_EQ(n.d.get(), 3.625);
  EXPECT_EQ(n.h.get(), -232);
  EXPECT_EQ(n.q.get(), std::int64_t{1} << 33);
  EXPECT_EQ(n.c.get(), 'x');
  EXPECT_EQ(run_spawned(set_all<V>, n.i, n.d, n.h, n.q, n.c), 0);
  EXPECT_EQ(n.i.get(), 24234);
  EXPECT_EQ(n.d.get(), -4.25);
  EXPECT_EQ(n.h.get(), 234);
  EXPECT_EQ(n.q.get(), std::int64_t{1} << 34);
  EXPECT_EQ(n.c.get(), 'y');
}

TEST_P(PortedShared, ValuesAreSetByAChild) {  // _TestValue.test_value, test_rawvalue
  expect_numbers_set_by_a_child<mp::Value>();
  expect_numbers_set_by_a_child<mp::RawValue>();
}

// _TestValue.test_getobj_getlock; without a lock there is neither in the type
template <class V>
concept HasLock = requires(const V& v) {
  v.get_lock();
};
static_assert(HasLock<mp::Value<int>> && HasLock<mp::Array<int>>);
static_assert(!HasLock<mp::RawValue<int>> && !HasLock<mp::RawArray<int>>);

// _TestValue.test_getobj_getlock, _TestArray.test_getobj_getlock_obj
TEST_P(PortedShared, AGivenLockIsTheOneThatTheChildFinds) {
  const mp::Lock lock;
  const mp::Value<int> value(5, {.lock = lock});
  const mp::Array<int> array({0, 1, 2}, {.lock = lock});
  EXPECT_TRUE(value.get_lock() == mp::AnyLock(lock) && array.get_lock() == mp::AnyLock(lock));
  EXPECT_EQ(run_spawned(
                [](const mp::Value<int>& v, const mp::Array<int>& a, const mp::Lock& l) {
                  const std::scoped_lock held(l);
                  v.get_obj() += 1;
                  a.get_obj()[2] += 1;
                  if (v.get_lock() != mp::AnyLock(l) || a.try_acquire()) throw mp::SystemExit(1);
                },
                value, array, lock),
            0);
  EXPECT_EQ(value.get(), 6);
  EXPECT_EQ(array[2], 3);
}

template <class T, template <class> class A>
std::span<T> elements(const A<T>& seq) {
  if constexpr (HasLock<A<T>>) {
    return seq.get_obj();
  } else {
    return seq;
  }
}

template <class A>
void add_up(const A& seq) {
  const std::span<int> all = elements(seq);
  for (std::size_t i = 1; i < all.size(); ++i) all[i] += all[i - 1];
}

TEST_P(PortedShared, ArraysAreChangedByAChild) {  // _TestArray.test_array, test_rawarray
  const std::vector<int> plain{680, 626, 934, 821, 150, 233, 548, 982, 714, 831};
  const std::vector<int> sums{680, 1306, 2240, 3061, 3211, 3444, 3992, 4974, 5688, 6519};
  const mp::Array<int> array(plain);
  EXPECT_EQ(array.to_vector(), plain);
  EXPECT_EQ(run_spawned(add_up<mp::Array<int>>, array), 0);
  EXPECT_EQ(array.to_vector(), sums);
  const mp::RawArray<int> raw(plain);
  EXPECT_EQ(run_spawned(add_up<mp::RawArray<int>>, raw), 0);
  EXPECT_EQ(std::vector<int>(raw.begin(), raw.end()), sums);
}

TEST_P(PortedShared, ArraysOfASizeAreZeroInAChildToo) {  // _TestArray.test_array_from_size
  for (int round = 0; round < 3; ++round) {
    const mp::Array<int> array(10);
    EXPECT_EQ(run_spawned(
                  [](const mp::Array<int>& a) {
                    if (a.to_vector() != std::vector<int>(10)) throw mp::SystemExit(1);
                    for (int i = 0; i < 10; ++i) a[i] = i;
                  },
                  array),
              0);
    EXPECT_EQ(array.to_vector(), (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
  }
}

struct Foo {
  int x;
  double y;
};

template <template <class> class V, template <class> class A>
void double_all(const V<int>& x, const V<double>& y, const V<Foo>& foo, const A<double>& cells,
                const A<char>& text) {
  x.set(x.get() * 2);
  y.set(y.get() * 2);
  foo.get_obj().x *= 2;
  foo.get_obj().y *= 2;
  for (double& cell : elements(cells)) cell *= 2;
  text.value(std::string(text.value()) + std::string(text.value()));
}

template <template <class> class V, template <class> class A>
void expect_doubled_by_a_child() {
  const V<int> x(7);
  const V<double> y(1.0 / 3.0);
  const V<Foo> foo({3, 2.0});
  const A<double> cells({0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
  const A<char> text(20);
  text.value("hello");
  EXPECT_EQ(run_spawned(double_all<V, A>, x, y, foo, cells, text), 0);
  EXPECT_EQ(x.get(), 14);
  EXPECT_EQ(y.get(), 2.0 / 3.0);
  EXPECT_EQ(foo.get().x, 6);
  EXPECT_EQ(foo.get().y, 4.0);
  double expected = -2;
  for (const double cell : elements(cells)) EXPECT_EQ(cell, expected += 2);
  EXPECT_EQ(text.value(), "hellohello");
}

// _TestSharedCTypes.test_sharedctypes, test_synchronize; test_copy: sharedctypes_test.cpp
TEST_P(PortedShared, NumbersStructsAndTextAreDoubledByAChild) {
  expect_doubled_by_a_child<mp::RawValue, mp::RawArray>();
  expect_doubled_by_a_child<mp::Value, mp::Array>();
}

void write(const mp::SharedMemory& memory, const std::string& text) {
  std::memcpy(memory.buf().data(), text.data(), text.size());
  memory.close();
}

// _TestSharedMemory.test_shared_memory_across_processes
TEST_P(PortedShared, ASegmentIsWrittenByNameAndByHandle) {
  const mp::SharedMemory memory({.create = true, .size = 512});
  const auto text = [&] {
    return std::string(reinterpret_cast<const char*>(memory.buf().data()), 5);
  };
  EXPECT_EQ(
      run_spawned([](const std::string& name) { write(mp::SharedMemory({.name = name}), "howdy"); },
                  memory.name()),
      0);
  EXPECT_EQ(text(), "howdy");
  EXPECT_EQ(run_spawned(write, memory, "HELLO"), 0);
  EXPECT_EQ(text(), "HELLO");
  memory.unlink();
}

// _TestSharedMemory.test_shared_memory_pickle_unpickle, test_shared_memory_ShareableList_pickling:
// what comes back from another process is the same memory
TEST_P(PortedShared, ThereAndBackASegmentIsTheSame) {
  const mp::SharedMemory memory({.create = true, .size = 512});
  const mp::ShareableList list({0, 1, 2, 3, 4});
  mp::Pool pool({.processes = 1, .context = &spawn()});
  const auto other = pool.apply([](const mp::SharedMemory& m) { return m; }, memory);
  const auto other_list = pool.apply([](const mp::ShareableList& l) { return l; }, list);
  pool.close();
  pool.join();
  EXPECT_EQ(other.name(), memory.name());
  memory.buf()[3] = std::byte{7};
  EXPECT_EQ(other.buf()[3], std::byte{7});
  other.buf()[3] = std::byte{8};
  EXPECT_EQ(memory.buf()[3], std::byte{8});
  EXPECT_TRUE(other_list[-1] == 4);
  other_list[4] = "changed";
  EXPECT_TRUE(list[4] == "changed");
  list[3] = "newvalue";
  EXPECT_TRUE(other_list[3] == "newvalue");
  memory.unlink();
  list.shm().unlink();
}

// TestResourceTracker.test_resource_tracker_reused
TEST_P(PortedShared, AChildUsesItsParentsTracker) {
  mp::SharedMemory({.create = true, .size = 8}).unlink();
  const pid_t tracker = tracker_pid();
  ASSERT_GT(tracker, 0);
  EXPECT_EQ(run_spawned(
                [](pid_t before) {
                  mp::SharedMemory({.create = true, .size = 8}).unlink();
                  if (tracker_pid() != before) throw mp::SystemExit(1);
                },
                tracker),
            0);
  EXPECT_EQ(tracker_pid(), tracker);
}

// TestResourceTracker.test_too_long_name_resource
TEST_P(PortedShared, ANameThatIsTooLongIsRefused) {
  const std::string name(512, 'a');
  EXPECT_EQ(error_of([&] { mp::SharedMemory({.name = name, .create = true, .size = 8}); }, name),
            ENAMETOOLONG);
}

}  // namespace
}  // namespace millrace::test
