// What calls give back, and what they refuse, as Python's own types do. X05, X09, G13-G26.
#include <cmath>
#include <limits>
#include <millrace/managers.hpp>
#include <string>
#include <vector>

#include "tests/leak_check.hpp"

namespace millrace::test {
namespace {

using ManagerValues = LeakCheck;

class Counter {
 public:
  int next() { return ++count_; }

 private:
  int count_ = 0;
};

struct CounterProxy : BaseProxy {
  using BaseProxy::BaseProxy;
  [[nodiscard]] int next() const { return call<int>("next"); }
};

TEST_F(ManagerValues, AReceivedProxyIsOneOfTheProgramsOwnTypeX09) {
  SyncManager manager;
  manager.register_type<Counter>("Counter", {{"next", &Counter::next}});
  manager.start();
  const auto counter = manager.create("Counter");
  const Object list(manager.list({counter}));
  EXPECT_EQ(list.as<ListProxy>().at(0).as<CounterProxy>().next(), 1);
  EXPECT_EQ(Object(List{counter}).as<std::vector<CounterProxy>>().at(0).next(), 2);
  EXPECT_TRUE(list.as<BaseProxy>() == list.as<ListProxy>());
  EXPECT_THROW(static_cast<void>(list.as<CounterProxy>()), TypeError);
  EXPECT_THROW(static_cast<void>(list.as<DictProxy>()), TypeError);
  EXPECT_THROW(static_cast<void>(Object(counter).as<ListProxy>()), TypeError);
  EXPECT_THROW(static_cast<void>(Object(1).as<CounterProxy>()), TypeError);
}

// The container had the only reference; it lives until its receiver has one.
TEST_F(ManagerValues, AProxyThatIsTakenOutOfItsContainerIsUsableX05) {
  auto manager = Manager();
  for (int i = 0; i < 3; ++i) {
    const auto list = manager.list({manager.list({1})});
    EXPECT_EQ(list.pop().as<ListProxy>().at(0), 1);
    const auto dict = manager.dict({{"k", manager.list({2})}, {"l", manager.list({3})}});
    EXPECT_EQ(dict.popitem().second.as<ListProxy>().at(0), 3);
    EXPECT_EQ(dict.pop("k").as<ListProxy>().at(0), 2);
    const auto queue = manager.Queue();
    queue.put(manager.list({4}));
    EXPECT_EQ(queue.get().as<ListProxy>().at(0), 4);
    const auto outer = manager.list({Object(List{manager.list({5})})});
    EXPECT_EQ(outer.pop()[0].as<ListProxy>().at(0), 5);
  }
  EXPECT_EQ(manager.number_of_objects(), 0U);
}

TEST_F(ManagerValues, IndicesAreIntsG26) {
  auto manager = Manager();
  const auto list = manager.list({1, 2});
  EXPECT_THROW(list.call("__getitem__", 1.0), TypeError);
  EXPECT_THROW(list.call("__setitem__", "0", 1), TypeError);
  EXPECT_THROW(list.call("__mul__", 2.0), TypeError);
  EXPECT_THROW(list.call("insert", 1.0, 1), TypeError);
  EXPECT_EQ(list.call("__getitem__", true), Object(2));
  try {
    list.remove(3);
    FAIL();
  } catch (const ValueError& error) {
    EXPECT_STREQ(error.what(), "list.remove(x): x not in list");
  }
  try {
    list.call("__getitem__", "0");
    FAIL();
  } catch (const TypeError& error) {
    EXPECT_STREQ(error.what(), "list indices must be integers or slices, not str");
  }
}

TEST_F(ManagerValues, ArraysRefuseWhatDoesNotFitG24) {
  auto manager = Manager();
  const auto array = manager.Array('b', {1, 2});
  EXPECT_THROW(array[0] = 200, OverflowError);
  EXPECT_THROW(array[0] = -129, OverflowError);
  EXPECT_THROW(array[0] = 1.0, TypeError);
  EXPECT_THROW(array[0] = "x", TypeError);
  EXPECT_THROW(array.call("__getitem__", 0.0), TypeError);
  const auto unsigned_one = manager.Array('I', {0});
  EXPECT_THROW(unsigned_one[0] = -1, OverflowError);
  EXPECT_EQ(manager.Array('u', {"a", "b"}).str(), "array('u', 'ab')");
  const auto real = manager.Array('d', {1});
  EXPECT_THROW(real[0] = "x", TypeError);
  EXPECT_EQ(real[0].as<double>(), 1.0);
}

TEST_F(ManagerValues, TimeoutsThatAreNoneAreRefusedOrOverG13) {
  auto manager = Manager();
  const auto lock = manager.Lock();
  lock.acquire();
  EXPECT_THROW(lock.call("acquire", true, std::nan("")), ValueError);
  EXPECT_THROW(lock.call("acquire", true, std::numeric_limits<double>::infinity()), OverflowError);
  EXPECT_THROW(lock.call("acquire", true, 1e20), OverflowError);
  EXPECT_THROW(lock.call("acquire", true, -5), ValueError);
  lock.release();
  EXPECT_EQ(lock.call("acquire", true, -1), Object(true)) << "without limit";
  const auto semaphore = manager.Semaphore(0);
  EXPECT_EQ(semaphore.call("acquire", true, -1), Object(false)) << "at once, other than a Lock";
  const auto most = std::numeric_limits<std::int64_t>::max();
  semaphore.release();
  EXPECT_THROW(semaphore.call("release", most), OverflowError);
  EXPECT_TRUE(semaphore.try_acquire());
}

}  // namespace
}  // namespace millrace::test
