// The pool beside serial code, oneTBB, OpenMP and CPython's Pool: maps over 10^7 doubles, functions
// of 1 us and 100 us, the cost of a chunk, and the round trip of a call.
#include <linux/futex.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <tbb/parallel_for.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <millrace/arena.hpp>
#include <millrace/pool.hpp>
#include <new>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bench/shm/harness.hpp"
#include "shm/spsc_ring.hpp"

namespace {

namespace mp = millrace;
using bench::Better;
using bench::now_ns;

constexpr std::size_t kItems = 10'000'000;
constexpr std::size_t kCalls = 100'000;     // of the 1 us function
constexpr std::size_t kLongCalls = 10'000;  // of the 100 us function: 0.5 s on two cpus
constexpr std::size_t kChunks = 1'000'000;
constexpr std::ptrdiff_t kPythonItems = 300'000;

double square(double x) { return x * x; }

// Burns about `ns` nanoseconds of this cpu, whatever else the clock does.
int burn(int x, std::uint64_t ns) {
  const std::uint64_t end = now_ns() + ns;
  while (now_ns() < end) {
  }
  return x;
}
int short_call(int x) { return burn(x, 1000); }
int long_call(int x) { return burn(x, 100'000); }
int add(int a, int b) { return a + b; }

/// What the measures work on, made once and touched.
struct Data {
  mp::Pool pool{2};
  mp::shared_array<double> shared_in{kItems}, shared_out{kItems};
  std::vector<double> in = std::vector<double>(kItems), out = std::vector<double>(kItems);
  std::vector<int> numbers = std::vector<int>(kCalls);
  mp::shared_array<int> shared_numbers{kCalls}, shared_results{kCalls};

  Data() {
    std::iota(in.begin(), in.end(), 0.0);
    std::copy(in.begin(), in.end(), shared_in.begin());
    std::iota(numbers.begin(), numbers.end(), 0);
    std::copy(numbers.begin(), numbers.end(), shared_numbers.begin());
    pool.map_into(square, shared_in, shared_out);
  }
};
std::unique_ptr<Data> data;

/// Millions of items a second, warm: the harness forks between measures, after which the first to
/// write to this process's memory pays for every page.
template <class F>
double rate(std::size_t items, F&& run) {
  run();
  const std::uint64_t start = now_ns();
  run();
  return 1e3 * static_cast<double>(items) / static_cast<double>(now_ns() - start);
}

/// Nanoseconds an item, of `rounds` rounds.
template <class F>
double each(std::size_t items, F&& run) {
  const std::uint64_t start = now_ns();
  run();
  return static_cast<double>(now_ns() - start) / static_cast<double>(items);
}

double median(std::vector<double> samples) {
  const auto middle = samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2);
  std::nth_element(samples.begin(), middle, samples.end());
  return *middle;
}

void tbb_square(const double* from, double* to) {
  tbb::parallel_for(tbb::blocked_range<std::size_t>(0, kItems),
                    [from, to](const tbb::blocked_range<std::size_t>& part) {
                      for (std::size_t i = part.begin(); i != part.end(); ++i) {
                        to[i] = from[i] * from[i];
                      }
                    });
}

void openmp_square(const double* from, double* to) {
#ifdef _OPENMP
#pragma omp parallel for schedule(static)
#endif
  for (std::size_t i = 0; i < kItems; ++i) to[i] = from[i] * from[i];
}

template <class F>
double tbb_calls(std::size_t calls, F f) {
  std::vector<int> results(calls);
  return rate(calls, [&] {
    tbb::parallel_for(std::size_t{0}, calls,
                      [&](std::size_t i) { results[i] = f(data->numbers[i]); });
  });
}

template <class F>
double pool_calls(std::size_t calls, F f) {
  const std::vector<int> items(data->numbers.begin(),
                               data->numbers.begin() + static_cast<std::ptrdiff_t>(calls));
  return rate(calls, [&] { bench::keep(data->pool.map(f, items)); });
}

template <class F>
double zero_copy_calls(std::size_t calls, F f) {
  const auto in = data->shared_numbers.span().first(calls);
  const auto out = data->shared_results.span().first(calls);
  return rate(calls, [&] { data->pool.map_into(f, in, out); });
}

template <class F>
double openmp_calls(std::size_t calls, F f) {
  std::vector<int> results(calls);
  return rate(calls, [&] {
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 16)
#endif
    for (std::size_t i = 0; i < calls; ++i) results[i] = f(data->numbers[i]);
  });
}

// CPython's pool in a process of its own; the script prints one number.
double python(const std::string& statement) {
  const std::string script =
      "import time, multiprocessing as m\n"
      "def sq(x): return x * x\n"
      "def add(a, b): return a + b\n"
      "def burn(ns):\n"
      "  end = time.perf_counter_ns() + ns\n"
      "  while time.perf_counter_ns() < end: pass\n"
      "if __name__ == '__main__':\n"
      "  p = m.get_context('fork').Pool(2)\n"
      "  xs = [float(i) for i in range(300000)]\n"
      "  p.map(sq, xs)\n"
      "  t = time.perf_counter()\n"
      "  n = " +
      statement +
      "\n"
      "  print(n, time.perf_counter() - t)\n"
      "  p.terminate()\n";
  FILE* pipe = ::popen(("python3 -c \"" + script + "\" 2>/dev/null").c_str(), "r");
  double count = 0;
  double seconds = 0;
  const bool read = pipe != nullptr && std::fscanf(pipe, "%lf %lf", &count, &seconds) == 2;
  if (pipe != nullptr) ::pclose(pipe);
  if (!read) {
    std::fprintf(stderr, "python3 did not answer\n");
    std::exit(1);
  }
  return seconds / count;
}

double ring_round_trip() {
  using mp::shm::SpscRing;
  constexpr int kRounds = 20000;
  const mp::shm::SpscGeometry geometry{1024, 1U << 20};
  const bench::SharedBlock there_memory(SpscRing::bytes_for(geometry));
  const bench::SharedBlock back_memory(SpscRing::bytes_for(geometry));
  const SpscRing there = SpscRing::create(there_memory.get(), geometry);
  const SpscRing back = SpscRing::create(back_memory.get(), geometry);
  const auto serve = [](const SpscRing& to, const SpscRing& from, bool first) {
    SpscRing::Producer out(to);
    SpscRing::Consumer in(from);
    std::uint64_t message[2] = {1, 2};
    for (int i = 0; i < kRounds; ++i) {
      if (first) out.try_push(message, sizeof message);
      while (in.try_pop(message, sizeof message) < 0) {
      }
      if (!first) out.try_push(message, sizeof message);
    }
  };
  return bench::pair_ns([&] { serve(there, back, true); }, [&] { serve(back, there, false); }) /
         kRounds;
}

double apply_hot() {
  constexpr int kRounds = 3000;
  for (int i = 0; i < 300; ++i) data->pool.apply(add, 1, 2);
  std::vector<double> samples;
  for (int i = 0; i < kRounds; ++i) {
    samples.push_back(each(1, [] { bench::keep(data->pool.apply(add, 1, 2)); }));
  }
  return median(std::move(samples));
}

// A call to a pool that has been idle for two milliseconds.
double apply_parked() {
  constexpr int kRounds = 60;
  std::vector<double> samples;
  for (int i = 0; i < kRounds; ++i) {
    ::usleep(2000);
    samples.push_back(each(1, [] { bench::keep(data->pool.apply(add, 1, 2)); }));
  }
  return median(std::move(samples));
}

// Two processes on two cpus that wake each other by bare futexes, asleep for two milliseconds.
double futex_pair() {
  constexpr int kRounds = 60;
  struct Words {
    std::atomic<std::uint32_t> there{0}, back{0};
  };
  static bench::SharedBlock block(sizeof(Words));
  auto* words = new (block.get()) Words;
  const auto wait = [](std::atomic<std::uint32_t>& word, std::uint32_t old) {
    while (word.load() == old) {
      ::syscall(SYS_futex, &word, FUTEX_WAIT, old, nullptr, nullptr, 0);
    }
  };
  const auto post = [](std::atomic<std::uint32_t>& word, std::uint32_t value) {
    word.store(value);
    ::syscall(SYS_futex, &word, FUTEX_WAKE, 1, nullptr, nullptr, 0);
  };
  std::vector<double> samples;
  bench::pair_ns(
      [&] {
        for (std::uint32_t i = 1; i <= kRounds; ++i) {
          ::usleep(2000);
          samples.push_back(each(1, [&] {
            post(words->there, i);
            wait(words->back, i - 1);
          }));
        }
      },
      [&] {
        for (std::uint32_t i = 1; i <= kRounds; ++i) {
          wait(words->there, i - 1);
          post(words->back, i);
        }
      });
  return median(std::move(samples));
}

template <class F>
double median_of(int rounds, F&& run) {
  for (int i = 0; i < rounds / 10; ++i) run();
  std::vector<double> samples;
  for (int i = 0; i < rounds; ++i) samples.push_back(each(1, run));
  return median(std::move(samples));
}

void map_measures(bench::Suite& suite) {
  suite.measure("serial x*x", [] {
    return rate(kItems, [] {
      std::transform(data->in.begin(), data->in.end(), data->out.begin(), square);
    });
  });
  suite.measure("oneTBB x*x",
                [] { return rate(kItems, [] { tbb_square(data->in.data(), data->out.data()); }); });
  suite.measure("OpenMP x*x", [] {
    return rate(kItems, [] { openmp_square(data->in.data(), data->out.data()); });
  });
  suite.measure("map_into shared", [] {
    return rate(kItems, [] {
      data->pool.map_into([](double x) { return x * x; }, data->shared_in, data->shared_out);
    });
  });
  suite.measure("map_into private, warm", [] {
    return rate(kItems,
                [] { data->pool.map_into([](double x) { return x * x; }, data->in, data->out); });
  });
  suite.measure("map private, fresh", [] {
    return rate(kItems,
                [] { bench::keep(data->pool.map([](double x) { return x * x; }, data->in)); });
  });
  suite.measure("oneTBB fresh", [] {
    return rate(kItems, [] {
      std::vector<double> fresh(kItems);
      tbb_square(data->in.data(), fresh.data());
      bench::keep(fresh);
    });
  });
  // CPython would take half a minute for all of them: both do as many as it does in a tenth.
  suite.measure("map, 3e5 doubles", [] {
    const std::vector<double> some(data->in.begin(), data->in.begin() + kPythonItems);
    return rate(10 * kPythonItems, [&] {
      for (int i = 0; i < 10; ++i) {
        bench::keep(data->pool.map([](double x) { return x * x; }, some));
      }
    });
  });
  suite.measure("CPython map x*x", [] { return 1e-6 / python("len(p.map(sq, xs))"); });
  suite.measure("CPython apply",
                [] { return 1e9 * python("sum(p.apply(add, (1, 0)) for _ in range(500))"); });
  suite.measure("CPython chunk", [] { return 1e9 * python("len(p.map(sq, xs[:5000], 1))"); });
}

// A function of some length over private vectors, over shared arrays, and by everybody else.
void function_measures(bench::Suite& suite, const std::string& length, std::size_t calls,
                       int (*f)(int), const std::string& python_map, double target) {
  suite.measure("pool " + length, [=] { return pool_calls(calls, f); });
  suite.measure("pool, shared, " + length, [=] { return zero_copy_calls(calls, f); });
  suite.measure("oneTBB " + length, [=] { return tbb_calls(calls, f); });
  suite.measure("OpenMP " + length, [=] { return openmp_calls(calls, f); });
  suite.measure("serial " + length, [=] {
    return 1e3 / each(calls / 4, [=] { std::for_each_n(data->numbers.begin(), calls / 4, f); });
  });
  suite.measure("CPython " + length, [=] { return 1e-6 / python(python_map); });
  const auto higher = Better::higher;
  const std::string name = "map of a " + length + " function";
  suite.row({name, "Mcalls/s", "pool " + length, "oneTBB " + length, target, higher});
  suite.row({name + ", shared arrays", "Mcalls/s", "pool, shared, " + length, "oneTBB " + length, 0,
             higher});
  for (const char* peer : {"OpenMP ", "serial ", "CPython "}) {
    suite.row({name, "Mcalls/s", "pool " + length, peer + length, 0, higher});
  }
}

void call_measures(bench::Suite& suite) {
  suite.measure("range chunk", [] {
    return each(kChunks,
                [] { data->pool.parallel_for(kChunks, [](std::size_t) {}, {.chunksize = 1}); });
  });
  suite.measure("stream chunk", [] {
    return each(kCalls,
                [] { bench::keep(data->pool.map([](int x) { return x; }, data->numbers, 1)); });
  });
  suite.measure("oneTBB grain 1", [] {
    return each(kChunks, [] {
      tbb::parallel_for(
          tbb::blocked_range<std::size_t>(0, kChunks, 1),
          [](const auto& part) { bench::keep(part); }, tbb::simple_partitioner());
    });
  });
  suite.measure("fork-join", [] {
    return median_of(3000, [] { data->pool.parallel_for(2, [](std::size_t) {}); });
  });
  suite.measure("oneTBB fork-join", [] {
    return median_of(3000, [] { tbb::parallel_for(0, 2, [](int i) { bench::keep(i); }); });
  });
  suite.measure("apply hot", apply_hot);
  suite.measure("apply parked", apply_parked);
  suite.measure("ring round trip", ring_round_trip);
  suite.measure("futex pair", futex_pair);
}

}  // namespace

int main(int argc, char** argv) {
  data = std::make_unique<Data>();
  bench::Suite suite("pool");
  map_measures(suite);
  call_measures(suite);
  const auto higher = Better::higher;
  const auto lower = Better::lower;
  suite.row(
      {"map_into x*x, shared arrays", "Mitems/s", "map_into shared", "oneTBB x*x", 0.95, higher});
  suite.row({"map_into x*x, shared arrays, serial", "Mitems/s", "map_into shared", "serial x*x", 0,
             higher});
  suite.row({"map_into x*x, shared arrays, OpenMP", "Mitems/s", "map_into shared", "OpenMP x*x", 0,
             higher});
  suite.row({"map_into x*x, private, warm output", "Mitems/s", "map_into private, warm",
             "oneTBB x*x", 0.45, higher});
  suite.row({"map x*x, private, fresh output", "Mitems/s", "map private, fresh", "oneTBB fresh",
             0.85, higher});
  suite.row({"map of x*x over 3e5 doubles, CPython", "Mitems/s", "map, 3e5 doubles",
             "CPython map x*x", 100, higher});
  suite.row({"map_into x*x, shared arrays, CPython's map", "Mitems/s", "map_into shared",
             "CPython map x*x", 100, higher});
  function_measures(suite, "1 us", kCalls, short_call, "len(p.map(burn, [1000] * 50000))", 0.97);
  function_measures(suite, "100 us", kLongCalls, long_call, "len(p.map(burn, [100000] * 2000))",
                    0.99);
  suite.row({"chunk of a range job", "ns", "range chunk", "oneTBB grain 1", 3, lower});
  suite.row({"chunk of a stream job", "ns", "stream chunk", "oneTBB grain 1", 10, lower});
  suite.row({"chunk of a stream job, CPython", "ns", "stream chunk", "CPython chunk", 0, lower});
  suite.row({"fork-join, hot", "ns", "fork-join", "oneTBB fork-join", 4, lower});
  suite.row({"apply, hot", "ns", "apply hot", "ring round trip", 6, lower});
  suite.row({"apply, parked", "ns", "apply parked", "futex pair", 1.3, lower});
  suite.row({"apply, CPython", "ns", "apply hot", "CPython apply", 0, lower});
  std::vector<char*> arguments(argv, argv + argc);
  std::string reps = "--reps";
  std::string count = "7";
  if (argc == 1) arguments.insert(arguments.end(), {reps.data(), count.data()});
  const int result = suite.run(static_cast<int>(arguments.size()), arguments.data());
  data.reset();
  return result;
}
