// Managers' objects and their proxies: G01, G09, G13-G30, X01-X11. Python: _TestContainers,
// _TestMyManager, TestSyncManagerTypes.
#include <chrono>
#include <map>
#include <millrace/managers.hpp>
#include <millrace/queues.hpp>
#include <ranges>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/leak_check.hpp"

namespace millrace::test {
namespace {

using namespace std::chrono_literals;

struct Point {
  double x = 0;
  double y = 0;
};
struct MyError : std::runtime_error {
  using runtime_error::runtime_error;
};

class Maths {
 public:
  Maths() = default;
  explicit Maths(int base) : base_(base) {}
  int add(int a, int b) const { return base_ + a + b; }
  double mul(double a, double b) { return a * b; }
  void reset() noexcept { base_ = 0; }
  std::string name() const { return "maths"; }
  Point mirror(Point p) const { return {p.y, p.x}; }
  void fail(const std::string& text) const { throw MyError(text); }
  void fail_oddly() const { throw 7; }
  std::vector<int> table() const { return {1, 2, 3}; }

 private:
  int base_ = 0;
};

struct MathsProxy : BaseProxy {
  using BaseProxy::BaseProxy;
  int add(int a, int b) const { return call<int>("add", a, b); }
};

int square(int x) { return x * x; }

}  // namespace
}  // namespace millrace::test
MILLRACE_EXCEPTION(millrace::test::MyError);
namespace millrace::test {
namespace {

using ManagerTest = LeakCheck;

template <class T>
std::string printed(const T& value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

// G01, G25, G26: the documentation's first example.
TEST_F(ManagerTest, DictsAndListsAreSharedWithChildren) {
  auto manager = Manager();
  auto dict = manager.dict();
  auto list = manager.list(std::views::iota(0, 10));
  Process child([dict, list] {
    dict[1] = "1";
    dict["2"] = 2;
    dict[0.25] = None;
    list.reverse();
  });
  child.start();
  ASSERT_TRUE(child.join());
  EXPECT_EQ(child.exitcode(), 0);
  child.close();
  EXPECT_EQ(printed(dict), "{1: '1', '2': 2, 0.25: None}");
  EXPECT_EQ(printed(list), "[9, 8, 7, 6, 5, 4, 3, 2, 1, 0]");
}

// X03-X06
TEST_F(ManagerTest, ProxiesPrintNestAndCompareByIdentity) {
  auto manager = Manager();
  auto inner = manager.list({1, 2});
  auto outer = manager.list({inner, inner});
  EXPECT_TRUE(inner.repr().starts_with("<ListProxy object, typeid 'list' at 0x")) << inner.repr();
  EXPECT_EQ(inner.str(), "[1, 2]");
  EXPECT_TRUE(outer[0].as<ListProxy>() == inner);
  outer[0].as<ListProxy>().append("hello");
  EXPECT_EQ(inner.size(), 3U);
  EXPECT_FALSE(inner == manager.list({1, 2, "hello"}));
  EXPECT_EQ(inner.getvalue(), Object(List{1, 2, "hello"}));
  auto dicts = manager.list({manager.dict({{"a", 1}})});
  EXPECT_EQ(dicts[0].as<DictProxy>()["a"].as<int>(), 1) << "lives though its proxy is gone";
}

// X07
TEST_F(ManagerTest, TheLastProxyDropsTheObject) {
  auto manager = Manager();
  EXPECT_EQ(manager.number_of_objects(), 0U);
  {
    auto list = manager.list();
    auto copy = list;
    EXPECT_EQ(manager.number_of_objects(), 1U);
    EXPECT_NE(manager.debug_info().find(list.token().id), std::string::npos);
  }
  EXPECT_EQ(manager.number_of_objects(), 0U);
}

TEST_F(ManagerTest, AForkedChildHoldsItsOwnReferences) {
  auto manager = Manager();
  auto done = manager.Event();
  auto result = manager.Queue();
  Process child;
  {
    auto list = manager.list({1});
    child = Process([list, done, result] {
      done.wait();
      list.append(2);
      result.put(list.size());
    });
    child.start();
  }
  done.set();
  EXPECT_EQ(result.get<int>(), 2);
  ASSERT_TRUE(child.join());
  child.close();
}

TEST_F(ManagerTest, ContainersHaveTheirMethods) {
  auto manager = Manager();
  auto list = manager.list({3, 1, 2});
  list.sort();
  list.extend({4, "x"});
  list.insert(0, 9);
  list[1] = 7;
  list[-1] = list[0];
  EXPECT_EQ(list.getvalue(), Object(List{9, 7, 2, 3, 4, 9}));
  EXPECT_EQ(list.slice(1, 3), (List{7, 2}));
  list.slice(0, 1, {5, 6});
  EXPECT_EQ(list.pop(), Object(9));
  EXPECT_EQ(list.index(7), 2U);
  EXPECT_THROW(list.remove(100), ValueError);
  EXPECT_THROW(static_cast<void>(list[50].as<int>()), IndexError);
  EXPECT_EQ(list.reversed(), (List{4, 3, 2, 7, 6, 5}));
  EXPECT_EQ((list + Object(List{1})).size(), 7U);
  list *= 2;
  int count = 0;
  for (const Object& each : list) count += each.is<int>() ? 1 : 0;
  EXPECT_EQ(count, 12);

  auto dict = manager.dict({{"a", 1}, {"b", 2}});
  EXPECT_EQ(dict.get("z", 3).as<int>(), 3);
  EXPECT_THROW(static_cast<void>(dict["z"].as<int>()), KeyError);
  EXPECT_EQ(dict.keys(), (List{"a", "b"}));
  EXPECT_EQ(dict.items()[1].second, Object(2));
  auto iterator = dict.iter();
  EXPECT_EQ(iterator.next(), Object("a"));
  EXPECT_EQ(iterator.next(), Object("b"));
  EXPECT_FALSE(iterator.next().has_value());
  dict.erase("a");
  EXPECT_EQ(dict.popitem().first, Object("b"));

  auto set = manager.set({1, 2, 2});
  set.add(3);
  EXPECT_EQ(set.intersection(Object(Set{3, 4})), (Set{3}));

  auto space = manager.Namespace({{"x", 1}});
  space["y"] = "z";
  EXPECT_EQ(printed(space), "Namespace(x=1, y='z')");
  space.erase("x");
  EXPECT_THROW(static_cast<void>(space["x"].as<int>()), AttributeError);

  auto value = manager.Value('i', 3);
  value.set(4);
  EXPECT_EQ(value.get<int>(), 4);
  auto array = manager.Array('d', {1.0, 2.5});
  array[0] = 3;
  EXPECT_EQ(array[0].as<double>(), 3.0);
  EXPECT_EQ(array.getvalue(), Object(List{3.0, 2.5}));
}

// G13-G19
TEST_F(ManagerTest, LocksAreThreadings) {
  auto manager = Manager();
  auto lock = manager.Lock();
  EXPECT_THROW(lock.release(), std::runtime_error);
  {
    const std::scoped_lock guard(lock);
    std::thread([&] { EXPECT_FALSE(lock.try_acquire()); }).join();
    EXPECT_FALSE(lock.acquire(1ms));
  }
  auto rlock = manager.RLock();
  rlock.acquire();
  rlock.acquire();
  std::thread([&] { EXPECT_THROW(rlock.release(), std::runtime_error); }).join();
  auto bounded = manager.BoundedSemaphore(1);
  EXPECT_THROW(bounded.release(), ValueError);
  auto condition = manager.Condition(lock);
  EXPECT_THROW(condition.notify(), std::runtime_error);
  condition.acquire();
  EXPECT_FALSE(condition.wait(1ms));
  condition.release();
  auto barrier = manager.Barrier(
      2, [] {}, 60s);
  std::thread other([&] { barrier.wait(); });
  EXPECT_GE(barrier.wait(), 0);
  other.join();
  EXPECT_EQ(barrier.parties(), 2);
  EXPECT_TRUE(printed(barrier).starts_with("<threading.Barrier at 0x")) << printed(barrier);
  EXPECT_TRUE(printed(barrier).ends_with(": waiters=0/2>")) << printed(barrier);
  barrier.abort();
  EXPECT_TRUE(printed(barrier).ends_with(": broken>")) << printed(barrier);
  EXPECT_TRUE(printed(condition).ends_with(">, 0)>")) << printed(condition);
  EXPECT_THROW(static_cast<void>(manager.Semaphore(-1)), RemoteError);
}

// A blocked call keeps nobody waiting.
TEST_F(ManagerTest, ACallThatWaitsBlocksNoOther) {
  auto manager = Manager();
  auto queue = manager.Queue(1);
  std::thread getter([&] { EXPECT_EQ(queue.get<std::string>(), "x"); });
  auto list = manager.list();
  for (int i = 0; i < 100; ++i) list.append(i);
  EXPECT_EQ(list.size(), 100U);
  queue.put("x");
  getter.join();
  EXPECT_THROW(static_cast<void>(queue.get(1ms)), queue::Empty);
  queue.put(1);
  EXPECT_THROW(queue.put_nowait(2), queue::Full);
}

// G22
TEST_F(ManagerTest, APoolWorksInTheServer) {
  auto manager = Manager();
  auto pool = manager.Pool(2);
  EXPECT_EQ(pool.map(square, std::vector<int>{1, 2, 3}), (std::vector<int>{1, 4, 9}));
  EXPECT_EQ(pool.apply(square, 5), 25);
  const auto result = pool.apply_async(square, 6);
  EXPECT_EQ(result.get(), 36);
  EXPECT_TRUE(result.successful());
  auto results = pool.imap(square, std::vector<int>{7});
  EXPECT_EQ(results.next(), Object(49));
  EXPECT_FALSE(results.next().has_value());
  pool.close();
  pool.join();
}

// G09, X01, X10: a class of the user's.
TEST_F(ManagerTest, RegisteredClassesAreCalledThroughProxies) {
  BaseManager manager;
  manager.register_type<Maths>("Maths",
                               {{"add", &Maths::add},
                                {"mul", &Maths::mul},
                                {"reset", &Maths::reset},
                                {"name", &Maths::name},
                                {"mirror", &Maths::mirror},
                                {"fail", &Maths::fail},
                                {"fail_oddly", &Maths::fail_oddly},
                                {"table", &Maths::table},
                                {"twice", [](Maths& self, int x) { return self.add(x, x); }}},
                               {.method_to_typeid = {{"table", "Iterator"}}});
  manager.register_type<Maths, int>("Maths2", {{"add", &Maths::add}});
  manager.start();
  auto maths = manager.create("Maths");
  EXPECT_EQ(maths.call<int>("add", 4, 3), 7);
  EXPECT_EQ(maths.call("add", 4, 3), Object(7));
  EXPECT_EQ(maths.call<double>("mul", 4, 2.5), 10.0);
  EXPECT_EQ(maths.call<std::string>("name"), "maths");
  EXPECT_EQ(maths.call<int>("twice", 4), 8);
  EXPECT_EQ(maths.call<Point>("mirror", Point{1, 2}).x, 2.0) << "no value of Python's";
  maths.call<void>("reset");
  EXPECT_EQ(manager.create("Maths2", 5).call<int>("add", 1, 1), 7);
  EXPECT_EQ(manager.create<MathsProxy>("Maths").add(1, 2), 3);
  auto iterator = maths.call<IteratorProxy>("table");
  EXPECT_EQ(iterator.next(), Object(1));

  try {
    maths.call("add", 1);
    FAIL();
  } catch (const TypeError& error) {
    EXPECT_STREQ(error.what(), "Maths.add() takes 2 arguments (1 given)");
  }
  EXPECT_THROW(maths.call("add", "x", 1), TypeError);
  EXPECT_THROW(maths.call("secret"), RemoteError);
  try {
    maths.call("fail", "typed");
    FAIL();
  } catch (const MyError& error) {
    EXPECT_STREQ(error.what(), "typed");
    EXPECT_NE(remote_traceback(error).find("\n  at "), std::string::npos) << "the server's stack";
  }
  EXPECT_THROW(maths.call("fail_oddly"), RemoteError);
  EXPECT_THROW(static_cast<void>(manager.create("Nothing")), RemoteError);
  EXPECT_TRUE(maths.repr().starts_with("<AutoProxy[Maths] object, typeid 'Maths' at "));
}

// G09: a callable that gives one object to all.
TEST_F(ManagerTest, RegisteredCallablesGiveOneObjectForAll) {
  struct Counter {
    int count = 0;
    int next() { return ++count; }
  };
  BaseManager manager;
  manager.register_callable("counter", [one = std::make_shared<Counter>()] { return one; },
                            {{"next", &Counter::next}});
  manager.register_callable("numbers", [] { return List{1, 2, 3}; });
  const Queue<> shared;
  manager.register_callable("get_queue", [shared] { return shared; });
  manager.start();
  auto queue = manager.create<QueueProxy>("get_queue");
  EXPECT_TRUE(queue == manager.create<QueueProxy>("get_queue"));
  queue.put("from a proxy");
  EXPECT_EQ(shared.get().as<std::string>(), "from a proxy");
  shared.put(Object(7));
  EXPECT_EQ(queue.get<int>(), 7);
  EXPECT_THROW(static_cast<void>(queue.get(1ms)), queue::Empty);
  EXPECT_EQ(manager.number_of_objects(), 1U);
  queue = QueueProxy(nullptr);
  EXPECT_EQ(manager.create("counter").call<int>("next"), 1);
  auto first = manager.create("counter");
  auto second = manager.create("counter");
  EXPECT_EQ(first.call<int>("next"), 2);
  EXPECT_EQ(second.call<int>("next"), 3);
  EXPECT_TRUE(first == second);
  EXPECT_EQ(manager.number_of_objects(), 1U);
  EXPECT_EQ(manager.create("numbers").call<int>("pop"), 3);
}

}  // namespace
}  // namespace millrace::test
