// Connections over sockets: CPython calling millrace beside CPython calling CPython, over AF_UNIX
// with a key; authenticated calls a second, millrace's own beside CPython's own, and one after the
// other and four at a time by the same callers, millrace's, to a Listener of each; and two programs
// of millrace's with a key beside a bare socket, on two cpus.
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <millrace/millrace.hpp>
#include <string>
#include <thread>
#include <vector>

#include "bench/runtime/peer_pair.hpp"
#include "bench/shm/harness.hpp"

namespace {

namespace mp = millrace;

constexpr const char* kKey = "key";

// listener_bench.py in a process of its own.
class Python {
 public:
  Python(const char* mode, const std::string& address) {
    std::array<int, 2> in{};
    std::array<int, 2> out{};
    if (::pipe(in.data()) != 0 || ::pipe(out.data()) != 0) std::abort();
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(in[0], STDIN_FILENO);
      ::dup2(out[1], STDOUT_FILENO);
      for (const int fd : {in[0], in[1], out[0], out[1]}) ::close(fd);
      ::execlp("python3", "python3", MILLRACE_LISTENER_BENCH, mode, address.c_str(), nullptr);
      ::_exit(127);
    }
    ::close(in[0]);
    ::close(out[1]);
    to_ = ::fdopen(in[1], "w");
    from_ = ::fdopen(out[0], "r");
  }
  Python(const Python&) = delete;
  Python& operator=(const Python&) = delete;
  ~Python() {
    std::fclose(to_);
    std::fclose(from_);
    ::waitpid(pid_, nullptr, 0);
  }

  std::string line() {
    std::array<char, 512> text{};
    if (std::fgets(text.data(), text.size(), from_) == nullptr) {
      std::fprintf(stderr, "python3 did not answer\n");
      std::exit(1);
    }
    return text.data();
  }
  // How many seconds it took.
  double run(const std::string& what, int count, std::size_t size) {
    std::fprintf(to_, "('%s', %d, %zu)\n", what.c_str(), count, size);
    std::fflush(to_);
    return std::strtod(line().c_str(), nullptr);
  }

 private:
  pid_t pid_ = -1;
  FILE* to_ = nullptr;
  FILE* from_ = nullptr;
};

// What listener_bench.py's serve() does.
void serve(const mp::connection::Listener& listener) {
  const mp::Connection connection = listener.accept();
  for (;;) {
    const auto command = connection.recv<mp::Tuple>();
    const auto what = command[0].as<std::string>();
    const int count = command[1].as<int>();
    if (what == "end") return;
    for (int i = 0; i < count; ++i) {
      if (what == "accept") {
        listener.accept().close();
      } else if (what == "take") {
        bench::keep(connection.recv_bytes());
      } else {
        connection.send_bytes(connection.recv_bytes());
      }
    }
    if (what == "take") connection.send_bytes("");
  }
}

class Server {
 public:
  Server() : listener_({.family = "AF_UNIX", .backlog = 16, .authkey = kKey}) {
    pid_ = ::fork();
    if (pid_ != 0) return;
    serve(listener_);
    ::_exit(0);
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  ~Server() { ::waitpid(pid_, nullptr, 0); }
  [[nodiscard]] const mp::connection::Address& address() const { return listener_.address(); }

 private:
  mp::connection::Listener listener_;
  pid_t pid_ = -1;
};

double seconds_of_calls(const mp::Connection& connection, const mp::connection::Address& address,
                        int count, int callers = 1) {
  connection.send(mp::Tuple{"accept", count, 0});
  const std::uint64_t start = bench::now_ns();
  std::vector<std::thread> others;
  const auto call = [&] {
    for (int i = 0; i < count / callers; ++i) {
      mp::connection::Client(address, {.authkey = kKey}).close();
    }
  };
  for (int i = 1; i < callers; ++i) others.emplace_back(call);
  call();
  for (std::thread& each : others) each.join();
  return static_cast<double>(bench::now_ns() - start) * 1e-9;
}

// Those of millrace's callers to a Listener of either.
void add_callers(bench::Suite& suite, const mp::Connection& to_us, const Server& us,
                 const mp::Connection& to_python, const mp::connection::Address& python) {
  constexpr int kCalls = 400;
  for (const int callers : {1, 4}) {
    const std::string name = "calls by " + std::to_string(callers);
    suite.measure(name, [&, callers] {
      return kCalls / seconds_of_calls(to_us, us.address(), kCalls, callers);
    });
    suite.measure("CPython's Listener, " + name, [&, callers] {
      return kCalls / seconds_of_calls(to_python, python, kCalls, callers);
    });
    suite.row({"authenticated " + name + " caller(s) of millrace's, to CPython's Listener",
               "calls/s", name, "CPython's Listener, " + name, 3, bench::Better::higher});
  }
}

}  // namespace

// This thread, and what it forks meanwhile, on one cpu.
class Pinned {
 public:
  explicit Pinned(int index) {
    ::sched_getaffinity(0, sizeof before_, &before_);
    bench::pin(index);
  }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  ~Pinned() { ::sched_setaffinity(0, sizeof before_, &before_); }

 private:
  cpu_set_t before_{};
};

struct Pairs {
  bench::OwnEnd own;
  bench::BareEnd bare;
};

Pairs make_pairs() {
  const Pinned those_who_answer(1);
  return {bench::own_pair("AF_UNIX", mp::Bytes(kKey)), bench::bare_pair()};
}

double seconds_of(auto& end, const bench::Ask& ask) {
  const Pinned who_asks(0);
  return bench::ask_for(end, ask);
}

void add_peers(bench::Suite& suite, Pairs& pairs) {
  using bench::Better;
  constexpr int kEchoes = 2000;
  constexpr int kBlocks = 200;
  constexpr int kMiB = 1 << 20;
  const auto add = [&](const std::string& name, const std::string& unit, const bench::Ask& ask,
                       Better better) {
    const double scale = better == Better::lower ? 1e6 / ask.count : 1.0 / ask.count;
    const auto value = [=](double seconds) {
      return better == Better::lower ? seconds * scale : 1 / (seconds * scale);
    };
    suite.measure(name, [&pairs, ask, value] { return value(seconds_of(pairs.own, ask)); });
    suite.measure("socket " + name,
                  [&pairs, ask, value] { return value(seconds_of(pairs.bare, ask)); });
    suite.row({name + ", two programs with a key, to a bare socket", unit, name, "socket " + name,
               1, better});
  };
  add("round trip 64 B", "us", {kEchoes, 64, true}, Better::lower);
  add("round trip 1 MiB", "us", {kBlocks, kMiB, true}, Better::lower);
  add("blocks 1 MiB", "MiB/s", {kBlocks, kMiB, false}, Better::higher);
}

// A CPython that calls millrace and one that calls CPython.
struct Callers {
  Server server;
  Python listener{"listen", ""};
  Python theirs{"call", listener.line()};
  Python ours{"call", server.address().repr()};
};

// Those who answer on the second cpu, those who call on `cpu`.
struct PlacedCallers {
  explicit PlacedCallers(int cpu) {
    {
      const Pinned those_who_answer(1);
      server = std::make_unique<Server>();
      listener = std::make_unique<Python>("listen", "");
    }
    const Pinned who_calls(cpu);
    theirs = std::make_unique<Python>("call", listener->line());
    ours = std::make_unique<Python>("call", server->address().repr());
  }
  std::unique_ptr<Server> server;
  std::unique_ptr<Python> listener, theirs, ours;
};

int main(int argc, char** argv) {
  Pairs pairs = make_pairs();
  PlacedCallers on_two(0);
  PlacedCallers on_one(1);
  Callers callers;
  Python& theirs = callers.theirs;
  Python& ours = callers.ours;
  const Server for_us;
  const mp::Connection connection = mp::connection::Client(for_us.address(), {.authkey = kKey});
  Python for_callers("listen", "");
  const std::string text = for_callers.line();  // 'PATH' and a newline
  const mp::connection::Address their_address(text.substr(1, text.size() - 3));
  const mp::Connection to_python = mp::connection::Client(their_address, {.authkey = kKey});

  using bench::Better;
  bench::Suite suite("listener");
  const auto beside = [&](const std::string& name, const std::string& unit, const std::string& what,
                          int count, std::size_t size, double scale, Python& to_us,
                          Python& to_them) {
    suite.measure(
        name, [&to_us, what, count, size, scale] { return scale / to_us.run(what, count, size); });
    suite.measure("CPython " + name, [&to_them, what, count, size, scale] {
      return scale / to_them.run(what, count, size);
    });
    suite.row({name + ", from CPython to millrace, to CPython", unit, name, "CPython " + name, 1,
               Better::higher});
  };
  // Small ones depend on where the kernel has put the four processes.
  const auto add_small = [&](const std::string& where, Python& to_us, Python& to_them) {
    beside("stream 64 B" + where, "kmessages/s", "stream_to", 20'000, 64, 20, to_us, to_them);
    beside("echo 64 B" + where, "kround trips/s", "echo_with", 2000, 64, 2, to_us, to_them);
  };
  add_small("", ours, theirs);
  add_small(", each pair on one cpu", *on_one.ours, *on_one.theirs);
  add_small(", each pair on two cpus", *on_two.ours, *on_two.theirs);
  constexpr std::size_t kMiB = std::size_t{1} << 20U;
  beside("stream 1 MiB", "MiB/s", "stream_to", 200, kMiB, 200, ours, theirs);
  beside("echo 1 MiB", "MiB/s", "echo_with", 100, kMiB, 100, ours, theirs);
  constexpr int kCalls = 300;
  suite.measure("calls",
                [&] { return kCalls / seconds_of_calls(connection, for_us.address(), kCalls); });
  suite.measure("CPython calls", [&] { return kCalls / theirs.run("accept", kCalls, 0); });
  suite.row({"authenticated calls, CPython's own", "calls/s", "calls", "CPython calls", 3,
             Better::higher});
  add_callers(suite, connection, for_us, to_python, their_address);
  add_peers(suite, pairs);
  const int status = suite.run(argc, argv);
  connection.send(mp::Tuple{"end", 0, 0});
  to_python.send(mp::Tuple{"end", 0, 0});
  return status;
}
