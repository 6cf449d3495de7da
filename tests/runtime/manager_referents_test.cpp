// Python's types in a manager's server: methods, results and errors. G13-G28, X11. Python:
// _TestContainers, WithManagerTestLock, ...Semaphore, ...Condition, ...Event, ...Barrier, ...Queue.
#include <atomic>
#include <functional>
#include <millrace/queues.hpp>

#include "runtime/managers/manager_objects.hpp"
#include "tests/runtime/manager_peer.hpp"

namespace millrace::test {
namespace {

using ManagerReferentsTest = ManagerCore;

Slice slice(Object first, Object last, Object step = {}) {
  return Slice(std::move(first), std::move(last), std::move(step));
}

// A call that waits, on a thread of its own.
class Waiting {
 public:
  explicit Waiting(std::function<void()> call) : thread_(std::move(call)) {}
  Waiting(const Waiting&) = delete;
  ~Waiting() { thread_.join(); }

 private:
  std::thread thread_;
};

TEST_F(ManagerReferentsTest, ListsDoWhatListsDo) {
  const std::string id = make("list", {Object(List{3, 1, 2})});
  auto peer = client();
  const auto shown = [&] { return peer->value(id, "__repr__").as<std::string>(); };
  peer->value(id, "sort");
  EXPECT_EQ(shown(), "[1, 2, 3]");
  peer->value(id, "sort", {}, {{"reverse", true}});
  EXPECT_EQ(shown(), "[3, 2, 1]");
  peer->value(id, "insert", {0, 9});
  peer->value(id, "extend", {Tuple{7, 8}});
  EXPECT_EQ(shown(), "[9, 3, 2, 1, 7, 8]");
  EXPECT_EQ(peer->value(id, "pop"), Object(8));
  EXPECT_EQ(peer->value(id, "pop", {0}), Object(9));
  EXPECT_EQ(peer->value(id, "index", {1}), Object(2));
  EXPECT_EQ(peer->error(id, "index", {1, 3}), "ValueError");
  EXPECT_EQ(peer->value(id, "count", {7}), Object(1));
  EXPECT_EQ(peer->value(id, "__contains__", {7}), Object(true));
  peer->value(id, "__setitem__", {-1, 5});
  peer->value(id, "__delitem__", {0});
  EXPECT_EQ(shown(), "[2, 1, 5]");
  EXPECT_EQ(peer->value(id, "__add__", {Object(List{4})}), Object(List{2, 1, 5, 4}));
  EXPECT_EQ(peer->value(id, "__mul__", {2}).size(), 6U);
  EXPECT_EQ(peer->value(id, "__rmul__", {0}).size(), 0U);
  peer->value(id, "__imul__", {2});
  EXPECT_EQ(shown(), "[2, 1, 5, 2, 1, 5]");
  peer->value(id, "reverse");
  peer->value(id, "remove", {5});
  EXPECT_EQ(shown(), "[1, 2, 5, 1, 2]");
}

TEST_F(ManagerReferentsTest, SlicesOfLists) {
  const std::string id = make("list", {Range(10)});
  auto peer = client();
  EXPECT_EQ(peer->value(id, "__getitem__", {slice(2, 8, 3)}), Object(List{2, 5}));
  EXPECT_EQ(peer->value(id, "__getitem__", {slice(None, None, -4)}), Object(List{9, 5, 1}));
  peer->value(id, "__setitem__", {slice(1, 3), Object("abc")});
  peer->value(id, "__delitem__", {slice(4, None)});
  EXPECT_EQ(peer->value(id, "__repr__"), Object("[0, 'a', 'b', 'c']"));
  peer->value(id, "__setitem__", {slice(None, None, 2), Object(Tuple{1, 2})});
  EXPECT_EQ(peer->value(id, "__repr__"), Object("[1, 'a', 2, 'c']"));
  EXPECT_EQ(peer->error(id, "__setitem__", {slice(None, None, 2), Object(Tuple{1})}), "ValueError");
  peer->value(id, "__delitem__", {slice(None, None, -2)});
  EXPECT_EQ(peer->value(id, "__repr__"), Object("[1, 2]"));
}

TEST_F(ManagerReferentsTest, DictsDoWhatDictsDo) {
  const std::string id = make("dict", {Dict{{"a", 1}}}, {{"b", 2}});
  auto peer = client();
  EXPECT_EQ(peer->value(id, "keys"), Object(List{"a", "b"}));
  EXPECT_EQ(peer->value(id, "values"), Object(List{1, 2}));
  EXPECT_EQ(peer->value(id, "items"), Object(List{Tuple{"a", 1}, Tuple{"b", 2}}));
  EXPECT_EQ(peer->value(id, "get", {"z"}), Object());
  EXPECT_EQ(peer->value(id, "get", {"z", 5}), Object(5));
  EXPECT_EQ(peer->value(id, "setdefault", {"a", 7}), Object(1));
  EXPECT_EQ(peer->value(id, "setdefault", {"c", 7}), Object(7));
  peer->value(id, "update", {Object(List{Object(Tuple{"d", 4})})}, {{"e", 5}});
  EXPECT_EQ(peer->value(id, "popitem"), Object(Tuple{"e", 5}));
  EXPECT_EQ(peer->value(id, "popitem"), Object(Tuple{"d", 4}));
  peer->value(id, "__setitem__", {"f", 6});
  EXPECT_EQ(peer->value(id, "popitem"), Object(Tuple{"f", 6}));
  EXPECT_EQ(peer->value(id, "pop", {"a"}), Object(1));
  EXPECT_EQ(peer->value(id, "pop", {"a", 0}), Object(0));
  EXPECT_EQ(peer->error(id, "pop", {"a"}), "KeyError");
  EXPECT_EQ(peer->error(id, "__delitem__", {"a"}), "KeyError");
  EXPECT_EQ(peer->error(id, "__setitem__", {List{}, 1}), "TypeError");
  EXPECT_EQ(peer->value(id, "copy"), Object(Dict{{"b", 2}, {"c", 7}}));
  peer->value(id, "clear");
  EXPECT_EQ(peer->error(id, "popitem"), "KeyError");
}

TEST_F(ManagerReferentsTest, SetsDoWhatSetsDo) {
  const std::string id = make("set", {Object(List{1, 2, 2})});
  auto peer = client();
  EXPECT_EQ(peer->value(id, "__len__"), Object(2));
  peer->value(id, "add", {3});
  peer->value(id, "discard", {9});
  EXPECT_EQ(peer->error(id, "remove", {9}), "KeyError");
  EXPECT_EQ(peer->value(id, "__and__", {Set{2, 3, 4}}), Object(Set{2, 3}));
  EXPECT_EQ(peer->value(id, "union", {Object(List{7})}), Object(Set{1, 2, 3, 7}));
  EXPECT_EQ(peer->value(id, "__rsub__", {Set{3, 8}}), Object(Set{8}));
  EXPECT_EQ(peer->value(id, "symmetric_difference", {Set{3, 8}}), Object(Set{1, 2, 8}));
  peer->value(id, "difference_update", {Set{1}});
  EXPECT_EQ(peer->value(id, "issubset", {Object(List{2, 3, 4})}), Object(true));
  EXPECT_EQ(peer->value(id, "__gt__", {Set{2}}), Object(true));
  peer->value(id, "clear");
  EXPECT_EQ(peer->error(id, "pop"), "KeyError");
}

TEST_F(ManagerReferentsTest, NamespacesHideWhatBeginsWithAnUnderscore) {
  const std::string id = make("Namespace", {}, {{"b", 2}, {"a", "x"}, {"_c", 3}});
  auto peer = client();
  EXPECT_EQ(peer->value(id, "__repr__"), Object("Namespace(a='x', b=2)"));
  peer->value(id, "__setattr__", {"d", 4});
  EXPECT_EQ(peer->value(id, "__getattribute__", {"d"}), Object(4));
  peer->value(id, "__delattr__", {"d"});
  EXPECT_EQ(peer->error(id, "__getattribute__", {"d"}), "AttributeError");
}

TEST_F(ManagerReferentsTest, ValuesAndArrays) {
  const std::string value = make("Value", {"i", 3});
  const std::string array = make("Array", {"i", List{1, 2, 3}});
  auto peer = client();
  peer->value(value, "set", {4});
  EXPECT_EQ(peer->value(value, "get"), Object(4));
  EXPECT_EQ(peer->value(value, "__repr__"), Object("Value('i', 4)"));
  EXPECT_EQ(peer->value(array, "__repr__"), Object("array('i', [1, 2, 3])"));
  peer->value(array, "__setitem__", {0, 9});
  EXPECT_EQ(peer->value(array, "__getitem__", {0}), Object(9));
  EXPECT_EQ(peer->value(array, "__getitem__", {slice(1, None)}), Object(List{2, 3}));
  EXPECT_EQ(peer->value(array, "#GETVALUE"), Object(List{9, 2, 3}));
  EXPECT_EQ(peer->error(array, "__setitem__", {0, "x"}), "TypeError");
  EXPECT_EQ(peer->error(array, "__getitem__", {3}), "IndexError");
  EXPECT_EQ(Peer(server).ask({}, "create", {"Array", "?", List{}}).first, "#TRACEBACK");
}

TEST_F(ManagerReferentsTest, LocksHaveThreadingsErrors) {
  const std::string lock = make("Lock");
  auto a = client();
  auto b = client();
  EXPECT_EQ(a->error(lock, "release"), "RuntimeError");
  EXPECT_EQ(a->value(lock, "acquire"), Object(true));
  EXPECT_EQ(b->value(lock, "acquire", {false}), Object(false));
  EXPECT_EQ(b->value(lock, "acquire", {true, 0.001}), Object(false));
  EXPECT_EQ(b->error(lock, "acquire", {false, 1}), "ValueError");
  EXPECT_EQ(b->error(lock, "acquire", {true, -2}), "ValueError");
  EXPECT_TRUE(b->value(lock, "release").is_none()) << "any thread may";
}

TEST_F(ManagerReferentsTest, RLocksBelongToAConnection) {
  const std::string lock = make("RLock");
  auto a = client();
  auto b = client();
  a->value(lock, "acquire");
  a->value(lock, "acquire");
  EXPECT_EQ(b->value(lock, "acquire", {false}), Object(false));
  EXPECT_EQ(b->error(lock, "release"), "RuntimeError");
  a->value(lock, "release");
  EXPECT_EQ(b->value(lock, "acquire", {false}), Object(false));
  a->value(lock, "release");
  EXPECT_EQ(b->value(lock, "acquire", {false}), Object(true));
}

TEST_F(ManagerReferentsTest, SemaphoresCount) {
  const std::string any = make("Semaphore", {1});
  const std::string bounded = make("BoundedSemaphore", {1});
  auto peer = client();
  peer->value(any, "release");
  EXPECT_EQ(peer->value(any, "get_value"), Object(2));
  EXPECT_EQ(peer->value(any, "acquire"), Object(true));
  EXPECT_EQ(peer->value(any, "acquire"), Object(true));
  EXPECT_EQ(peer->value(any, "acquire", {false}), Object(false));
  EXPECT_EQ(peer->error(bounded, "release"), "ValueError");
  EXPECT_EQ(Peer(server).ask({}, "create", {"Semaphore", -1}).first, "#TRACEBACK");
}

TEST_F(ManagerReferentsTest, ALockIsHandedToOneThatWaits) {
  const std::string lock = make("Lock");
  auto holder = client();
  holder->value(lock, "acquire");
  const Waiting waiting([&] {
    auto peer = client();
    EXPECT_EQ(peer->value(lock, "acquire"), Object(true));
  });
  holder->value(lock, "release");
}

TEST_F(ManagerReferentsTest, ConditionsNotifyThoseThatWait) {
  const std::string lock = make("Lock");
  auto peer = client();
  const std::string condition = make("Condition");
  EXPECT_EQ(peer->error(condition, "notify"), "RuntimeError");
  EXPECT_EQ(peer->error(condition, "wait", {0.0}), "RuntimeError");
  peer->value(condition, "acquire");
  EXPECT_EQ(peer->value(condition, "wait", {0.001}), Object(false));
  peer->value(condition, "release");
  std::atomic<int> woken{0};
  const auto body = [&] {
    auto waiter = client();
    waiter->value(condition, "acquire");
    waiter->value(condition, "wait", {None});
    waiter->value(condition, "release");
    ++woken;
  };
  const Waiting first(body);
  const Waiting second(body);
  while (woken != 2) {
    peer->value(condition, "acquire");
    peer->value(condition, "notify");
    peer->value(condition, "release");
    std::this_thread::yield();
  }
}

TEST_F(ManagerReferentsTest, EventsAreWaitedFor) {
  const std::string event = make("Event");
  auto peer = client();
  EXPECT_EQ(peer->value(event, "wait", {0.001}), Object(false));
  const Waiting waiting([&] {
    auto waiter = client();
    EXPECT_EQ(waiter->value(event, "wait"), Object(true));
  });
  peer->value(event, "set");
  EXPECT_EQ(peer->value(event, "is_set"), Object(true));
}

TEST_F(ManagerReferentsTest, BarriersLetAllPartiesGo) {
  const std::string barrier = make("Barrier", {2});
  std::atomic<std::int64_t> sum{0};
  {
    const auto body = [&] {
      auto party = client();
      for (int i = 0; i < 20; ++i) sum += party->value(barrier, "wait").as<std::int64_t>();
    };
    const Waiting first(body);
    const Waiting second(body);
  }
  EXPECT_EQ(sum, 20);
  auto peer = client();
  EXPECT_EQ(peer->value(barrier, "__getattribute__", {"parties"}), Object(2));
  EXPECT_EQ(peer->error(barrier, "wait", {0.001}), "BrokenBarrierError");
  EXPECT_EQ(peer->value(barrier, "__getattribute__", {"broken"}), Object(true));
  peer->value(barrier, "reset");
  EXPECT_EQ(peer->value(barrier, "__getattribute__", {"broken"}), Object(false));
  peer->value(barrier, "abort");
  EXPECT_EQ(peer->error(barrier, "wait"), "BrokenBarrierError");
}

TEST_F(ManagerReferentsTest, QueuesAreBounded) {
  const std::string queue = make("JoinableQueue", {1});
  auto peer = client();
  peer->value(queue, "put", {1});
  EXPECT_EQ(peer->error(queue, "put", {2, false}), "Full");
  EXPECT_EQ(peer->error(queue, "put", {2, true, 0.001}), "Full");
  EXPECT_EQ(peer->error(queue, "put", {2, true, -1}), "ValueError");
  EXPECT_EQ(peer->value(queue, "full"), Object(true));
  EXPECT_EQ(peer->value(queue, "get"), Object(1));
  EXPECT_EQ(peer->error(queue, "get_nowait"), "Empty");
  peer->value(queue, "task_done");
  peer->value(queue, "join");
  EXPECT_EQ(peer->error(queue, "task_done"), "ValueError");
}

// What a client that ends gives back. **beyond** Python.

TEST_F(ManagerReferentsTest, TheLockOfAClientThatEndedIsAbandoned) {
  const std::string lock = make("RLock");
  auto dead = process(41);
  dead->value(lock, "acquire");
  dead.reset();
  auto next = process(42);
  EXPECT_EQ(next->ask(lock, "acquire").first, "#ERROR");
  EXPECT_EQ(next->value(lock, "acquire"), Object(true));
}

TEST_F(ManagerReferentsTest, ALockOfCPythonsStaysWhenItsConnectionEnds) {
  const std::string lock = make("Lock");
  auto thread = client();
  thread->value(lock, "acquire");
  thread.reset();
  auto other = client();
  EXPECT_EQ(other->value(lock, "acquire", {false}), Object(false));
  EXPECT_TRUE(other->value(lock, "release").is_none());
}

TEST_F(ManagerReferentsTest, PermitsOfAClientThatEndedComeBack) {
  const std::string semaphore = make("BoundedSemaphore", {2});
  auto dead = process(41);
  dead->value(semaphore, "acquire");
  dead->value(semaphore, "acquire");
  dead.reset();
  EXPECT_EQ(client()->value(semaphore, "get_value"), Object(2));
}

// Calls that wait, and whose client leaves: nothing is taken and nobody waits for it.
TEST_F(ManagerReferentsTest, ACallerThatLeavesTakesNothing) {
  const std::string queue = make("Queue");
  const std::string lock = make("Lock");
  const std::string barrier = make("Barrier", {2});
  client()->value(lock, "acquire");
  const std::pair<std::string, const char*> calls[] = {
      {queue, "get"}, {queue, "join"}, {lock, "acquire"}, {barrier, "wait"}};
  auto filler = client();
  filler->value(queue, "put", {0});
  filler->value(queue, "get");
  for (const auto& [id, method] : calls) {
    auto leaver = process(50);
    const Waiting waiting([&, id = id, method = method] {
      EXPECT_THROW(leaver->ask(id, method), runtime::CallerGone) << method;
    });
    leaver->session().caller().leave();
  }
  EXPECT_EQ(filler->value(barrier, "__getattribute__", {"n_waiting"}), Object(0));
  filler->value(queue, "put", {1});
  EXPECT_EQ(filler->value(queue, "get"), Object(1));
}

// One of mp's own queues, which a registered callable may give.
TEST_F(ManagerReferentsTest, AQueueOfTheProgramsOwnHasTheMannersOfAManagers) {
  const JoinableQueue<> queue;
  runtime::ManagerTypes types;
  types["queue"].make = [queue](runtime::ManagerCall&) {
    return runtime::referent_of_handle(Object(queue));
  };
  runtime::ManagerServer own(types);
  Peer peer(own);
  peer.value({}, "accept_connection", {"MainProcess"});
  const Object id = Peer(own).value({}, "create", {"queue"})[0];
  for (const char* name : {"qsize", "empty", "full", "task_done", "join"}) {
    EXPECT_EQ(peer.error(id, name, {1}), "TypeError") << name;
  }
  peer.value(id, "put", {7});
  EXPECT_EQ(peer.value(id, "get"), Object(7));
  peer.session().not_sent();
  EXPECT_EQ(peer.value(id, "get"), Object(7)) << "its answer was not sent: it went back";
  peer.value(id, "task_done");
  EXPECT_EQ(peer.error(id, "task_done"), "ValueError") << "it counts once";
  peer.value(id, "put", {8});
  peer.session().caller().leave();
  EXPECT_THROW(peer.ask(id, "join"), runtime::CallerGone);
}

}  // namespace
}  // namespace millrace::test
