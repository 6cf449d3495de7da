// A Pipe's round trip and bandwidth beside the ring under it, a socketpair, and CPython's Pipe.
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <millrace/connection.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bench/shm/harness.hpp"
#include "shm/spsc_ring.hpp"

namespace mp = millrace;

namespace {

using bench::Better;
using bench::now_ns;

constexpr int kHot = 20'000;
constexpr int kParked = 200;
constexpr auto kRest = std::chrono::microseconds(400);  // enough for the other side to fall asleep
constexpr int kBlocks = 300;
constexpr std::size_t kBlock = std::size_t{1} << 20;

// Nanoseconds a round trip; `ask` sends one and waits for the answer, `answer` the reverse.
double hot(const std::function<void()>& ask, const std::function<void()>& answer) {
  const double ns = bench::pair_ns(
      [&] {
        for (int i = 0; i < kHot; ++i) ask();
      },
      [&] {
        for (int i = 0; i < kHot; ++i) answer();
      });
  return ns / kHot;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

struct Talk {
  std::function<void()> ask;
  std::function<void()> answer;
};

// The same where both sides sleep before each: two ways of talking one by one in turns, since how
// deep an idle cpu sleeps, and so what waking it costs, changes from one second to the next.
// Medians of both.
std::pair<double, double> parked(const Talk& one, const Talk& other) {
  std::vector<double> first;
  std::vector<double> second;
  const auto timed = [](const std::function<void()>& ask) {
    std::this_thread::sleep_for(kRest);
    const std::uint64_t begin = now_ns();
    ask();
    return static_cast<double>(now_ns() - begin);
  };
  bench::pair_ns(
      [&] {
        for (int i = 0; i < kParked; ++i) {
          first.push_back(timed(one.ask));
          second.push_back(timed(other.ask));
        }
      },
      [&] {
        for (int i = 0; i < kParked; ++i) {
          one.answer();
          other.answer();
        }
      });
  return {median(std::move(first)), median(std::move(second))};
}

struct Rings {
  using Ring = mp::shm::SpscRing;
  static constexpr mp::shm::SpscGeometry kGeometry{256, 4096};
  bench::SharedBlock there{Ring::bytes_for(kGeometry)};
  bench::SharedBlock back{Ring::bytes_for(kGeometry)};

  double hot_ns() {
    Ring::create(there.get(), kGeometry);
    Ring::create(back.get(), kGeometry);
    const auto loop = [&](void* out, void* in, bool first) {
      Ring::Producer to(Ring::attach(out, Ring::bytes_for(kGeometry)));
      Ring::Consumer from(Ring::attach(in, Ring::bytes_for(kGeometry)));
      std::uint64_t value = 1;
      for (int i = 0; i < kHot; ++i) {
        if (first) to.try_push(&value, sizeof value);
        while (from.try_pop(&value, sizeof value) < 0) mp::shm::cpu_relax();
        if (!first) to.try_push(&value, sizeof value);
      }
    };
    return bench::pair_ns([&] { loop(there.get(), back.get(), true); },
                          [&] { loop(back.get(), there.get(), false); }) /
           kHot;
  }
};

void ask_pipe(const mp::Connection& c) {
  c.send(std::uint64_t{1});
  bench::keep(c.recv<std::uint64_t>());
}
void answer_pipe(const mp::Connection& c) { c.send(c.recv<std::uint64_t>()); }

// Both processes have asked for the fileno() of their ends.
double armed_ns() {
  const auto [left, right] = mp::Pipe();
  const auto armed = [](const mp::Connection& c, void (*step)(const mp::Connection&)) {
    return [&c, step] {
      bench::keep(c.fileno());
      step(c);
    };
  };
  return hot(armed(left, &ask_pipe), armed(right, &answer_pipe));
}

void move_all(int fd, void* data, std::size_t bytes, bool out) {
  auto* at = static_cast<char*>(data);
  while (bytes != 0) {
    const ssize_t moved = out ? ::write(fd, at, bytes) : ::read(fd, at, bytes);
    if (moved <= 0) std::exit(1);
    at += moved;
    bytes -= static_cast<std::size_t>(moved);
  }
}

struct Sockets {
  Sockets() {
    if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) std::exit(1);
  }
  void ask() {
    move_all(ends[0], &value, sizeof value, true);
    move_all(ends[0], &value, sizeof value, false);
  }
  void answer() {
    move_all(ends[1], &value, sizeof value, false);
    move_all(ends[1], &value, sizeof value, true);
  }
  double block_gbs() {
    std::vector<char> from(kBlock, 1);
    std::vector<char> to(kBlock);
    const double ns = bench::pair_ns(
        [&] {
          for (int i = 0; i < kBlocks; ++i) move_all(ends[0], from.data(), kBlock, true);
          ask();
        },
        [&] {
          for (int i = 0; i < kBlocks; ++i) move_all(ends[1], to.data(), kBlock, false);
          answer();
        });
    return static_cast<double>(kBlocks * kBlock) / ns;
  }

  int ends[2];
  std::uint64_t value = 1;
};

double pipe_gbs(const mp::Connection& a, const mp::Connection& b) {
  std::vector<char> from(kBlock, 1);
  std::vector<char> to(kBlock);
  const double ns = bench::pair_ns(
      [&] {
        for (int i = 0; i < kBlocks; ++i) a.send_bytes(from);
        ask_pipe(a);
      },
      [&] {
        for (int i = 0; i < kBlocks; ++i) b.recv_bytes_into(to);
        answer_pipe(b);
      });
  return static_cast<double>(kBlocks * kBlock) / ns;
}

constexpr const char* kScript = R"(
import multiprocessing as mp, os, sys, time
def echo(c, n, size):
  for _ in range(n):
    c.send(c.recv())
  for _ in range(size):
    c.recv_bytes()
  c.send(1)
what, n = sys.argv[1], int(sys.argv[2])
cpus = sorted(os.sched_getaffinity(0))
a, b = mp.Pipe()
p = mp.get_context("fork").Process(target=echo, args=(b, n, 0) if what == "hot" else (b, 0, n))
p.start()
os.sched_setaffinity(0, {cpus[0]})
os.sched_setaffinity(p.pid, {cpus[-1]})
time.sleep(.05)
block = bytes(1 << 20)
t = time.perf_counter_ns()
if what == "hot":
  for _ in range(n):
    a.send(1); a.recv()
else:
  for _ in range(n):
    a.send_bytes(block)
  a.recv()
t = time.perf_counter_ns() - t
print(t / n if what == "hot" else n * (1 << 20) / t)
)";

double python(const char* what, int count) {
  std::string command = "python3 - " + std::string(what) + " " + std::to_string(count);
  int out[2];
  int in[2];
  if (::pipe(out) != 0 || ::pipe(in) != 0) std::exit(1);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(in[0], 0);
    ::dup2(out[1], 1);
    ::close(in[1]);
    ::close(out[0]);
    // The cpus that the program was given, not the one it is bound to.
    bench::pin(0);
    ::execlp("taskset", "taskset", "-c", "0-1023", "sh", "-c", command.c_str(),
             static_cast<char*>(nullptr));
    ::_exit(127);
  }
  ::close(in[0]);
  ::close(out[1]);
  move_all(in[1], const_cast<char*>(kScript), std::string(kScript).size(), true);
  ::close(in[1]);
  double value = 0;
  FILE* const from = ::fdopen(out[0], "r");
  if (std::fscanf(from, "%lf", &value) != 1) std::fprintf(stderr, "python3 did not answer\n");
  std::fclose(from);
  ::waitpid(child, nullptr, 0);
  return value;
}

}  // namespace

int main(int argc, char** argv) {
  auto rings = std::make_shared<Rings>();
  auto sockets = std::make_shared<Sockets>();
  const auto [a, b] = mp::Pipe();
  bench::Suite suite("pipe");
  suite.measure("ring", [&] { return rings->hot_ns(); });
  suite.measure("pipe hot",
                [&, l = a, r = b] { return hot([&] { ask_pipe(l); }, [&] { answer_pipe(r); }); });
  suite.measure("pipe armed", armed_ns);
  // One run for both; measures come in the order of their names.
  double socketpair_parked = 0;
  suite.measure("pipe parked", [&, l = a, r = b] {
    const auto [pipe, socketpair] = parked({[&] { ask_pipe(l); }, [&] { answer_pipe(r); }},
                                           {[&] { sockets->ask(); }, [&] { sockets->answer(); }});
    socketpair_parked = socketpair;
    return pipe;
  });
  suite.measure("socketpair hot",
                [&] { return hot([&] { sockets->ask(); }, [&] { sockets->answer(); }); });
  suite.measure("socketpair parked", [&] { return socketpair_parked; });
  suite.measure("pipe blocks", [&, l = a, r = b] { return pipe_gbs(l, r); });
  suite.measure("socketpair blocks", [&] { return sockets->block_gbs(); });
  suite.measure("CPython hot", [] { return python("hot", 2'000); });
  suite.measure("CPython blocks", [] { return python("blocks", 200); });
  suite.row({"round trip hot, ring", "ns", "pipe hot", "ring", 3, Better::lower});
  suite.row({"round trip armed, ring", "ns", "pipe armed", "ring", 10, Better::lower});
  suite.row({"round trip hot, socketpair", "ns", "pipe hot", "socketpair hot", 0, Better::lower});
  suite.row({"round trip parked, socketpair", "ns", "pipe parked", "socketpair parked", 1.1,
             Better::lower});
  suite.row({"round trip hot, CPython", "ns", "pipe hot", "CPython hot", 1 / 50.0, Better::lower});
  suite.row({"blocks of 1 MiB, socketpair", "GB/s", "pipe blocks", "socketpair blocks", 0,
             Better::higher});
  suite.row(
      {"blocks of 1 MiB, CPython", "GB/s", "pipe blocks", "CPython blocks", 0, Better::higher});
  return suite.run(argc, argv);
}
