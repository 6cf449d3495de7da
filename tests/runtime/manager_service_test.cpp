// A manager's server with many clients: how many threads it has, who gets his turn, what it
// refuses, and how it ends. **beyond** Python.
#include "runtime/managers/manager_service.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <fstream>
#include <memory>
#include <millrace/connection.hpp>
#include <millrace/listener.hpp>
#include <millrace/managers.hpp>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/managers/manager_crew.hpp"
#include "runtime/managers/manager_registry.hpp"
#include "runtime/managers/manager_wire.hpp"
#include "tests/leak_check.hpp"
#include "tests/runtime/gate.hpp"

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

bool has_place(const connection::Address& address) {
  try {
    return Caller(address).ask({}, "dummy").is_none();
  } catch (const std::exception&) {
    return false;  // it is hung up on: too many are refused at the moment
  }
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

// Clients each of which has its next request there before its last one is answered: the server
// sends it itself, from inside of the call.
class Flood {
 public:
  void begin(const connection::Address& address, Object ident, std::size_t count) {
    ident_ = std::move(ident);
    clients_ = many(address, count);
    for (std::size_t i = 0; i < count; ++i) send(i);
  }
  bool again(int client) {
    if (over_.load()) return false;
    send(static_cast<std::size_t>(client));
    return true;
  }
  void end() { over_.store(true); }
  // A reply of each; those that ask no more are left out.
  bool take_replies() {
    bool more = false;
    for (std::size_t i = 0; i < clients_.size(); ++i) {
      if (ended_.contains(i)) continue;
      if (clients_[i].reply()[1] == Object(true)) {
        more = true;
      } else {
        ended_.insert(i);
      }
    }
    return more;
  }

 private:
  void send(std::size_t client) const {
    clients_[client].send(ident_, "again", {static_cast<int>(client)});
  }
  Object ident_;
  std::vector<Caller> clients_;
  std::atomic<bool> over_{false};
  std::set<std::size_t> ended_;
};

TEST_F(ManagerServiceTest, AFloodDoesNotStarveAQuietClient) {
  const auto flood = std::make_shared<Flood>();
  SyncManager manager({.authkey = "k"});
  manager.register_callable("Flood", [flood] { return flood; }, {{"again", &Flood::again}});
  auto server = manager.get_server();
  std::thread serving([&] { server.serve_forever(); });
  const Object list = made(server.address(), "list");
  const Caller quiet = accepted(server.address());
  flood->begin(server.address(), made(server.address(), "Flood"), ManagerCrew::kAtWork + 8);
  EXPECT_TRUE(flood->take_replies());
  std::thread taking([&] {
    while (flood->take_replies()) continue;
  });
  for (int i = 0; i < 20; ++i) quiet.ask(list, "append", {i});
  flood->end();
  taking.join();
  EXPECT_EQ(quiet.ask(list, "__len__"), Object(20));
  server.shutdown();
  serving.join();
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
  while (!has_place(server.address())) std::this_thread::yield();
}

// A server whose refused clients have this long to ask for the reason.
class Refusing {
 public:
  Refusing(std::size_t connections, std::chrono::milliseconds refused_for)
      : service_(runtime::python_manager_types(), {.authkey = Bytes("k")},
                 {connections, std::size_t{1} << 20U, refused_for}),
        serving_([this] { service_.serve(); }) {}
  Refusing(const Refusing&) = delete;
  Refusing& operator=(const Refusing&) = delete;
  ~Refusing() {
    service_.stop();
    serving_.join();
  }
  [[nodiscard]] const connection::Address& address() const { return service_.address(); }

 private:
  runtime::ManagerService service_;
  std::thread serving_;
};

TEST_F(ManagerServiceTest, RefusedClientsThatAskNothingTakeNobodysPlace) {
  const Refusing server(3, kForever);
  auto clients = many(server.address(), 3);
  std::vector<Caller> silent;
  for (int i = 0; i < 8; ++i) silent.emplace_back(server.address());
  // They are let in, or refused, one after the other.
  EXPECT_FALSE(Caller(server.address()).ask({}, "dummy").is_none());
  clients.clear();
  while (!has_place(server.address())) std::this_thread::yield();
  EXPECT_NE(silent[0].ask({}, "dummy").as<std::string>().find("its 3 connections"),
            std::string::npos)
      << "they are told still";
}

TEST_F(ManagerServiceTest, ARefusedClientThatAsksNothingIsHungUpOn) {
  const Refusing server(1, std::chrono::milliseconds(1));
  const auto clients = many(server.address(), 1);
  std::vector<Caller> silent;
  for (int i = 0; i < 100; ++i) silent.emplace_back(server.address());
  for (const Caller& each : silent) EXPECT_THROW(each.reply(), EOFError);
  EXPECT_NE(clients[0].ask({}, "__len__").as<std::string>().find("KeyError"), std::string::npos)
      << "who was there is served";
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

}  // namespace
}  // namespace millrace::test
