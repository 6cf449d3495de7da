// CPython's tests of managers: each case names its counterpart in _TestContainers, _TestMyManager,
// _TestRemoteManager, TestInitializers and TestSyncManagerTypes of
// Lib/test/_test_multiprocessing.py; the last over its three start methods. PORTED.md has them all.
#include <millrace/millrace.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tests/api/ported_support.hpp"

namespace mp = millrace;
using namespace std::chrono_literals;

namespace millrace::test {
namespace {

List range(int first, int last) {
  List all;
  for (; first < last; ++first) all.append(first);
  return all;
}

List whole(const ListProxy& list) { return list.slice(None, None); }

class PortedContainers : public WithManager {};

TEST_F(PortedContainers, ListsDoWhatListsDo) {  // _TestContainers.test_list
  const auto a = manager->list(range(0, 10));
  EXPECT_EQ(whole(a), range(0, 10));
  const auto b = manager->list();
  EXPECT_EQ(whole(b), List());
  b.extend(range(0, 5));
  EXPECT_EQ(b.at(2), Object(2));
  EXPECT_EQ(b.slice(2, 10), range(2, 5));
  b *= 2;
  EXPECT_EQ(whole(b), (List{0, 1, 2, 3, 4, 0, 1, 2, 3, 4}));
  EXPECT_EQ(b + Object(List{5, 6}), (List{0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(b.size(), 10U);
  EXPECT_EQ(whole(a), range(0, 10));
  const auto e = manager->list({a, b});
  EXPECT_EQ(whole(e.at(0).as<ListProxy>()), range(0, 10));
  EXPECT_EQ(whole(e.at(1).as<ListProxy>()), whole(b));
  const auto f = manager->list({a});
  a.append("hello");
  EXPECT_EQ(f.at(0).as<ListProxy>().at(-1), Object("hello"));
}

// _TestContainers.test_list_iter; here a loop goes over a copy, so that it cannot go astray
TEST_F(PortedContainers, ALoopOverAListIsOverACopy) {
  const auto a = manager->list(range(0, 10));
  List seen;
  for (const Object& each : a) {
    a[0] = 100;
    seen.append(each);
  }
  EXPECT_EQ(seen, range(0, 10));
  EXPECT_EQ((*a.begin()), Object(100));
}

TEST_F(PortedContainers, ListsOfListsAreShared) {  // _TestContainers.test_list_proxy_in_list
  {
    auto a = manager->list();
    for (int i = 0; i < 3; ++i) a.append(manager->list(range(0, 3)));
    for (const Object& inner : a) EXPECT_EQ(whole(inner.as<ListProxy>()), range(0, 3));
    a.at(0).as<ListProxy>()[-1] = 55;
    EXPECT_EQ(whole(a.at(0).as<ListProxy>()), (List{0, 1, 55}));
    EXPECT_EQ(whole(a.at(1).as<ListProxy>()), range(0, 3));
    EXPECT_EQ(a.at(1).as<ListProxy>().pop(), Object(2));
    EXPECT_EQ(a.at(1).as<ListProxy>().size(), 2U);
    EXPECT_EQ(a.at(2).as<ListProxy>().size(), 3U);
  }
  EXPECT_EQ(manager->number_of_objects(), 0U);
  const auto b = manager->list();
  b.append(b);
  EXPECT_EQ(b.at(0).as<ListProxy>().size(), 1U);
  b.clear();
}

TEST_F(PortedContainers, DictsDoWhatDictsDo) {  // _TestContainers.test_dict
  const auto d = manager->dict();
  Dict wanted;
  for (int i = 65; i < 70; ++i) {
    d[i] = std::string(1, static_cast<char>(i));
    wanted[i] = std::string(1, static_cast<char>(i));
  }
  EXPECT_EQ(d.copy(), wanted);
  EXPECT_EQ(d.keys(), range(65, 70));
  EXPECT_EQ(d.values(), (List{"A", "B", "C", "D", "E"}));
  const auto items = d.items();
  ASSERT_EQ(items.size(), 5U);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(items[static_cast<std::size_t>(i)].first, Object(65 + i));
  }
}

TEST_F(PortedContainers, AnIteratorSeesThatItsDictChanged) {  // _TestContainers.test_dict_iter
  const auto d = manager->dict({{65, "A"}, {66, "B"}});
  auto it = d.iter();
  EXPECT_EQ(it.next(), Object(65));
  EXPECT_EQ(it.next(), Object(66));
  EXPECT_FALSE(it.next().has_value());
  EXPECT_FALSE(it.next().has_value()) << "it stays exhausted";
  it = d.iter();
  d.clear();
  EXPECT_THROW((void)it.next(), std::runtime_error);
}

TEST_F(PortedContainers, DictsOfDictsAreShared) {  // _TestContainers.test_dict_proxy_nested
  auto pets = manager->dict({{"ferrets", 2}, {"hamsters", 4}});
  auto supplies = manager->dict({{"water", 10}, {"feed", 3}});
  const auto d = manager->dict({{"pets", pets}, {"supplies", supplies}});
  d.at("supplies").as<DictProxy>()["blankets"] = 5;
  EXPECT_EQ(supplies.at("blankets"), Object(5));
  supplies["water"] = 7;
  EXPECT_EQ(d.at("supplies").as<DictProxy>().at("water"), Object(7));
  pets = DictProxy(nullptr);
  supplies = DictProxy(nullptr);
  EXPECT_EQ(d.at("pets").as<DictProxy>().at("ferrets"), Object(2)) << "the dict keeps it";
  pets = d.at("pets").as<DictProxy>();
  supplies = d.at("supplies").as<DictProxy>();
  d.clear();
  EXPECT_EQ(d.size(), 0U);
  EXPECT_EQ(supplies.at("water"), Object(7)) << "the proxy keeps it";
  EXPECT_EQ(pets.at("hamsters"), Object(4));
  const auto l = manager->list({pets, supplies});
  l.at(0).as<DictProxy>()["marmots"] = 1;
  EXPECT_EQ(pets.at("marmots"), Object(1));
  const auto outer = manager->list({List{88, 99}, l});
  EXPECT_TRUE(outer.at(0).is<List>()) << "a list inside is none of the manager's";
  EXPECT_EQ(outer.at(-1).as<ListProxy>().at(-1).as<DictProxy>().at("feed"), Object(3));
}

TEST_F(PortedContainers, QueuesMayLieInContainers) {  // _TestContainers.test_nested_queue
  const auto a = manager->list();
  a.append(manager->Queue());
  a.at(0).as<QueueProxy>().put(123);
  EXPECT_EQ(a.at(0).as<QueueProxy>().get<int>(), 123);
  const auto b = manager->dict();
  b[0] = manager->Queue();
  b.at(0).as<QueueProxy>().put(456);
  EXPECT_EQ(b.at(0).as<QueueProxy>().get<int>(), 456);
}

TEST_F(PortedContainers, NamespacesHaveNames) {  // _TestContainers.test_namespace
  const auto n = manager->Namespace();
  n["name"] = "Bob";
  n["job"] = "Builder";
  n["_hidden"] = "hidden";
  EXPECT_EQ(n["name"].as<std::string>(), "Bob");
  n.erase("job");
  EXPECT_EQ(n.str(), "Namespace(name='Bob')");
  EXPECT_THROW((void)n["job"].as<std::string>(), AttributeError);
}

struct FooBar {
  [[nodiscard]] std::string f() const { return "f()"; }
  void g() const { throw ValueError("g()"); }
  [[nodiscard]] std::string h() const { return "_h()"; }
};

using PortedOwnManager = LeakCheck;

// _TestMyManager.test_mymanager and its _context, _context_prestarted: what is named when a type
// is registered can be called, and nothing else
TEST_F(PortedOwnManager, OnlyRegisteredMethodsAreExposed) {
  BaseManager mine;
  mine.register_type<FooBar>("Foo", {{"f", &FooBar::f}, {"g", &FooBar::g}});
  mine.register_type<FooBar>("Bar", {{"f", &FooBar::f}, {"_h", &FooBar::h}});
  mine.start();
  {
    const auto foo = mine.create("Foo");
    const auto bar = mine.create("Bar");
    EXPECT_EQ(foo.call<std::string>("f"), "f()");
    EXPECT_THROW(foo.call("g"), ValueError);
    EXPECT_THROW(foo.call("_h"), RemoteError);
    EXPECT_EQ(bar.call<std::string>("f"), "f()");
    EXPECT_EQ(bar.call<std::string>("_h"), "_h()");
    EXPECT_THROW(bar.call("g"), RemoteError);
  }
  mine.shutdown();
}

class PortedManagers : public SpawnTest {};
INSTANTIATE_TEST_SUITE_P(Methods, PortedManagers, all_methods(), method_name);

// _TestRemoteManager.test_remote; what cannot be sent is a TypeError of the compiler's
TEST_P(PortedManagers, ARemoteQueueKeepsEveryKindOfValue) {
  const List values{
      "hello world", None, true, 2.25, "hall\xc3\xa5 v\xc3\xa4rlden", Bytes("hall\xe5 v\xe4rlden")};
  SyncManager manager({.address = {"127.0.0.1", 0}, .authkey = "remote"});
  const Queue<> one;
  manager.register_callable("get_queue", [one] { return one; });
  manager.start();
  EXPECT_EQ(run_spawned(
                [](const connection::Address& address, const Object& all) {
                  SyncManager client({.address = address, .authkey = "remote"});
                  client.connect();
                  client.create<QueueProxy>("get_queue").put(all);
                },
                manager.address(), Object(values)),
            0);
  SyncManager other({.address = manager.address(), .authkey = "remote"});
  other.connect();
  EXPECT_EQ(other.create<QueueProxy>("get_queue").get(), Object(values));
}

void count_up(const NamespaceProxy& n) { n["test"] = n["test"].as<int>() + 1; }

// TestInitializers.test_manager_initializer, test_pool_initializer
TEST_P(PortedManagers, InitializersRunWhereTheyShould) {
  auto manager = Manager();
  const auto n = manager.Namespace({{"test", 0}});
  {
    SyncManager m;
    m.start(count_up, n);
    EXPECT_EQ(n["test"].as<int>(), 1);
    m.shutdown();
  }
  Pool pool({.processes = 1, .context = &spawn()}, count_up, n);
  pool.apply([] {});
  pool.close();
  pool.join();
  EXPECT_EQ(n["test"].as<int>(), 2);
}

TEST_P(PortedManagers, LocksServeChildren) {  // TestSyncManagerTypes.test_event to test_barrier
  auto manager = Manager();
  const auto event = manager.Event();
  event.set();
  EXPECT_EQ(run_spawned(
                [](const EventProxy& e) {
                  require(e.is_set() && e.wait());
                  e.clear();
                  require(!e.wait(1ms));
                },
                event),
            0);
  EXPECT_FALSE(event.is_set());
  const auto lock = manager.Lock();
  // Beyond Python, a child that ends with a manager's lock abandons it: this one gives it back.
  const auto use = [](const AcquirerProxy& l) {
    l.acquire();
    l.release();
  };
  EXPECT_EQ(run_spawned(use, lock), 0);
  EXPECT_THROW(lock.release(), std::runtime_error) << "already released";
  EXPECT_EQ(run_spawned(use, manager.RLock()), 0);
  EXPECT_EQ(run_spawned(use, manager.Semaphore()), 0);
  EXPECT_EQ(run_spawned(use, manager.BoundedSemaphore()), 0);
  EXPECT_EQ(run_spawned(
                [](const ConditionProxy& c) {
                  c.acquire();
                  c.release();
                },
                manager.Condition()),
            0);
  EXPECT_EQ(run_spawned(
                [](const BarrierProxy& b) {
                  require(b.parties() == 5);
                  b.reset();
                },
                manager.Barrier(5)),
            0);
}

// TestSyncManagerTypes.test_pool, test_queue, test_joinable_queue
TEST_P(PortedManagers, PoolsAndQueuesServeChildren) {
  auto manager = Manager();
  EXPECT_EQ(run_spawned(
                [](const PoolProxy& p) {
                  require(p.apply([](int x) { return x + 1; }, 1) == 2);
                  p.terminate();
                },
                manager.Pool(4)),
            0);
  for (const QueueProxy& queue : {manager.Queue(2), manager.JoinableQueue(2)}) {
    queue.put(5);
    queue.put(6);
    EXPECT_EQ(run_spawned(
                  [](const QueueProxy& q) {
                    require(q.qsize() == 2 && q.full() && !q.empty());
                    require(q.get<int>() == 5 && !q.empty());
                    require(q.get<int>() == 6 && q.empty());
                  },
                  queue),
              0);
    EXPECT_TRUE(queue.empty());
    EXPECT_FALSE(queue.full());
  }
}

TEST_P(PortedManagers, ContainersServeChildren) {  // TestSyncManagerTypes.test_list, test_dict
  auto manager = Manager();
  const auto list = manager.list({5});
  EXPECT_EQ(run_spawned(
                [](const ListProxy& l) {
                  require(l.at(0) == Object(5) && l.count(5) == 1 && l.index(5) == 0);
                  l.sort();
                  l.reverse();
                  for (const Object& each : l) require(each == Object(5));
                  require(l.size() == 1 && l.pop(0) == Object(5));
                },
                list),
            0);
  EXPECT_TRUE(list.empty());
  const auto dict = manager.dict({{"foo", 5}});
  EXPECT_EQ(run_spawned(
                [](const DictProxy& d) {
                  require(d.size() == 1 && d.at("foo") == Object(5) && d.get("foo") == Object(5));
                  require(d.items().size() == 1 && d.keys() == List{"foo"});
                  require(d.values() == List{5} && d.copy() == Dict{{"foo", 5}});
                  require(d.popitem().first == Object("foo"));
                },
                dict),
            0);
  EXPECT_TRUE(dict.empty());
}

// TestSyncManagerTypes.test_value, test_array, test_namespace
TEST_P(PortedManagers, ValuesServeChildren) {
  auto manager = Manager();
  const auto value = manager.Value('i', 1);
  EXPECT_EQ(run_spawned(
                [](const ValueProxy& v) {
                  require(v.get<int>() == 1);
                  v.set(2);
                },
                value),
            0);
  EXPECT_EQ(value.get<int>(), 2);
  EXPECT_EQ(run_spawned(
                [](const ArrayProxy& a) {
                  require(a.size() == 2 && a.slice(None, None) == List{0, 1});
                },
                manager.Array('i', std::vector<int>{0, 1})),
            0);
  EXPECT_EQ(
      run_spawned(
          [](const NamespaceProxy& n) { require(n["x"].as<int>() == 0 && n["y"].as<int>() == 1); },
          manager.Namespace({{"x", 0}, {"y", 1}})),
      0);
}

}  // namespace
}  // namespace millrace::test
