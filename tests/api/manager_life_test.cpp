// How managers begin and end, and clients and servers that are killed: G02-G12, **beyond**. Python:
// _TestMyManager, _TestRemoteManager, _TestManagerRestart.
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <millrace/connection.hpp>
#include <millrace/listener.hpp>
#include <millrace/managers.hpp>
#include <sstream>
#include <string>
#include <thread>

#include "tests/leak_check.hpp"

namespace millrace::test {
namespace {

struct LifeError : std::runtime_error {
  using runtime_error::runtime_error;
};

class Thing {
 public:
  std::string name() const { return "thing"; }
};

void greet(const std::string&) {}
void refuse(const std::string& text) { throw LifeError(text); }

}  // namespace
}  // namespace millrace::test
MILLRACE_EXCEPTION(millrace::test::LifeError);
namespace millrace::test {
namespace {

using ManagerLifeTest = LeakCheck;

std::string printed(const BaseProxy& value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

// G02-G08
TEST_F(ManagerLifeTest, LifeOfAManager) {
  SyncManager manager;
  EXPECT_THROW(static_cast<void>(manager.list()), AssertionError);
  EXPECT_THROW(manager.shutdown(), AttributeError);
  manager.start(greet, "init");
  EXPECT_THROW(manager.start(), ProcessError);
  EXPECT_THROW(static_cast<void>(manager.get_server()), ProcessError);
  auto list = manager.list({1});
  manager.shutdown();
  manager.shutdown();
  EXPECT_THROW(manager.start(), ProcessError);
  EXPECT_THROW(static_cast<void>(list.size()), std::exception);
  EXPECT_TRUE(printed(list).ends_with("; '__str__()' failed>"));
  manager.join();
}

// A bare child of this process, made as soon as it has forked another one: it has all descriptors.
std::atomic<bool> fork_beside{false};
std::atomic<pid_t> bystander{0};
void make_bystander() {
  if (!fork_beside.exchange(false)) return;
  const auto made = static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, 0L, 0L, 0L, 0L));
  while (made == 0) ::pause();
  bystander = made;
}

TEST_F(ManagerLifeTest, OnceMovedFromItSaysSo) {
  SyncManager manager;
  SyncManager other(std::move(manager));
  // NOLINTBEGIN(bugprone-use-after-move): the claim
  EXPECT_THROW(manager.start(), ValueError);
  EXPECT_THROW((void)manager.list(), ValueError);
  EXPECT_THROW((void)manager.address(), ValueError);
  EXPECT_THROW(manager.shutdown(), ValueError);
  // NOLINTEND(bugprone-use-after-move)
  other.start();
  EXPECT_EQ(other.list({1}).size(), 1U);
}

TEST_F(ManagerLifeTest, StartsThoughAnotherChildIsForkedMeanwhile) {
  static const int registered = ::pthread_atfork(nullptr, &make_bystander, nullptr);
  ASSERT_EQ(registered, 0);
  fork_beside = true;
  SyncManager manager;
  manager.start();
  const pid_t beside = bystander.exchange(0);
  ASSERT_GT(beside, 1);
  EXPECT_EQ(::waitpid(beside, nullptr, WNOHANG), 0) << "it lives, and holds what it was given";
  ::kill(beside, SIGKILL);
  EXPECT_EQ(::waitpid(beside, nullptr, 0), beside);
}

// Takes what its limits add up to.
TEST_F(ManagerLifeTest, AServerThatWasStoppedIsEndedAllTheSame) {
  SyncManager manager({.shutdown_timeout = std::chrono::milliseconds(1)});
  manager.start();
  const auto children = active_children();
  ASSERT_EQ(children.size(), 1U);
  const int pid = children[0].pid().value_or(0);
  ASSERT_GT(pid, 1);
  ASSERT_EQ(::kill(pid, SIGSTOP), 0);
  manager.shutdown();
  EXPECT_TRUE(active_children().empty());
}

TEST_F(ManagerLifeTest, AKilledServersFolderIsRemoved) {
  std::string folder;
  {
    SyncManager manager;
    manager.start();
    folder = std::filesystem::path(manager.address().path()).parent_path();
    EXPECT_TRUE(std::filesystem::exists(folder));
    const auto server = active_children().at(0);
    server.kill();
    server.join();
  }
  EXPECT_FALSE(std::filesystem::exists(folder));
}

// Its parent, too: whoever of this user comes next finds the folder unlocked.
TEST_F(ManagerLifeTest, AFolderThatNobodyHasIsRemovedByTheNextProcess) {
  const auto own_folder = [](const std::string& name) {
    return std::filesystem::path(name).parent_path();
  };
  const auto [here, there] = Pipe();
  Process killed([there = there] {
    const connection::Listener listener(connection::ListenerOptions{.family = "AF_UNIX"});
    there.send(listener.address().path());
    ::raise(SIGKILL);
  });
  killed.start();
  const auto left = here.recv<std::string>();
  killed.join();
  Process next([there = there] {
    const connection::Listener listener(connection::ListenerOptions{.family = "AF_UNIX"});
    there.send(listener.address().path());
  });
  next.start();
  const auto gone = here.recv<std::string>();
  next.join();
  EXPECT_FALSE(std::filesystem::exists(own_folder(left)));
  EXPECT_FALSE(std::filesystem::exists(own_folder(gone)));
}

// The child has no reference of its own then: what it calls lives by its parent's.
TEST_F(ManagerLifeTest, AForkBesideAStoppedServerGoesOn) {
  SyncManager manager;
  manager.start();
  const auto list = manager.list({7});
  const int pid = active_children().at(0).pid().value_or(0);
  ASSERT_GT(pid, 1);
  ASSERT_EQ(::kill(pid, SIGSTOP), 0);
  siginfo_t stopped{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(pid), &stopped, WSTOPPED | WNOWAIT), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::_exit(list.at(0) == Object(7) ? 0 : 1);
  }
  ASSERT_EQ(::kill(pid, SIGCONT), 0);
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(list.at(0), Object(7));
  EXPECT_EQ(manager.number_of_objects(), 1U);
}

TEST_F(ManagerLifeTest, WhatTheInitializerThrowsComesOut) {
  SyncManager manager;
  EXPECT_THROW(manager.start(refuse, "no"), LifeError);
  EXPECT_THROW(BaseManager({.authkey = ""}), ValueError);
}

TEST_F(ManagerLifeTest, TheServersProcessIsNamedAfterItsManager) {
  struct MyManager : BaseManager {
    MyManager() { register_type<Thing>("Thing", {{"name", &Thing::name}}); }
  } mine;
  mine.start();
  ASSERT_EQ(active_children().size(), 1U);
  EXPECT_TRUE(active_children()[0].name().starts_with("MyManager-"));
}

// G07, G10: _TestManagerRestart
TEST_F(ManagerLifeTest, OthersConnectAndTheAddressCanBeUsedAgain) {
  for (int round = 0; round < 2; ++round) {
    static int port = 0;
    SyncManager manager({.address = {"127.0.0.1", port}, .authkey = "abracadabra"});
    manager.start();
    port = manager.address().port();
    SyncManager client({.address = manager.address(), .authkey = "abracadabra"});
    client.connect();
    auto queue = client.Queue();
    queue.put("hello");
    EXPECT_EQ(queue.get<std::string>(), "hello");
    SyncManager stranger({.address = manager.address(), .authkey = "wrong"});
    EXPECT_THROW(stranger.connect(), AuthenticationError);
    EXPECT_THROW(client.shutdown(), AttributeError);
    queue = QueueProxy(nullptr);
    manager.shutdown();
  }
}

TEST_F(ManagerLifeTest, AServerInThisProcessServesUntilShutdown) {
  SyncManager manager({.authkey = "k"});
  auto server = manager.get_server();
  std::thread serving([&] { server.serve_forever(); });
  {
    SyncManager client({.address = server.address(), .authkey = "k"});
    Process child([&] {
      client.connect();
      auto list = client.list({1, 2});
      if (list.size() != 2) throw SystemExit(3);
    });
    child.start();
    ASSERT_TRUE(child.join());
    EXPECT_EQ(child.exitcode(), 0);
    child.close();
  }
  server.shutdown();
  serving.join();
}

// Clients that are killed: **beyond** Python.
TEST_F(ManagerLifeTest, AKilledClientGivesBackWhatItHeld) {
  auto manager = Manager();
  auto lock = manager.Lock();
  auto queue = manager.Queue();
  auto held = manager.Event();
  Process child([=] {
    const auto own = queue;
    lock.acquire();
    held.set();
    static_cast<void>(own.get());
  });
  child.start();
  held.wait();
  child.kill();
  ASSERT_TRUE(child.join());
  child.close();
  EXPECT_THROW(lock.acquire(), AbandonedLock);
  lock.acquire();
  queue.put(1);
  EXPECT_EQ(queue.get<int>(), 1) << "nobody has taken it";
}

TEST_F(ManagerLifeTest, ClientsOfAKilledServerHearOfIt) {
  auto manager = Manager();
  auto queue = manager.Queue();
  ASSERT_EQ(active_children().size(), 1U);
  const ProcessHandle server = active_children()[0];
  std::thread waiting([&] { EXPECT_THROW(static_cast<void>(queue.get()), std::exception); });
  server.kill();
  waiting.join();
  EXPECT_THROW(static_cast<void>(queue.qsize()), std::exception);
  server.join();
}

}  // namespace
}  // namespace millrace::test
