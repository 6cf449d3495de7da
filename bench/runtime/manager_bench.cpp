// Calls of a manager's objects: beside CPython's manager, a bare socketpair, and Redis on GET and
// SET over AF_UNIX, which is started when it is installed.
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <latch>
#include <memory>
#include <millrace/millrace.hpp>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "bench/shm/harness.hpp"

namespace {

namespace mp = millrace;

constexpr int kKeys = 1000;
constexpr int kCalls = 2000;  // in a throughput's run, of each client

// A program that answers lines with seconds.
class Peer {
 public:
  explicit Peer(std::vector<const char*> command) {
    std::array<int, 2> in{};
    std::array<int, 2> out{};
    if (::pipe(in.data()) != 0 || ::pipe(out.data()) != 0) std::abort();
    command.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(in[0], STDIN_FILENO);
      ::dup2(out[1], STDOUT_FILENO);
      for (const int fd : {in[0], in[1], out[0], out[1]}) ::close(fd);
      ::execvp(command[0], const_cast<char* const*>(command.data()));
      ::_exit(127);
    }
    ::close(in[0]);
    ::close(out[1]);
    to_ = ::fdopen(in[1], "w");
    from_ = ::fdopen(out[0], "r");
    line();
  }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;
  ~Peer() {
    std::fclose(to_);
    std::fclose(from_);
    ::waitpid(pid_, nullptr, 0);
  }
  double us_of(const char* what, int count) {
    std::fprintf(to_, "%s %d\n", what, count);
    std::fflush(to_);
    return std::strtod(line().c_str(), nullptr) / count * 1e6;
  }

 private:
  std::string line() {
    std::array<char, 256> text{};
    if (std::fgets(text.data(), text.size(), from_) == nullptr) {
      std::fprintf(stderr, "a peer did not answer\n");
      std::exit(1);
    }
    return text.data();
  }

  pid_t pid_ = -1;
  FILE* to_ = nullptr;
  FILE* from_ = nullptr;
};

double us_a_call(int count, const std::function<void()>& call) {
  const std::uint64_t start = bench::now_ns();
  for (int i = 0; i < count; ++i) call();
  return static_cast<double>(bench::now_ns() - start) / count / 1000;
}

// What a Peer of this program does: so many calls a line.
void answer_lines(const std::function<void()>& call) {
  std::printf("ready\n");
  std::fflush(stdout);
  std::array<char, 64> what{};
  for (int count = 0; std::scanf("%63s %d", what.data(), &count) == 2;) {
    std::printf("%g\n", us_a_call(count, call) * count * 1e-6);
    std::fflush(stdout);
  }
}

// This program executed anew, which is another program to the server: over AF_UNIX, pickles.
int be_foreign(const char* address) {
  mp::SyncManager manager({.address = mp::connection::Address(address), .authkey = "key"});
  manager.connect();
  const auto dict = manager.dict();
  dict["key"] = 1;
  answer_lines([&] { bench::keep(dict.at("key")); });
  return 0;
}

// A program that measures a socketpair's round trips of one small message each way: not pinned, as
// clients and servers are not.
int be_socketpair() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) != 0) std::abort();
  std::array<char, 64> text{};
  if (::fork() == 0) {
    ::close(ends[0]);
    while (::read(ends[1], text.data(), text.size()) > 0) {
      if (::write(ends[1], text.data(), 48) != 48) break;
    }
    ::_exit(0);
  }
  answer_lines([&] {
    if (::write(ends[0], text.data(), 48) != 48) std::abort();
    if (::read(ends[0], text.data(), text.size()) <= 0) std::abort();
  });
  ::close(ends[0]);
  ::wait(nullptr);
  return 0;
}

class Redis {
 public:
  Redis() {
    const std::string socket = path();
    pid_ = ::fork();
    if (pid_ == 0) {
      if (std::freopen("/dev/null", "w", stdout) == nullptr) ::_exit(127);
      ::execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", socket.c_str(),
               "--save", "", "--appendonly", "no", nullptr);
      ::_exit(127);
    }
    for (int i = 0; i < 200 && ::access(socket.c_str(), F_OK) != 0; ++i) ::usleep(10'000);
  }
  Redis(const Redis&) = delete;
  Redis& operator=(const Redis&) = delete;
  ~Redis() {
    ::kill(pid_, SIGTERM);
    ::waitpid(pid_, nullptr, 0);
    ::unlink(path().c_str());
  }
  static bool installed() { return std::system("command -v redis-server > /dev/null 2>&1") == 0; }
  static std::string path() { return "/tmp/manager_bench." + std::to_string(owner()) + ".redis"; }

 private:
  static pid_t owner() {
    static const pid_t pid = ::getpid();
    return pid;
  }
  pid_t pid_ = -1;
};

class RedisClient {
 public:
  RedisClient() : fd_(::socket(AF_UNIX, SOCK_STREAM, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    Redis::path().copy(address.sun_path, sizeof address.sun_path - 1);
    if (::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) std::abort();
  }
  RedisClient(const RedisClient&) = delete;
  RedisClient& operator=(const RedisClient&) = delete;
  ~RedisClient() { ::close(fd_); }
  void call(const std::string& command) {
    std::array<char, 256> reply{};
    if (::write(fd_, command.data(), command.size()) < 0) std::abort();
    if (::read(fd_, reply.data(), reply.size()) <= 0) std::abort();
  }
  void set(int key) {
    call("*3\r\n$3\r\nSET\r\n" + bulk(std::to_string(key)) + bulk(std::to_string(key)));
  }
  void get(int key) { call("*2\r\n$3\r\nGET\r\n" + bulk(std::to_string(key))); }

 private:
  static std::string bulk(const std::string& text) {
    return "$" + std::to_string(text.size()) + "\r\n" + text + "\r\n";
  }
  int fd_;
};

// Thousands of calls a second by so many processes, half of them writing.
double throughput(int clients, const mp::DictProxy& dict) {
  const double ns = bench::crew_ns(clients, [&](int) {
    for (int i = 0; i < kCalls / 2; ++i) {
      const std::string key = std::to_string(i % kKeys);
      dict[key] = key;
      bench::keep(dict.at(key));
    }
  });
  return clients * kCalls / ns * 1e6;
}
// The same by so many threads of this process.
double threads_throughput(int threads, const std::function<void()>& call) {
  std::vector<std::thread> all;
  std::latch ready(threads + 1);
  std::latch done(threads);
  for (int i = 0; i < threads; ++i) {
    all.emplace_back([&] {
      call();  // connects
      ready.arrive_and_wait();
      for (int each = 0; each < kCalls; ++each) call();
      done.count_down();
    });
  }
  ready.arrive_and_wait();
  const std::uint64_t start = bench::now_ns();
  done.wait();
  const auto ns = static_cast<double>(bench::now_ns() - start);
  for (std::thread& each : all) each.join();
  return threads * kCalls / ns * 1e6;
}
double redis_throughput(int clients) {
  const double ns = bench::crew_ns(clients, [&](int) {
    RedisClient client;
    for (int i = 0; i < kCalls / 2; ++i) {
      client.set(i % kKeys);
      client.get(i % kKeys);
    }
  });
  return clients * kCalls / ns * 1e6;
}

std::size_t anonymous_bytes(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("RssAnon:")) return std::stoul(line.substr(8)) * 1024;
  }
  return 0;
}

constexpr int kEntries = 1'000'000;

double bytes_of_dict() {
  const auto manager = mp::Manager();
  const pid_t server = mp::active_children().back().pid().value();
  const auto dict = manager.dict();
  const std::size_t before = anonymous_bytes(server);
  for (int from = 0; from < kEntries; from += 1000) {
    mp::Dict some;
    for (int i = from; i < from + 1000; ++i) some.set(i, i);
    dict.update(some);
  }
  return static_cast<double>(anonymous_bytes(server) - before) / kEntries;
}
// In a process of its own, whose memory nothing else has used before.
double bytes_of_map() {
  const bench::SharedBlock result(sizeof(double));
  auto& bytes = *static_cast<double*>(result.get());
  bench::crew_ns(1, [&bytes](int) {
    const std::size_t before = anonymous_bytes(::getpid());
    std::unordered_map<std::int64_t, std::int64_t> map;
    for (int i = 0; i < kEntries; ++i) map.emplace(i, i);
    bytes = static_cast<double>(anonymous_bytes(::getpid()) - before) / kEntries;
  });
  return bytes;
}

void add_rows(bench::Suite& suite) {
  using bench::Better;
  const auto lower = [&](const char* name, const char* ours, const char* peer, double target) {
    suite.row({name, "us", ours, peer, target, Better::lower});
  };
  lower("dict[key] hot, the target of 3 us", "get", "3 us", 1);
  lower("dict[key] hot, CPython", "get", "CPython get", 1.0 / 20);
  lower("dict[key] of another program over AF_UNIX, socketpair", "foreign get", "socketpair", 1.3);
  lower("create and drop, the target of 20 us", "create", "20 us", 1);
  lower("create and drop, CPython", "create", "CPython create", 0);
  suite.row({"an entry of 10^6 in a dict, unordered_map", "bytes", "dict bytes", "map bytes", 2,
             Better::lower});
  for (const char* threads : {"1", "8"}) {
    const std::string name = std::string("threads: ") + threads;
    suite.row({"a connection for each thread, one for all, " + name, "kcalls/s", name,
               name + ", one connection", 1, Better::higher});
  }
  if (!Redis::installed()) return;
  for (const char* clients : {"1", "16"}) {
    const std::string name = std::string("GET and SET, clients: ") + clients;
    suite.row({name + ", Redis", "kcalls/s", name, "Redis " + name, 1, Better::higher});
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::string_view(argv[1]) == "foreign") return be_foreign(argv[2]);
  if (argc == 2 && std::string_view(argv[1]) == "socketpair") return be_socketpair();
  std::unique_ptr<Redis> redis;
  if (Redis::installed()) {
    redis = std::make_unique<Redis>();
  } else {
    std::fprintf(stderr, "redis-server is not installed: its rows are left out\n");
  }
  Peer python({"python3", MILLRACE_MANAGER_BENCH});
  mp::SyncManager manager({.authkey = "key"});
  manager.start();
  const auto dict = manager.dict();
  dict["key"] = 1;
  const std::string address = manager.address().path();
  Peer foreign({"/proc/self/exe", "foreign", address.c_str()});
  Peer socketpair({"/proc/self/exe", "socketpair"});

  bench::Suite suite("manager");
  suite.measure("get", [&] { return us_a_call(20'000, [&] { bench::keep(dict.at("key")); }); });
  suite.measure("create", [&] { return us_a_call(2000, [&] { bench::keep(manager.list()); }); });
  suite.measure("3 us", [] { return 3.0; });
  suite.measure("20 us", [] { return 20.0; });
  suite.measure("CPython get", [&] { return python.us_of("get", 1000); });
  suite.measure("CPython create", [&] { return python.us_of("create", 20); });
  suite.measure("foreign get", [&] { return foreign.us_of("get", 2000); });
  suite.measure("socketpair", [&] { return socketpair.us_of("round", 2000); });
  suite.measure("dict bytes", bytes_of_dict);
  suite.measure("map bytes", bytes_of_map);
  for (const int threads : {1, 8}) {
    const std::string name = "threads: " + std::to_string(threads);
    suite.measure(name, [&dict, threads] {
      return threads_throughput(threads, [&] { bench::keep(dict.at("key")); });
    });
    // Calls of the server itself go over the process's session, which its threads share.
    suite.measure(name + ", one connection", [&manager, threads] {
      return threads_throughput(threads, [&] { bench::keep(manager.number_of_objects()); });
    });
  }
  for (const int clients : {1, 16}) {
    const std::string name = "GET and SET, clients: " + std::to_string(clients);
    suite.measure(name, [&dict, clients] { return throughput(clients, dict); });
    suite.measure("Redis " + name, [clients] { return redis_throughput(clients); });
  }
  add_rows(suite);
  return suite.run(argc, argv);
}
