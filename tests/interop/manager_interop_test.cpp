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

void use_containers(SyncManager& manager) {
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

  auto dict = manager.dict({{"a", 1}, {"b", None}});
  dict["c"] = 2.5;
  EXPECT_EQ(dict.keys(), (List{"a", "b", "c"}));
  EXPECT_EQ(dict.values(), (List{1, None, 2.5}));
  EXPECT_EQ(dict.items()[0].second, Object(1));
  EXPECT_EQ(dict.get("z", 3), Object(3));
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
  EXPECT_EQ(dict.copy(), (Dict{{"a", 1}, {"b", None}}));
  dict.clear();
  EXPECT_EQ(dict.size(), 0U);

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
  EXPECT_THROW(static_cast<void>(space["x"].as<int>()), AttributeError);
  auto value = manager.Value('i', 3);
  value.set(4);
  EXPECT_EQ(value.get<int>(), 4);
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
  condition.release();
  auto event = manager.Event();
  EXPECT_FALSE(event.wait(1ms));
  event.set();
  EXPECT_TRUE(event.wait());
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
  use_containers(manager);
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

  const auto pool = manager.Pool(1);
  EXPECT_THROW(pool.apply([](int x) { return x; }, 1), TypeError) << "C++ code means nothing there";
  pool.close();
  pool.join();
  EXPECT_THROW(manager.list().append(Maths()), TypeError);
  EXPECT_THROW(static_cast<void>(manager.Barrier(1, [] {})), TypeError);
  EXPECT_THROW(static_cast<void>(manager.set()), RemoteError) << "3.14's";

  auto maths = manager.create("Maths");
  EXPECT_EQ(maths.call<int>("add", 4, 3), 7);
  EXPECT_THROW(maths.call("fail"), RemoteError) << "a type that C++ does not know";
  EXPECT_THROW(maths.call("unpicklable"), RemoteError);
  EXPECT_THROW(maths.call("secret"), RemoteError);
  EXPECT_THROW(maths.call("add", 1), TypeError);
  EXPECT_EQ(manager.number_of_objects(), 3U);
  EXPECT_NE(manager.debug_info().find("refcount=1"), std::string::npos);
}

}  // namespace
}  // namespace millrace::test
