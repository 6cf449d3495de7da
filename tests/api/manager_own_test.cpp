// A server in this process: its objects are reached from everywhere, and both may end at any time.
// G04-G06, X05; **beyond** Python, whose proxies of them ask with the process's own key.
#include <signal.h>
#include <sys/wait.h>

#include <atomic>
#include <chrono>
#include <millrace/arena.hpp>
#include <millrace/connection.hpp>
#include <millrace/interrupt.hpp>
#include <millrace/listener.hpp>
#include <millrace/managers.hpp>
#include <millrace/queues.hpp>
#include <millrace/synchronize.hpp>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "tests/api/spawn_support.hpp"

namespace millrace::test {
namespace {

using namespace std::chrono_literals;

constexpr const char* kKey = "a key of its own";

class ManagerOwn : public SpawnTest {
 protected:
  void SetUp() override {
    SpawnTest::SetUp();
    begin();
  }
  void TearDown() override {
    end();
    SpawnTest::TearDown();
  }
  void begin() {
    SyncManager manager({.authkey = kKey});
    server_.emplace(manager.get_server());
    serving_ = std::thread([this] { server_->serve_forever(); });
    client_.emplace(ManagerOptions{.address = server_->address(), .authkey = kKey});
    client_->connect();
  }
  void end() {
    if (!server_) return;
    client_.reset();
    server_->shutdown();
    serving_.join();
    server_.reset();
  }
  // As it arrives in the server's process.
  ListProxy own_list() { return client_->list({client_->list()}).at(0).as<ListProxy>(); }

  std::optional<ManagerServer> server_;
  std::thread serving_;
  std::optional<SyncManager> client_;
};
INSTANTIATE_TEST_SUITE_P(Methods, ManagerOwn, ::testing::Values("fork", "spawn", "forkserver"),
                         method_name);

TEST_P(ManagerOwn, ItsObjectsAreReachedWithItsKeyX05) {
  const ListProxy own = own_list();
  EXPECT_EQ(run_spawned([](const ListProxy& list) { list.append(1); }, own), 0);
  EXPECT_EQ(run_spawned([own] { own.append(2); }), 0);
  EXPECT_EQ(own.getvalue(), Object(List{1, 2}));
  // As an argument to another server, which hands it on.
  SyncManager other({.authkey = "another"});
  other.start();
  const auto holder = other.list({own});
  holder.at(0).as<ListProxy>().append(3);
  EXPECT_EQ(own.size(), 3U);
}

using ManagerOwnFork = ManagerOwn;
INSTANTIATE_TEST_SUITE_P(Methods, ManagerOwnFork, ::testing::Values("fork"), method_name);

TEST_P(ManagerOwnFork, AForkedChildCallsThemAtTheServer) {
  const ListProxy own = own_list();
  Process child([&own] {
    own.append(1);
    if (own.size() != 1) throw ValueError("not in the server");
  });
  child.start();
  child.join();
  EXPECT_EQ(child.exitcode(), 0);
  EXPECT_EQ(own.size(), 1U);
}

// Forked children hold what they inherit before they call it, and their children too. X07
TEST_P(ManagerOwnFork, ItsParentMayDropWhatAChildHasNotCalledYet) {
  const Event dropped;
  const ListProxy other = client_->list();
  std::optional<ListProxy> own(own_list());
  EXPECT_EQ(other.size(), 0U);  // the reply that named it is forgotten
  Process child([&own, &dropped] {
    Process grandchild([&own, &dropped] {
      dropped.wait();
      own->append(1);
      if (own->size() != 1) throw ValueError("not in the server");
    });
    grandchild.start();
    own.reset();
    grandchild.join();
    if (grandchild.exitcode() != 0) throw ValueError("the grandchild has failed");
  });
  child.start();
  own.reset();
  dropped.set();
  child.join();
  EXPECT_EQ(child.exitcode(), 0);
}

struct Counted {
  Counted() { ++alive; }
  Counted(const Counted&) = delete;
  ~Counted() { --alive; }
  static inline std::atomic<int> alive{0};
};

// ... until they have ended, however.
TEST_P(ManagerOwnFork, WhatADeadChildInheritedGoesX07) {
  SyncManager manager({.authkey = kKey});
  manager.register_type<Counted>("Counted", {});
  ManagerServer server = manager.get_server();
  std::thread serving([&] { server.serve_forever(); });
  SyncManager client({.address = server.address(), .authkey = kKey});
  client.connect();
  const ListProxy other = client.list();
  std::optional own(client.list({client.create("Counted")}).at(0).as<BaseProxy>());
  EXPECT_EQ(other.size(), 0U);  // as above
  EXPECT_EQ(client.number_of_objects(), 1U);
  const Event dropped;
  Process child([&dropped] {
    dropped.wait();
    ::raise(SIGKILL);
  });
  child.start();
  own.reset();
  EXPECT_EQ(Counted::alive.load(), 1);
  dropped.set();
  while (Counted::alive.load() != 0) std::this_thread::yield();
  child.join();
  server.shutdown();
  serving.join();
}

TEST_P(ManagerOwnFork, ItIsOneClientInAllItsCallsX05) {
  const auto own = client_->list({client_->Lock()}).at(0).as<AcquirerProxy>();
  client_.reset();  // or its link would keep the child's
  const Event held;
  const Event tested;
  Process child([&] {
    own.acquire();
    Process grandchild([&own] {
      if (own.acquire(0s)) throw ValueError("the parent does not hold it");
    });
    grandchild.start();
    grandchild.join();
    held.set();
    tested.wait();
    own.release();
    if (grandchild.exitcode() != 0) throw ValueError("the grandchild has failed");
  });
  child.start();
  EXPECT_TRUE(held.wait(60s));
  EXPECT_FALSE(own.acquire(0s));
  tested.set();
  child.join();
  EXPECT_EQ(child.exitcode(), 0);
  EXPECT_TRUE(own.acquire(0s));
  own.release();
}

TEST_P(ManagerOwnFork, AServerThatEndedBeforeTheForkIsRefused) {
  const ListProxy own = own_list();
  end();
  Process child([&own] {
    Queue<ListProxy>().put(own);  // who takes it will be told
    try {
      own.append(1);
    } catch (const std::system_error& error) {
      if (error.code() == std::errc::connection_refused) return;
      throw;
    }
    throw ValueError("called what has ended");
  });
  child.start();
  child.join();
  EXPECT_EQ(child.exitcode(), 0);
}

TEST_P(ManagerOwnFork, AForkedChildLetsGoOfWhatItInheritedX05) {
  std::atomic<bool> stop{false};
  std::thread churn([&] {
    while (!stop.load()) static_cast<void>(own_list());
  });
  std::vector<ListProxy> held;
  for (int i = 0; i < 20; ++i) held.push_back(own_list());
  for (int i = 0; i < 20; ++i) {
    Process child([&held] { held.clear(); });
    child.start();
    child.join();
    EXPECT_EQ(child.exitcode(), 0);
  }
  stop.store(true);
  churn.join();
  for (const ListProxy& each : held) {
    each.append(1);
    EXPECT_EQ(each.size(), 1U);
  }
}

TEST_P(ManagerOwnFork, ItMayEndWhileItsObjectsAreDropped) {
  constexpr int kThreads = 3;
  for (int round = 0; round < 10; ++round) {
    std::vector<std::vector<ListProxy>> held(kThreads);
    for (auto& each : held) {
      for (int i = 0; i < 20; ++i) each.push_back(own_list());
    }
    std::atomic<int> ready{0};
    std::vector<std::thread> threads;
    for (auto& each : held) {
      threads.emplace_back([&] {
        const Queue<ListProxy> queue;
        ++ready;
        while (!each.empty()) {
          queue.put(each.back());  // a parcel, which its dropper gives back
          each.pop_back();
        }
      });
    }
    while (ready.load() < kThreads) std::this_thread::yield();
    end();
    for (std::thread& each : threads) each.join();
    begin();
  }
}

// Whoever decreases a count that is not his: the server says so, and the sender hears it.
TEST_P(ManagerOwnFork, AnObjectThatIsGoneCannotBeSentX07) {
  const ListProxy list = client_->list();
  connection::ClientOptions options;
  options.authkey = kKey;
  const Connection rogue = connection::Client(client_->address(), options);
  rogue.send(Object(Tuple{None, "decref", Tuple{list.token().id}, Dict{}}));
  EXPECT_EQ(rogue.recv<Object>()[0], "#RETURN");
  const Queue<ListProxy> queue;
  EXPECT_THROW(queue.put(list), RemoteError);
  EXPECT_TRUE(queue.empty());
}

using ManagerStopped = LeakCheck;

// And waits until all its threads have stopped.
void stop(pid_t child) {
  ASSERT_EQ(::kill(child, SIGSTOP), 0);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WSTOPPED | WNOWAIT), 0);
}

// Who drops the last of a parcel does not wait until a server that was stopped goes on.
TEST_F(ManagerStopped, ADroppedParcelDoesNotWaitForAStoppedServer) {
  auto manager = Manager();
  const pid_t server = active_children().at(0).pid().value();
  {
    std::vector<ListProxy, shared_allocator<ListProxy>> shared;
    for (int i = 0; i < 3; ++i) shared.push_back(manager.list());
    stop(server);
  }
  ASSERT_EQ(::kill(server, SIGCONT), 0);
  EXPECT_EQ(manager.number_of_objects(), 0U);  // what was not sent went in front of it
  const auto list = manager.list({1});
  EXPECT_EQ(list.at(0), 1);
}

// Nor who drops a proxy, and whoever asks next counts none of them.
TEST_F(ManagerStopped, ADroppedProxyDoesNotWaitForAStoppedServerX07) {
  auto manager = Manager();
  const pid_t server = active_children().at(0).pid().value();
  std::vector<ListProxy> lists;
  for (int i = 0; i < 3; ++i) lists.push_back(manager.list());
  stop(server);
  lists.clear();
  ASSERT_EQ(::kill(server, SIGCONT), 0);
  EXPECT_EQ(manager.number_of_objects(), 0U);
}

// A destructor that waits meanwhile cannot throw it.
TEST_F(ManagerStopped, AnInterruptInADestructorIsTheNextCallsX07S35) {
  Process process([] {
    install_sigint();
    auto manager = Manager();
    const pid_t server = active_children().at(0).pid().value();
    std::optional<ListProxy> list(manager.list());
    stop(server);
    EXPECT_EQ(::raise(SIGINT), 0);
    list.reset();
    EXPECT_EQ(::kill(server, SIGCONT), 0);
    const auto ends = Pipe();
    EXPECT_THROW((void)ends.first.poll(std::chrono::hours(1)), KeyboardInterrupt);
    EXPECT_EQ(manager.number_of_objects(), 0U);
    if (HasFailure()) throw SystemExit(1);
  });
  process.start();
  process.join();
  EXPECT_EQ(process.exitcode(), 0);
}

// What waited to be told is told by the call behind one that was interrupted.
TEST_F(ManagerStopped, AnInterruptedCallLosesNoDroppedProxyX07S35) {
  Process process([] {
    install_sigint();
    auto manager = Manager();
    const pid_t server = active_children().at(0).pid().value();
    std::vector<ListProxy> lists;
    for (int i = 0; i < 4; ++i) lists.push_back(manager.list());
    stop(server);
    lists.clear();
    EXPECT_EQ(::raise(SIGINT), 0);
    EXPECT_THROW((void)manager.number_of_objects(), KeyboardInterrupt);
    EXPECT_EQ(::kill(server, SIGCONT), 0);
    EXPECT_EQ(manager.number_of_objects(), 0U);
    if (HasFailure()) throw SystemExit(1);
  });
  process.start();
  process.join();
  EXPECT_EQ(process.exitcode(), 0);
}

// Nor who drops a queue in which proxies wait.
TEST_F(ManagerStopped, ADroppedQueueDoesNotWaitForAStoppedServerX07) {
  auto manager = Manager();
  const pid_t server = active_children().at(0).pid().value();
  std::optional<Queue<Object>> queue(Queue<Object>{});
  for (int i = 0; i < 3; ++i) queue->put(Object(List{Object(manager.list()), 1}));
  EXPECT_EQ(manager.number_of_objects(), 3U);
  stop(server);
  queue.reset();
  ASSERT_EQ(::kill(server, SIGCONT), 0);
  EXPECT_EQ(manager.number_of_objects(), 0U);
}

// Also a process that has no other proxy of the server tells it later.
TEST_F(ManagerStopped, WhoHasNoProxyLeftTellsItLaterX07) {
  const auto [here, there] = Pipe();
  const Event drop;
  const Event dropped;
  const Event end;
  Process process([there = there, drop, dropped, end] {
    std::optional queue(there.recv<Queue<ListProxy>>());
    drop.wait();
    queue.reset();
    dropped.set();
    there.recv<ListProxy>().append(1);
    end.wait();
  });
  process.start();  // before there is a manager that it could inherit
  auto manager = Manager();
  {
    const Queue<ListProxy> queue;
    for (int i = 0; i < 3; ++i) queue.put(manager.list());
    here.send(queue);
  }
  EXPECT_EQ(manager.number_of_objects(), 3U);
  pid_t server = 0;
  for (const auto& each : active_children()) {
    if (each.pid() != process.pid()) server = each.pid().value();
  }
  stop(server);
  drop.set();
  dropped.wait();
  ASSERT_EQ(::kill(server, SIGCONT), 0);
  const auto list = manager.list();
  here.send(list);
  while (list.size() == 0) std::this_thread::yield();
  EXPECT_EQ(manager.number_of_objects(), 1U);
  end.set();
  process.join();
  EXPECT_EQ(process.exitcode(), 0);
}

}  // namespace
}  // namespace millrace::test
