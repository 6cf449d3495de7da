// Proxies travel: as an argument, in a capture, bound, as a member, as an item and as a result, to
// a Process and to a Pool, under each start method; the object lives as long as any of that does.
// X05, X07, X09; **beyond** Python, whose object is gone when its sender has dropped it.
#include <unistd.h>

#include <chrono>
#include <millrace/arena.hpp>
#include <millrace/connection.hpp>
#include <millrace/managers.hpp>
#include <millrace/pool.hpp>
#include <millrace/queues.hpp>
#include <millrace/synchronize.hpp>
#include <millrace/thread_pool.hpp>
#include <mutex>
#include <numeric>
#include <optional>
#include <vector>

#include "tests/api/spawn_support.hpp"

namespace millrace::test {
namespace {

class ProxyTravel : public SpawnTest {};
INSTANTIATE_TEST_SUITE_P(Methods, ProxyTravel, ::testing::Values("fork", "spawn", "forkserver"),
                         method_name);

// Connections of those that have ended may still be on their way out of the server.
void expect_objects(const BaseManager& manager, std::size_t count) {
  for (int i = 0; i < 30'000 && manager.number_of_objects() > count; ++i) ::usleep(1000);
  EXPECT_EQ(manager.number_of_objects(), count);
}

template <class Proxy, class Use>
struct Holder {
  Proxy proxy;
  int unused = 0;
  void operator()() const { Use()(proxy); }
};

// Uses the proxy elsewhere in each way there is; `check(n)` says whether n uses have left a mark.
template <class Proxy, class Use, class Check>
void expect_travels(const Proxy& proxy, Use use, Check check) {
  EXPECT_EQ(run_spawned(use, proxy), 0);
  EXPECT_TRUE(check(1)) << "argument";
  EXPECT_EQ(run_spawned([proxy] { Use()(proxy); }), 0);
  EXPECT_TRUE(check(2)) << "capture";
  EXPECT_EQ(run_spawned(Holder<Proxy, Use>{proxy}), 0);
  EXPECT_TRUE(check(3)) << "member";
  Pool pool({.processes = 1, .context = &spawn()});
  pool.apply(use, proxy);
  EXPECT_TRUE(check(4)) << "argument of a task";
  pool.apply([proxy] { Use()(proxy); });
  EXPECT_TRUE(check(5)) << "capture of a task";
  pool.apply(partial(use, proxy));
  EXPECT_TRUE(check(6)) << "bound";
  pool.map([proxy](int) { Use()(proxy); }, std::vector<int>{1});
  EXPECT_TRUE(check(7)) << "capture of a map";
  pool.map(use, std::vector<Proxy>{proxy});
  EXPECT_TRUE(check(8)) << "item of a map";
  for (auto&& each : pool.imap([proxy, use](int) { use(proxy); }, {1})) static_cast<void>(each);
  EXPECT_TRUE(check(9)) << "capture of an imap";
  pool.close();
  pool.join();
  ThreadPool threads(1);
  threads.apply([proxy] { Use()(proxy); });
  EXPECT_TRUE(check(10)) << "capture in threads";
}

struct Adder {
  int sum = 0;
  int add(int n) { return sum += n; }
};
struct AdderProxy : BaseProxy {
  using BaseProxy::BaseProxy;
  int add(int n) const { return call<int>("add", n); }
};

TEST_P(ProxyTravel, ContainersX05) {
  auto manager = Manager();
  {
    const auto list = manager.list();
    expect_travels(
        list, [](const ListProxy& l) { l.append(1); },
        [&](std::size_t n) { return list.size() == n; });
    const auto dict = manager.dict({{"n", 0}});
    expect_travels(
        dict, [](const DictProxy& d) { d["n"] = d.at("n").as<int>() + 1; },
        [&](int n) { return dict.at("n") == n; });
    const auto set = manager.set(std::vector<int>{});
    expect_travels(
        set, [](const SetProxy& s) { s.add(static_cast<int>(s.size())); },
        [&](std::size_t n) { return set.size() == n; });
  }
  expect_objects(manager, 0);
}

TEST_P(ProxyTravel, ValuesX05) {
  auto manager = Manager();
  const auto space = manager.Namespace({{"n", 0}});
  expect_travels(
      space, [](const NamespaceProxy& s) { s["n"] = s["n"].as<int>() + 1; },
      [&](int n) { return space["n"].as<int>() == n; });
  const auto value = manager.Value('i', 0);
  expect_travels(
      value, [](const ValueProxy& v) { v.set(v.get<int>() + 1); },
      [&](int n) { return value.get<int>() == n; });
  const auto array = manager.Array('i', std::vector<int>{0});
  expect_travels(
      array, [](const ArrayProxy& a) { a[0] = a[0].as<int>() + 1; },
      [&](int n) { return array[0].as<int>() == n; });
}

TEST_P(ProxyTravel, QueuesX05) {
  auto manager = Manager();
  const auto queue = manager.Queue();
  expect_travels(
      queue, [](const QueueProxy& q) { q.put(1); },
      [&](std::size_t n) { return queue.qsize() == n; });
}

TEST_P(ProxyTravel, LocksX05) {
  auto manager = Manager();
  const auto lock = manager.Lock();
  lock.acquire();
  expect_travels(
      lock, [](const AcquirerProxy& l) { l.release(); }, [&](int) { return lock.try_acquire(); });
  const auto semaphore = manager.Semaphore(0);
  expect_travels(
      semaphore, [](const AcquirerProxy& s) { s.release(); },
      [&](int) { return semaphore.try_acquire(); });
}

TEST_P(ProxyTravel, ConditionsX05) {
  auto manager = Manager();
  const auto condition = manager.Condition();
  const auto woken = manager.Semaphore(0);
  // Whoever notifies has the lock: the waiter waits by then.
  auto waiter = spawn().Process([condition, woken] {
    condition.acquire();
    woken.release();
    for (int i = 0; i < 10; ++i) {
      condition.wait();
      woken.release();
    }
    condition.release();
  });
  waiter.start();
  woken.acquire();
  expect_travels(
      condition,
      [](const ConditionProxy& c) {
        c.acquire();
        c.notify();
        c.release();
      },
      [&](int) { return woken.acquire(std::chrono::seconds(60)); });
  waiter.join();
  EXPECT_EQ(waiter.exitcode(), 0);
}

TEST_P(ProxyTravel, EventsAndBarriersX05) {
  auto manager = Manager();
  const auto event = manager.Event();
  expect_travels(
      event, [](const EventProxy& e) { e.set(); },
      [&](int) { return event.is_set() && (event.clear(), true); });
  const auto passed = manager.Semaphore(0);
  const auto barrier = manager.Barrier(1, [passed] { passed.release(); });
  expect_travels(
      barrier, [](const BarrierProxy& b) { b.wait(); }, [&](int) { return passed.try_acquire(); });
  EXPECT_FALSE(passed.try_acquire());
}

TEST_P(ProxyTravel, ProxiesOfTheUsersOwnX09) {
  BaseManager manager;
  manager.register_type<Adder>("Adder", {{"add", &Adder::add}});
  manager.start();
  const auto adder = manager.create<AdderProxy>("Adder");
  expect_travels(
      adder, [](const AdderProxy& a) { a.add(1); }, [&](int n) { return adder.add(0) == n; });
  const auto untyped = manager.create("Adder");
  expect_travels(
      untyped, [](const BaseProxy& a) { a.call("add", 1); },
      [&](int n) { return untyped.call<int>("add", 0) == n; });
}

// An Object's inside cannot be seen either: bound, it travels with the proxies that it holds.
TEST_P(ProxyTravel, ObjectsWithProxiesInside) {
  auto manager = Manager();
  const auto list = manager.list();
  const Object nested(List{1, list});
  const auto use = [](const Object& all) { all[1].as<ListProxy>().append(2); };
  Pool pool({.processes = 1, .context = &spawn()});
  pool.apply(partial(use, nested));
  pool.apply(use, nested);
  EXPECT_EQ(run_spawned(partial(use, nested)), 0);
  EXPECT_EQ(list.size(), 3U);
}

// The callables of tasks that wait keep what they have captured when the caller has dropped it.
TEST_P(ProxyTravel, TasksKeepWhatTheyCapturedX07) {
  auto manager = Manager();
  auto go = manager.Event();
  {
    Pool pool({.processes = 1, .context = &spawn()});
    auto waiting = pool.apply_async([go] { go.wait(); });
    std::vector<AsyncResult<std::size_t>> results;
    for (int i = 0; i < 8; ++i) {
      const auto own = manager.list({i});
      results.push_back(pool.apply_async([own] {
        own.append(1);
        return own.size();
      }));
      results.push_back(pool.apply_async([](const ListProxy& list) { return list.size(); }, own));
    }
    auto mapped =
        pool.map_async([own = manager.dict()](int i) { own[i] = i; }, std::vector<int>{1, 2, 3});
    EXPECT_EQ(manager.number_of_objects(), 10U);
    go.set();
    for (auto& each : results) EXPECT_EQ(each.get(), 2U);
    mapped.get();
    waiting.get();
    pool.close();
    pool.join();
  }
  expect_objects(manager, 1);
}

TEST_P(ProxyTravel, ResultsKeepWhatTheirWorkerMadeX07) {
  SyncManager manager({.authkey = "k"});
  manager.start();
  {
    Pool pool({.processes = 2, .context = &spawn()});
    const auto make = [](const connection::Address& address, int i) {
      SyncManager client({.address = address, .authkey = "k"});
      client.connect();
      return client.list({i});
    };
    const std::vector<ListProxy> all =
        pool.map(partial(make, manager.address()), std::vector<int>{1, 2, 3});
    pool.close();
    pool.join();
    ASSERT_EQ(all.size(), 3U);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(all[static_cast<std::size_t>(i)].at(0), i + 1);
    expect_objects(manager, 3);
  }
  expect_objects(manager, 0);
}

// A worker that is killed in the middle of it: what its tasks had captured is given back.
TEST_P(ProxyTravel, KilledProcessesKeepNothingX07) {
  auto manager = Manager();
  {
    auto begun = manager.Semaphore(0);
    auto process = spawn().Process([begun, own = manager.list()] {
      own.append(1);
      begun.release();
      for (;;) ::pause();
    });
    process.start();
    begun.acquire();
    process.kill();
    process.join();
    Pool pool({.processes = 1, .context = &spawn()});
    auto result = pool.apply_async([begun, own = manager.list()] {
      begun.release();
      for (;;) ::pause();
    });
    begun.acquire();
    ::kill(pool.bindings().at(0).pid, SIGKILL);
    EXPECT_THROW(result.get(), WorkerLost);
    EXPECT_EQ(pool.apply([own = manager.list({7})] { return own.at(0).as<int>(); }), 7);
  }
  expect_objects(manager, 0);
}

TEST_P(ProxyTravel, ItemsAndMessagesKeepTheirObjectX07) {
  auto manager = Manager();
  {
    Queue<ListProxy> queue;
    queue.put(manager.list({1}));
    queue.put(manager.list({2}));
    EXPECT_EQ(manager.number_of_objects(), 2U);
    EXPECT_EQ(run_spawned([](const Queue<ListProxy>& q) { q.get().append(3); }, queue), 0);
    expect_objects(manager, 1);
    const ListProxy second = queue.get();
    EXPECT_EQ(second.at(0), 2);
    queue.put(second);  // never read
    auto [near, far] = Pipe();
    near.send(manager.dict({{"k", 1}}));
    EXPECT_EQ(far.recv<DictProxy>().at("k"), 1);
    Queue<> values;
    values.put(List{manager.list({5})});
    EXPECT_EQ(values.get()[0].as<ListProxy>().at(0), 5);
    near.send(manager.list());  // never read
    EXPECT_EQ(manager.number_of_objects(), 2U);
  }
  expect_objects(manager, 0);
}

TEST_P(ProxyTravel, SharedContainersHoldProxies) {
  auto manager = Manager();
  {
    std::vector<ListProxy, shared_allocator<ListProxy>> shared;
    for (int i = 0; i < 3; ++i) shared.push_back(manager.list({i}));
    EXPECT_EQ(manager.number_of_objects(), 3U);
    EXPECT_EQ(shared[2].at(0), 2);
    shared[0] = shared[1];
    EXPECT_EQ(shared[0], shared[1]);
    shared[1] = manager.list({9});
    const ListProxy taken = std::move(shared[2]);
    shared.clear();
    EXPECT_EQ(taken.at(0), 2);
    expect_objects(manager, 1);
  }
  expect_objects(manager, 0);
}

// A parcel says with which key its server is reached.
TEST_P(ProxyTravel, KeysOfTheirOwnGoWithProxies) {
  SyncManager started({.authkey = "a key of its own"});
  started.start();
  BaseManager manager({.address = started.address(), .authkey = "a key of its own"});
  manager.connect();
  const auto list = manager.create<ListProxy>("list");
  expect_travels(
      list, [](const ListProxy& l) { l.append(1); },
      [&](std::size_t n) { return list.size() == n; });
}

// The server has ended: the task says so, the pool goes on.
TEST_P(ProxyTravel, ProxiesOfAServerThatHasEndedFailTheirTask) {
  std::optional<SyncManager> manager(Manager());
  const auto list = manager->list();
  const auto other = manager->list();
  Pool pool({.processes = 1, .context = &spawn()});
  const auto use = [list] { list.append(1); };
  pool.apply(use);
  manager->shutdown();
  EXPECT_ANY_THROW(pool.apply(use));
  EXPECT_ANY_THROW(pool.apply([other] { other.append(1); }));
  EXPECT_EQ(pool.apply([] { return 3; }), 3);
}

}  // namespace
}  // namespace millrace::test
