// mp::Queue beside the ring it is built like, oneTBB's bounded queue, memcpy and CPython's Queue.
// Bounded to 4096 items, 64 for those of 1 MiB. The ring as a queue uses it, with its wake-ups; and
// without, which nobody could sleep on.
#include <tbb/concurrent_queue.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <millrace/queues.hpp>
#include <thread>
#include <vector>

#include "bench/shm/harness.hpp"
#include "shm/mpmc_ring.hpp"
#include "shm/parking.hpp"

namespace mp = millrace;

namespace {

using bench::Better;
using mp::shm::RingResult;

constexpr int kSlots = 4096;
constexpr std::uint64_t kCount = 400000;
constexpr std::uint64_t kThreadCount = 20000;  // four producers and consumers on two cpus
constexpr std::size_t kLarge = std::size_t{1} << 20;
constexpr std::uint64_t kLargeCount = 600;

template <std::size_t N>
struct Item {
  std::uint64_t words[N / 8];
};

double million_per_second(std::uint64_t count, double ns) {
  return static_cast<double>(count) * 1e3 / ns;
}

// One producer and one consumer, a process and a cpu each.
template <class T>
double queue_pair(int maxsize) {
  const mp::Queue<T> queue(maxsize);
  return million_per_second(kCount, bench::pair_ns(
                                        [&] {
                                          for (std::uint64_t i = 0; i < kCount; ++i) {
                                            bench::keep(queue.get());
                                          }
                                        },
                                        [&] {
                                          for (std::uint64_t i = 0; i < kCount; ++i) queue.put({i});
                                        }));
}

struct NoDeaths {
  std::atomic<std::uint64_t> count{0};
  [[nodiscard]] bool is_dead(std::uint32_t) const { return false; }
  [[nodiscard]] const std::atomic<std::uint64_t>& deaths() const { return count; }
  void check_alive(std::uint32_t) {}
};

template <class T>
double ring_pair(bool wakes) {
  using Ring = mp::shm::MpmcRing<T>;
  const bench::SharedBlock memory(Ring::bytes_for(kSlots));
  Ring ring = Ring::create(memory.get(), kSlots);
  NoDeaths view;
  const mp::shm::WaitPolicy policy{.spin = std::chrono::microseconds(64)};
  const auto consume = [&] {
    typename Ring::Scan scan;
    T item{};
    for (std::uint64_t i = 0; i < kCount; ++i) {
      if (wakes) {
        ring.pop(view, 2, scan, item, policy);
      } else {
        while (ring.try_pop(view, 2, scan, item) != RingResult::done) mp::shm::cpu_relax();
      }
      bench::keep(item);
    }
  };
  const auto produce = [&] {
    for (std::uint64_t i = 0; i < kCount; ++i) {
      const T item{i};
      if (wakes) {
        ring.push(view, 1, item, policy);
      } else {
        while (ring.try_push(view, 1, item) != RingResult::done) mp::shm::cpu_relax();
      }
    }
  };
  return million_per_second(kCount, bench::pair_ns(consume, produce));
}

// Four threads that put and four that get, on two cpus.
template <class Put, class Get>
double four_by_four(Put&& put, Get&& get) {
  constexpr int kThreads = 8;
  constexpr std::uint64_t kEach = kThreadCount / 4;
  std::atomic<int> ready{0};
  std::atomic<bool> open{false};
  std::vector<std::thread> crew;
  for (int who = 0; who < kThreads; ++who) {
    crew.emplace_back([&, who] {
      bench::pin(who / 2 % 2);
      ready.fetch_add(1, std::memory_order_acq_rel);
      while (!open.load(std::memory_order_acquire)) sched_yield();
      for (std::uint64_t i = 0; i < kEach; ++i) who % 2 == 0 ? put(i) : get();
    });
  }
  while (ready.load(std::memory_order_acquire) != kThreads) sched_yield();
  const std::uint64_t start = bench::now_ns();
  open.store(true, std::memory_order_release);
  for (std::thread& thread : crew) thread.join();
  return million_per_second(kThreadCount, static_cast<double>(bench::now_ns() - start));
}
double queue_threads() {
  const mp::Queue<std::uint64_t> queue(kSlots);
  return four_by_four([&](std::uint64_t i) { queue.put(i); }, [&] { bench::keep(queue.get()); });
}
double tbb_threads() {
  tbb::concurrent_bounded_queue<std::uint64_t> queue;
  queue.set_capacity(kSlots);
  return four_by_four([&](std::uint64_t i) { queue.push(i); },
                      [&] {
                        std::uint64_t value = 0;
                        queue.pop(value);
                        bench::keep(value);
                      });
}

double gib_per_second(double ns) {
  return static_cast<double>(kLargeCount * kLarge) / ns / 1.073741824;
}

double queue_large() {
  const mp::Queue<std::vector<std::byte>> queue(4);
  return gib_per_second(bench::pair_ns(
      [&] {
        for (std::uint64_t i = 0; i < kLargeCount; ++i) bench::keep(queue.get().back());
      },
      [&] {
        const std::vector<std::byte> item(kLarge);
        for (std::uint64_t i = 0; i < kLargeCount; ++i) queue.put(item);
      }));
}

// What any queue that copies must do: one cpu copies into a block, the other out of it, four blocks
// between them.
double memcpy_between() {
  constexpr std::uint64_t kBlocks = 4;
  const bench::SharedBlock blocks(kBlocks * kLarge);
  const bench::SharedBlock control(256);
  struct Turn {
    alignas(64) std::atomic<std::uint64_t> written{0};
    alignas(64) std::atomic<std::uint64_t> read{0};
  };
  auto* turn = new (control.get()) Turn;
  auto* base = static_cast<std::byte*>(blocks.get());
  return gib_per_second(bench::pair_ns(
      [&] {
        std::vector<std::byte> to(kLarge);
        for (std::uint64_t i = 0; i < kLargeCount; ++i) {
          while (turn->written.load(std::memory_order_acquire) <= i) mp::shm::cpu_relax();
          std::memcpy(to.data(), base + i % kBlocks * kLarge, kLarge);
          bench::keep(to.back());
          turn->read.store(i + 1, std::memory_order_release);
        }
      },
      [&] {
        const std::vector<std::byte> from(kLarge);
        for (std::uint64_t i = 0; i < kLargeCount; ++i) {
          while (turn->read.load(std::memory_order_acquire) + kBlocks <= i) mp::shm::cpu_relax();
          std::memcpy(base + i % kBlocks * kLarge, from.data(), kLarge);
          turn->written.store(i + 1, std::memory_order_release);
        }
      }));
}

// CPython's Queue between two processes, in a process of its own; the script prints one number.
double python() {
  const char* script =
      "python3 -c \"import time, multiprocessing as m\n"
      "def put(q, n):\n"
      "  for i in range(n): q.put(i)\n"
      "if __name__ == '__main__':\n"
      "  m.set_start_method('fork')\n"
      "  q = m.Queue(4096); n = 60000\n"
      "  p = m.Process(target=put, args=(q, n)); p.start(); q.get()\n"
      "  t = time.perf_counter()\n"
      "  for i in range(n - 1): q.get()\n"
      "  print((n - 1) / (time.perf_counter() - t)); p.join()\" 2>/dev/null";
  FILE* pipe = ::popen(script, "r");
  double items = 0;
  const bool read = pipe != nullptr && std::fscanf(pipe, "%lf", &items) == 1;
  if (pipe != nullptr) ::pclose(pipe);
  if (!read) {
    std::fprintf(stderr, "python3 did not answer\n");
    std::exit(1);
  }
  return items / 1e6;
}

}  // namespace

int main(int argc, char** argv) {
  bench::Suite suite("queue");
  suite.measure("Queue 8 B", [] { return queue_pair<Item<8>>(kSlots); });
  suite.measure("Queue 64 B", [] { return queue_pair<Item<64>>(kSlots); });
  suite.measure("Queue 8 B, unbounded", [] { return queue_pair<Item<8>>(0); });
  suite.measure("ring 8 B", [] { return ring_pair<Item<8>>(true); });
  suite.measure("ring 64 B", [] { return ring_pair<Item<64>>(true); });
  suite.measure("ring 8 B, without wake-ups", [] { return ring_pair<Item<8>>(false); });
  suite.measure("ring 64 B, without wake-ups", [] { return ring_pair<Item<64>>(false); });
  suite.measure("CPython", python);
  suite.measure("Queue 4x4 threads", queue_threads);
  suite.measure("oneTBB 4x4 threads", tbb_threads);
  suite.measure("Queue 1 MiB", queue_large);
  suite.measure("memcpy 1 MiB", memcpy_between);
  const auto higher = Better::higher;
  suite.row({"1x1 of 8 B, ring", "M/s", "Queue 8 B", "ring 8 B", 0.7, higher});
  suite.row({"1x1 of 64 B, ring", "M/s", "Queue 64 B", "ring 64 B", 0.7, higher});
  suite.row({"1x1 of 8 B, bare ring", "M/s", "Queue 8 B", "ring 8 B, without wake-ups", 0, higher});
  suite.row(
      {"1x1 of 64 B, bare ring", "M/s", "Queue 64 B", "ring 64 B, without wake-ups", 0, higher});
  suite.row(
      {"1x1 of 8 B, unbounded, ring", "M/s", "Queue 8 B, unbounded", "ring 8 B", 0.7, higher});
  suite.row({"1x1 of 8 B, CPython", "M/s", "Queue 8 B", "CPython", 150, higher});
  suite.row({"4x4 threads, oneTBB", "M/s", "Queue 4x4 threads", "oneTBB 4x4 threads", 1, higher});
  suite.row({"1 MiB, memcpy between cpus", "GiB/s", "Queue 1 MiB", "memcpy 1 MiB", 0.8, higher});
  return suite.run(argc, argv);
}
