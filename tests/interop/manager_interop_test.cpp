// CPython's own proxies against a server of this library, and this library's against CPython's
// server: every method of the lists. X01-X11, G07, G13-G28.
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <millrace/managers.hpp>
#include <millrace/queues.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/leak_check.hpp"

extern char** environ;

namespace millrace::test {
namespace {

using namespace std::chrono_literals;

class Maths {
 public:
  int add(int a, int b) const { return a + b; }
  int mul(int a, int b) const { return a * b; }
  void fail() const { throw ValueError("no"); }
};

// A python3 with a script, its standard input and output at this end.
class Python {
 public:
  Python(const char* script, const std::string& argument) {
    int in[2];
    int out[2];
    if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0) throw std::bad_alloc();
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    ::posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    std::string path = std::string(MILLRACE_INTEROP_FOLDER) + "/" + script;
    std::string program = "python3";
    std::string own = argument;
    std::array<char*, 4> words{program.data(), path.data(), own.data(), nullptr};
    started_ = ::posix_spawnp(&pid_, "python3", &actions, nullptr, words.data(), environ) == 0;
    ::posix_spawn_file_actions_destroy(&actions);
    ::close(in[0]);
    ::close(out[1]);
    in_ = in[1];
    out_ = out[0];
  }
  Python(const Python&) = delete;
  ~Python() {
    finish();
    ::close(out_);
  }

  std::string line() {
    std::string text;
    for (char c = 0; ::read(out_, &c, 1) == 1 && c != '\n';) text += c;
    return text;
  }
  /// Its exit code.
  int finish() {
    if (in_ >= 0) ::close(std::exchange(in_, -1));
    int status = 0;
    if (!started_) return -1;
    started_ = false;
    if (::waitpid(pid_, &status, 0) != pid_) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  pid_t pid_ = 0;
  bool started_ = false;
  int in_ = -1;
  int out_ = -1;
};

class ServedManager : public SyncManager {
 public:
  explicit ServedManager(const connection::Address& address)
      : SyncManager({.address = address, .authkey = "abracadabra"}) {
    register_type<Maths>("Maths", {{"add", &Maths::add},
                                   {"mul", &Maths::mul},
                                   {"fail", &Maths::fail},
                                   {"twice", [](Maths& self, int x) { return self.add(x, x); }}});
  }
};

using ManagerInteropTest = LeakCheck;

void serve_python(const connection::Address& address) {
  ServedManager manager(address);
  manager.register_callable("shared_queue", [shared = Queue<>()] { return shared; });
  manager.start();
  auto kept = manager.list();
  const connection::Address at = manager.address();
  Python client("manager_client.py",
                at.path().empty() ? at.host() + ":" + std::to_string(at.port()) : at.path());
  EXPECT_EQ(client.finish(), 0);
}

TEST_F(ManagerInteropTest, CPythonsProxiesUseAServerOverAPath) { serve_python({}); }

TEST_F(ManagerInteropTest, CPythonsProxiesUseAServerOverTcp) { serve_python({"127.0.0.1", 0}); }

void use_lists(SyncManager& manager) {
  auto list = manager.list({3, 1, 2});
  list.sort();
  list.append(4);
  list.extend({5, "x"});
  list.insert(0, 0);
  list[0] = 9;
  list[-1] = list[0];
  EXPECT_EQ(list.getvalue(), Object(List{9, 1, 2, 3, 4, 5, 9}));
  EXPECT_EQ(list.slice(1, 3), (List{1, 2}));
  list.slice(0, 2, {7, 8});
  list.erase(0);
  EXPECT_EQ(list.pop(), Object(9));
  list.remove(8);
  EXPECT_EQ(list.index(3), 1U);
  EXPECT_EQ(list.count(3), 1U);
  EXPECT_TRUE(list.contains(4));
  list.reverse();
  EXPECT_EQ(list.reversed(), (List{2, 3, 4, 5}));
  EXPECT_EQ((list + Object(List{1})).size(), 5U);
  EXPECT_EQ((2 * list).size(), 8U);
  list *= 2;
  EXPECT_EQ(list.size(), 8U);
  EXPECT_THROW(static_cast<void>(list[50].as<int>()), IndexError);
  EXPECT_THROW(list.remove("no"), ValueError);
  EXPECT_EQ(list.str(), "[5, 4, 3, 2, 5, 4, 3, 2]");
  list += List{6};
  list.erase(0, 4);
  EXPECT_EQ(list.getvalue(), Object(List{5, 4, 3, 2, 6}));
  EXPECT_EQ((list * 2).size(), 10U);
  EXPECT_EQ(list.pop(-2), Object(2));
  EXPECT_THROW(list.pop(9), IndexError);
  EXPECT_THROW(list.extend(5), TypeError);
  EXPECT_THROW(static_cast<void>(manager.list({1, "a"}).sort()), TypeError);
  EXPECT_EQ(list.repr().find("<ListProxy object, typeid 'list' at 0x"), 0U);
  int sum = 0;
  for (const Object& each : list) sum += each.as<int>();
  EXPECT_EQ(sum, 18);
}

void use_dicts(SyncManager& manager) {
  auto dict = manager.dict({{"a", 1}, {"b", None}});
  dict["c"] = 2.5;
  EXPECT_EQ(dict.keys(), (List{"a", "b", "c"}));
  EXPECT_EQ(dict.values(), (List{1, None, 2.5}));
  EXPECT_EQ(dict.items()[0].second, Object(1));
  EXPECT_EQ(dict.get("z", 3), Object(3));
  EXPECT_EQ(dict.get("z"), None);
  EXPECT_TRUE(dict.contains("c"));
  EXPECT_EQ(dict.size(), 3U);
  EXPECT_THROW(dict.erase("z"), KeyError);
  EXPECT_THROW(dict.pop("z"), KeyError);
  EXPECT_EQ(dict.pop("z", 0), Object(0));
  EXPECT_THROW(dict[List{}] = 1, TypeError);
  EXPECT_EQ(dict.setdefault("z", 4), Object(4));
  dict.update({{"y", 5}});
  EXPECT_EQ(dict.popitem().first, Object("y"));
  EXPECT_EQ(dict.pop("z"), Object(4));
  dict.erase("c");
  EXPECT_THROW(static_cast<void>(dict["z"].as<int>()), KeyError);
  auto iterator = dict.iter();
  EXPECT_EQ(iterator.next(), Object("a"));
  EXPECT_EQ(iterator.next(), Object("b"));
  EXPECT_FALSE(iterator.next().has_value());
  EXPECT_THROW(iterator.call("send", 1), RemoteError) << "no generator";
  EXPECT_THROW(iterator.call("throw", 1), RemoteError);
  EXPECT_THROW(iterator.call("close"), RemoteError);
  auto astray = dict.iter();
  dict["more"] = 1;
  EXPECT_THROW(static_cast<void>(astray.next()), std::runtime_error);
  dict.erase("more");
  EXPECT_EQ(dict.copy(), (Dict{{"a", 1}, {"b", None}}));
  dict.clear();
  EXPECT_EQ(dict.size(), 0U);
  EXPECT_THROW(dict.popitem(), KeyError);
}

void use_nesting(SyncManager& manager) {
  auto list = manager.list();
  auto dict = manager.dict();
  auto outer = manager.list({list, dict});
  outer[0].as<ListProxy>().append("nested");
  EXPECT_EQ(list[-1], Object("nested"));
  EXPECT_TRUE(outer[0].as<ListProxy>() == list);
  outer.append(manager.list({1}));
  EXPECT_EQ(outer.pop().as<ListProxy>().at(0), 1) << "nobody else has it";
  const auto queue = manager.Queue();
  queue.put(manager.list({2}));
  EXPECT_EQ(queue.get().as<ListProxy>().at(0), 2);
}

void use_values(SyncManager& manager) {
  auto space = manager.create<NamespaceProxy>("Namespace");
  space["x"] = 1;
  EXPECT_EQ(space["x"], Object(1));
  EXPECT_EQ(space.str(), "Namespace(x=1)");
  EXPECT_EQ(manager.Namespace({{"y", 2}}).str(), "Namespace(y=2)") << "its keywords there";
  space.erase("x");
  EXPECT_THROW(space.erase("x"), AttributeError);
  EXPECT_THROW(static_cast<void>(space["x"].as<int>()), AttributeError);
  auto value = manager.Value('i', 3);
  value.set(4);
  EXPECT_EQ(value.get<int>(), 4);
  EXPECT_EQ(value.str(), "Value('i', 4)");
  auto array = manager.Array('d', {1.0, 2.0});
  array[0] = 2.5;
  EXPECT_EQ(array[0].as<double>(), 2.5);
  EXPECT_EQ(array.slice(0, 2), (List{2.5, 2.0}));
  EXPECT_EQ(array.size(), 2U);
  EXPECT_EQ(array.getvalue(), Object(List{2.5, 2.0}));
  EXPECT_THROW(array[2] = 1.0, IndexError);
  EXPECT_THROW(array[0] = "x", TypeError);
  EXPECT_EQ(manager.Array('u', {"a", "ü"}).getvalue(), Object(List{"a", "ü"}));
  EXPECT_THROW(static_cast<void>(manager.Array('b', {200})), RemoteError);
}

void use_locks(SyncManager& manager) {
  for (const auto& lock :
       {manager.Lock(), manager.RLock(), manager.Semaphore(1), manager.BoundedSemaphore(1)}) {
    lock.acquire();
    std::thread([&] { EXPECT_FALSE(lock.try_acquire()); }).join();
    lock.release();
    EXPECT_TRUE(lock.acquire(60s));
    lock.release();
  }
  EXPECT_THROW(manager.Lock().release(), std::runtime_error);
  EXPECT_THROW(manager.BoundedSemaphore(1).release(), ValueError);
  auto condition = manager.Condition();
  EXPECT_THROW(condition.notify(), std::runtime_error);
  condition.acquire();
  EXPECT_FALSE(condition.wait(10ms));
  condition.notify_all();
  bool filled = false;
  std::thread filler([&] {
    const std::scoped_lock guard(condition);
    filled = true;
    condition.notify();
  });
  EXPECT_TRUE(condition.wait_for([&] { return filled; }, 60s));
  condition.release();
  filler.join();
  EXPECT_THROW(condition.wait(1ms), std::runtime_error);
  auto event = manager.Event();
  EXPECT_FALSE(event.wait(1ms));
  event.set();
  EXPECT_TRUE(event.wait());
  EXPECT_TRUE(event.is_set());
  event.clear();
  EXPECT_FALSE(event.is_set());
  auto barrier = manager.Barrier(2);
  std::thread party([&] { barrier.wait(); });
  barrier.wait();
  party.join();
  EXPECT_EQ(barrier.parties(), 2);
  EXPECT_THROW(barrier.wait(1ms), BrokenBarrierError);
  EXPECT_TRUE(barrier.broken());
  barrier.reset();
  EXPECT_EQ(barrier.n_waiting(), 0);
  barrier.abort();
}

TEST_F(ManagerInteropTest, ProxiesUseAServerOfCPythons) {
  Python server("manager_server.py", "");
  SyncManager manager({.address = server.line(), .authkey = "abracadabra"});
  manager.connect();
  use_lists(manager);
  use_dicts(manager);
  use_nesting(manager);
  use_values(manager);
  use_locks(manager);
  auto queue = manager.Queue(1);
  queue.put(1);
  EXPECT_TRUE(queue.full());
  EXPECT_THROW(queue.put_nowait(2), queue::Full);
  EXPECT_EQ(queue.get<int>(), 1);
  EXPECT_THROW(static_cast<void>(queue.get(1ms)), queue::Empty);
  queue.task_done();
  queue.join();
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.qsize(), 0U);
  EXPECT_THROW(queue.task_done(), ValueError);
  EXPECT_THROW(static_cast<void>(queue.get_nowait()), queue::Empty);
  const auto joinable = manager.JoinableQueue(1);
  joinable.put_nowait("x");
  EXPECT_THROW(joinable.put("y", 1ms), queue::Full);
  EXPECT_EQ(joinable.get(60s), Object("x"));

  const auto pool = manager.Pool(1);
  const auto same = [](int x) { return x; };  // C++ code means nothing there
  const std::vector<int> items{1};
  EXPECT_THROW(pool.apply(same, 1), TypeError);
  EXPECT_THROW(pool.apply_async(same, 1), TypeError);
  EXPECT_THROW(pool.map(same, items), TypeError);
  EXPECT_THROW(pool.map_async(same, items), TypeError);
  EXPECT_THROW(static_cast<void>(pool.imap(same, items)), TypeError);
  EXPECT_THROW(static_cast<void>(pool.imap_unordered(same, items)), TypeError);
  EXPECT_THROW(pool.join(), ValueError) << "it runs";
  pool.close();
  pool.join();
  pool.terminate();
  EXPECT_THROW(manager.list().append(Maths()), TypeError);
  EXPECT_THROW(static_cast<void>(manager.Barrier(1, [] {})), TypeError);
  EXPECT_THROW(static_cast<void>(manager.set()), RemoteError) << "3.14's";

  auto maths = manager.create("Maths");
  EXPECT_EQ(maths.call<int>("add", 4, 3), 7);
  EXPECT_THROW(maths.call("fail"), RemoteError) << "a type that C++ does not know";
  EXPECT_THROW(maths.call("unpicklable"), RemoteError);
  EXPECT_THROW(maths.call("secret"), RemoteError);
  EXPECT_THROW(maths.call("add", 1), TypeError);
  EXPECT_EQ(manager.number_of_objects(), 4U);
  EXPECT_NE(manager.debug_info().find("refcount=1"), std::string::npos);
}

TEST_F(ManagerInteropTest, SetsUseAServerOfCPythons) {
  Python server("manager_server.py", "set");
  SyncManager manager({.address = server.line(), .authkey = "abracadabra"});
  manager.connect();
  const auto set = manager.set({1, 2, 3});
  set.add(4);
  set.discard(9);
  set.remove(4);
  EXPECT_THROW(set.remove(4), KeyError);
  EXPECT_THROW(set.add(List{}), TypeError);
  EXPECT_EQ(set.size(), 3U);
  EXPECT_TRUE(set.contains(2));
  EXPECT_EQ(set.copy(), (Set{1, 2, 3}));
  EXPECT_EQ(set.unite(Set{4}), (Set{1, 2, 3, 4}));
  EXPECT_EQ(set.intersection(Set{1, 4}), (Set{1}));
  EXPECT_EQ(set.difference(Set{1}), (Set{2, 3}));
  EXPECT_EQ(set.symmetric_difference(Set{1, 4}), (Set{2, 3, 4}));
  EXPECT_TRUE(set.issubset(Set{1, 2, 3, 4}));
  EXPECT_TRUE(set.issuperset(Set{1}));
  EXPECT_TRUE(set.isdisjoint(Set{4}));
  set.update(List{7});
  EXPECT_EQ(set.getvalue(), Object(Set{1, 2, 3, 7}));
  set.clear();
  EXPECT_TRUE(set.empty());
  EXPECT_THROW(set.pop(), KeyError);
}

}  // namespace
}  // namespace millrace::test
