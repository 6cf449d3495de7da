// A manager's server with many clients: how many threads it has, who gets his turn, what it
// refuses, and how it ends. **beyond** Python.
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <fstream>
#include <memory>
#include <millrace/connection.hpp>
#include <millrace/listener.hpp>
#include <millrace/managers.hpp>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/managers/manager_crew.hpp"
#include "runtime/managers/manager_wire.hpp"
#include "tests/leak_check.hpp"

namespace millrace::test {
namespace {

using runtime::ManagerCrew;

// A client as CPython's are, one connection, whose requests may be sent before the last reply came.
class Caller {
 public:
  explicit Caller(const connection::Address& address)
      : connection_(connection::Client(address, {.authkey = "k"})) {}
  Caller(Caller&&) noexcept = default;

  void send(Object ident, const char* name, List arguments = {}) const {
    wire::Writer request;
    runtime::put_frame(
        request, Object(Tuple{std::move(ident), Object(name), Object(Tuple(arguments)), Dict{}}),
        false);
    connection_.send_bytes(
        std::string_view(reinterpret_cast<const char*>(request.data()), request.size()));
  }
  Object reply() const {
    const Bytes bytes = connection_.recv_bytes();
    return runtime::value_of_frame({bytes.data(), bytes.size()}, false);
  }
  Object ask(Object ident, const char* name, List arguments = {}) const {
    send(std::move(ident), name, std::move(arguments));
    return reply()[1];
  }
  void close() const { connection_.close(); }

 private:
  Connection connection_;
};

Caller accepted(const connection::Address& address) {
  Caller caller(address);
  caller.ask({}, "accept_connection", {Object("a client")});
  return caller;
}
std::vector<Caller> many(const connection::Address& address, std::size_t count) {
  std::vector<Caller> all;
  for (std::size_t i = 0; i < count; ++i) all.push_back(accepted(address));
  return all;
}
Object made(const connection::Address& address, const char* type, List arguments = {}) {
  List all{Object(type)};
  all.extend(Object(arguments));
  return Caller(address).ask({}, "create", all)[0];
}

int threads_of(int pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("Threads:")) return std::stoi(line.substr(8));
  }
  return 0;
}
#ifdef __SANITIZE_THREAD__
constexpr int kOfSanitizer = 4;  // two of its own, in a forked process
#else
constexpr int kOfSanitizer = 0;
#endif
// Main, the watch, the acceptor, and those that are kept.
constexpr int kFewThreads = 3 + static_cast<int>(ManagerCrew::kKept) + kOfSanitizer;
void await_few_threads(int pid) {
  while (threads_of(pid) > kFewThreads) ::usleep(1000);
}
// A server that had to be terminated would take as long.
constexpr auto kForever = std::chrono::hours(1);

// Where calls of user code wait, unseen by the server.
class Gate {
 public:
  void pass() {
    std::unique_lock guard(mutex_);
    ++inside_;
    changed_.notify_all();
    changed_.wait(guard, [this] { return open_; });
  }
  void open() {
    const std::scoped_lock guard(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void await(int count) {
    std::unique_lock guard(mutex_);
    changed_.wait(guard, [&] { return inside_ >= count; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  int inside_ = 0;
};

// A server in this process.
class Here {
 public:
  explicit Here(ManagerOptions options = {}) : manager_(with_key(std::move(options))) {
    manager_.register_callable("Gate", [gate = gate_] { return gate; },
                               {{"pass", &Gate::pass}, {"open", &Gate::open}});
    server_ = std::make_unique<ManagerServer>(manager_.get_server());
    serving_ = std::thread([this] { server_->serve_forever(); });
  }
  Here(const Here&) = delete;
  Here& operator=(const Here&) = delete;
  ~Here() { end(); }
  void end() {
    server_->shutdown();
    if (serving_.joinable()) serving_.join();
  }
  [[nodiscard]] const connection::Address& address() const { return server_->address(); }
  Gate& gate() { return *gate_; }

 private:
  static ManagerOptions with_key(ManagerOptions options) {
    options.authkey = "k";
    return options;
  }
  const std::shared_ptr<Gate> gate_ = std::make_shared<Gate>();
  SyncManager manager_;
  std::unique_ptr<ManagerServer> server_;
  std::thread serving_;
};

using ManagerServiceTest = LeakCheck;

TEST_F(ManagerServiceTest, IdleClientsHaveNoThreads) {
  SyncManager manager({.authkey = "k"});
  manager.start();
  const int server = active_children().at(0).pid().value_or(0);
  const Object list = made(manager.address(), "list");
  const auto clients = many(manager.address(), 200);
  for (const Caller& each : clients) each.ask(list, "append", {1});
  await_few_threads(server);
  for (const Caller& each : clients) each.ask(list, "append", {1});
  EXPECT_EQ(clients[0].ask(list, "__len__"), Object(400)) << "they are served all the same";
  await_few_threads(server);
}

TEST_F(ManagerServiceTest, CallsThatWaitKeepNobodyWaiting) {
  Here server;
  const Object event = made(server.address(), "Event");
  const Object queue = made(server.address(), "Queue");
  const auto clients = many(server.address(), 2 * ManagerCrew::kAtWork + 10);
  for (const Caller& each : clients) each.send(event, "wait");
  const Caller quiet = accepted(server.address());
  quiet.ask(queue, "put", {7});
  EXPECT_EQ(quiet.ask(queue, "get"), Object(7));
  quiet.ask(event, "set");
  for (const Caller& each : clients) EXPECT_EQ(each.reply()[1], Object(true));
}

TEST_F(ManagerServiceTest, CallsOfUserCodeThatWaitKeepNobodyWaiting) {
  Here server;
  const Object gate = made(server.address(), "Gate");
  const auto clients = many(server.address(), ManagerCrew::kAtWork + 8);
  for (const Caller& each : clients) each.send(gate, "pass");
  server.gate().await(static_cast<int>(clients.size()));
  const Caller quiet = accepted(server.address());
  quiet.ask(gate, "open");
  for (const Caller& each : clients) EXPECT_EQ(each.reply()[0], Object("#RETURN"));
}

TEST_F(ManagerServiceTest, AFloodDoesNotStarveAQuietClient) {
  constexpr int kBurst = 20;
  Here server;
  const Object list = made(server.address(), "list");
  const auto flood = many(server.address(), ManagerCrew::kAtWork + 8);
  const Caller quiet = accepted(server.address());
  std::atomic<bool> over{false};
  std::thread flooding([&] {
    while (!over.load()) {
      for (const Caller& each : flood) {
        for (int i = 0; i < kBurst; ++i) each.send(list, "__len__");
      }
      for (const Caller& each : flood) {
        for (int i = 0; i < kBurst; ++i) EXPECT_EQ(each.reply()[0], Object("#RETURN"));
      }
    }
  });
  for (int i = 0; i < 20; ++i) quiet.ask(list, "append", {i});
  over.store(true);
  flooding.join();
  EXPECT_EQ(quiet.ask(list, "__len__"), Object(20));
}

TEST_F(ManagerServiceTest, RequestsOfOneConnectionAreAnsweredInTheirOrder) {
  Here server;
  const Object list = made(server.address(), "list");
  const auto clients = many(server.address(), 3);
  for (int i = 0; i < 50; ++i) {
    for (const Caller& each : clients) each.send(list, "__len__");
    clients[0].send(list, "append", {i});
  }
  std::int64_t before = 0;
  for (int i = 0; i < 50; ++i) {
    const Object now = clients[0].reply()[1];
    EXPECT_EQ(now, Object(before++));
    EXPECT_TRUE(clients[0].reply()[1].is_none());
  }
  for (int i = 0; i < 50; ++i) {
    for (const std::size_t other : {1U, 2U})
      EXPECT_EQ(clients[other].reply()[0], Object("#RETURN"));
  }
}

TEST_F(ManagerServiceTest, AConnectionTooManyIsToldSo) {
  Here server({.max_connections = 3});
  auto clients = many(server.address(), 3);
  const Object refusal =
      Caller(server.address()).ask({}, "accept_connection", {Object("one more")});
  EXPECT_NE(refusal.as<std::string>().find("its 3 connections: ManagerOptions::max_connections"),
            std::string::npos)
      << refusal.repr();
  SyncManager millrace_client({.address = server.address(), .authkey = "k"});
  EXPECT_THROW(millrace_client.connect(), RemoteError);
  EXPECT_TRUE(clients[0].ask({}, "__len__").as<std::string>().find("KeyError") != std::string::npos)
      << "those that were there are served";
  clients.pop_back();
  while (!Caller(server.address()).ask({}, "dummy").is_none()) std::this_thread::yield();
}

TEST_F(ManagerServiceTest, AServerWithAllItsConnectionsCanBeShutDown) {
  SyncManager manager({.authkey = "k", .shutdown_timeout = kForever, .max_connections = 2});
  manager.start();
  const auto clients = many(manager.address(), 2);
  manager.shutdown();
}

TEST_F(ManagerServiceTest, ARequestThatIsTooLongEndsItsConnection) {
  Here server({.max_request = 1000});
  const Object list = made(server.address(), "list");
  const auto clients = many(server.address(), 2);
  clients[0].ask(list, "append", {std::string(500, 'x')});
  EXPECT_THROW(clients[0].ask(list, "append", {std::string(2000, 'x')}), std::exception);
  EXPECT_EQ(clients[1].ask(list, "__len__"), Object(1));
}

TEST_F(ManagerServiceTest, LimitsAreChecked) {
  EXPECT_THROW(SyncManager({.max_connections = 0}), ValueError);
  EXPECT_THROW(SyncManager({.max_request = 0}), ValueError);
}

TEST_F(ManagerServiceTest, AClientThatIsKilledWhileNothingIsAskedGivesBackWhatItHeld) {
  SyncManager manager({.authkey = "k"});
  manager.start();
  const int server = active_children().at(0).pid().value_or(0);
  auto lock = manager.Lock();
  auto held = manager.Event();
  Process child([=] {
    lock.acquire();
    held.set();
    for (;;) ::pause();
  });
  child.start();
  held.wait();
  await_few_threads(server);  // its connections are parked
  child.kill();
  ASSERT_TRUE(child.join());
  child.close();
  EXPECT_THROW(lock.acquire(), AbandonedLock);
}

TEST_F(ManagerServiceTest, AServerEndsBesideCallsThatWaitAndClientsThatDoNotAsk) {
  SyncManager manager({.authkey = "k", .shutdown_timeout = kForever});
  manager.start();
  const Object event = made(manager.address(), "Event");
  const auto waiting = many(manager.address(), ManagerCrew::kAtWork + 8);
  for (const Caller& each : waiting) each.send(event, "wait");
  const auto silent = many(manager.address(), 20);
  manager.shutdown();
  for (const Caller& each : waiting) EXPECT_THROW(each.reply(), EOFError);
  for (const Caller& each : silent) EXPECT_THROW(each.reply(), EOFError);
}

TEST_F(ManagerServiceTest, AServerThatEndsWaitsForUserCode) {
  Here server;
  const Object gate = made(server.address(), "Gate");
  const Caller client = accepted(server.address());
  client.send(gate, "pass");
  server.gate().await(1);
  std::thread ending([&] { server.end(); });
  EXPECT_THROW(client.reply(), EOFError) << "its client hears of the end before";
  server.gate().open();
  ending.join();
}

// Without connections: tasks are numbers.
struct Tasks {
  static ManagerCrew::Task number(std::size_t i) {
    static std::array<char, 256> places;  // of which only the addresses are used
    return {std::shared_ptr<void>(), reinterpret_cast<runtime::ManagerTalk*>(&places.at(i))};
  }
};

TEST(ManagerCrewTest, ATaskWithMuchToDoLetsOthersHaveTheirTurns) {
  const auto busy = Tasks::number(0);
  const auto greedy = Tasks::number(1);
  const auto quiet = Tasks::number(2);
  Gate gate;
  std::atomic<bool> greedy_began{false};
  std::atomic<bool> over{false};
  ManagerCrew crew([&](const ManagerCrew::Task& task) {
    if (task == greedy) {
      greedy_began.store(true);
      return !over.load();
    }
    if (task == quiet) over.store(true);
    if (task == busy) gate.pass();
    return false;
  });
  for (std::size_t i = 1; i < ManagerCrew::kAtWork; ++i) crew.give(busy);
  gate.await(static_cast<int>(ManagerCrew::kAtWork) - 1);
  crew.give(greedy);  // has the last thread, and wants turns until the other one has had its own
  while (!greedy_began.load()) std::this_thread::yield();
  crew.give(quiet);
  while (!over.load()) std::this_thread::yield();
  gate.open();
  crew.dismiss();
}

TEST(ManagerCrewTest, AQueueThatDoesNotMoveGetsAThread) {
  Gate gate;
  ManagerCrew crew([&](const ManagerCrew::Task&) {
    gate.pass();
    return false;
  });
  constexpr int kMore = 3;
  for (std::size_t i = 0; i < ManagerCrew::kAtWork + kMore; ++i) crew.give(Tasks::number(i));
  gate.await(static_cast<int>(ManagerCrew::kAtWork));
  while (crew.crowded()) crew.look();
  gate.await(static_cast<int>(ManagerCrew::kAtWork) + kMore);
  gate.open();
  crew.dismiss();
}

TEST(ManagerCrewTest, WhoStandsAsideMakesRoom) {
  Gate gate;
  std::atomic<ManagerCrew*> self{nullptr};
  ManagerCrew crew([&](const ManagerCrew::Task&) {
    self.load()->stand_aside(true);
    gate.pass();
    self.load()->stand_aside(false);
    return false;
  });
  self.store(&crew);
  constexpr std::size_t kAll = 2 * ManagerCrew::kAtWork;
  for (std::size_t i = 0; i < kAll; ++i) crew.give(Tasks::number(i));
  while (crew.crowded()) crew.look();
  gate.await(static_cast<int>(kAll));
  gate.open();
  crew.dismiss();
}

}  // namespace
}  // namespace millrace::test
