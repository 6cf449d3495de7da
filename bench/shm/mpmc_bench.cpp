// The claim ring beside a Vyukov queue (processes) and oneTBB's bounded queue (threads), 8-byte
// values, 4096 slots. Back-off of everybody: one cpu_relax() after a look in vain, sched_yield()
// after 200 of them. Three regimes of one to one: both as fast as they can, the ring kept full by a
// consumer that pauses after each value, the ring kept empty by a producer that does.
#include <tbb/concurrent_queue.h>

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "harness.hpp"
#include "peers.hpp"
#include "shm/mpmc_ring.hpp"

namespace {

using bench::Better;
using millrace::shm::RingResult;

constexpr std::uint64_t kSlots = 4096;
constexpr std::uint64_t kCount = 600000;  // values of one run

struct NoDeaths {
  std::atomic<std::uint64_t> count{0};
  [[nodiscard]] bool is_dead(std::uint32_t) const { return false; }
  [[nodiscard]] const std::atomic<std::uint64_t>& deaths() const { return count; }
  void check_alive(std::uint32_t) {}
};

class Claim {
  using Ring = millrace::shm::MpmcRing<std::uint64_t>;

 public:
  static std::size_t bytes() { return Ring::bytes_for(kSlots); }
  explicit Claim(void* memory) : ring_(Ring::create(memory, kSlots)) {}
  struct End {
    Claim& queue;
    std::uint32_t me;
    Ring::Scan scan{};
    bool push(std::uint64_t value) {
      return queue.ring_.try_push(queue.view_, me, value) == RingResult::done;
    }
    bool pop(std::uint64_t& value) {
      return queue.ring_.try_pop(queue.view_, me, scan, value) == RingResult::done;
    }
  };

 private:
  Ring ring_;
  NoDeaths view_;
};

class Vyukov {
 public:
  static std::size_t bytes() { return bench::VyukovQueue::bytes_for(kSlots); }
  explicit Vyukov(void* memory) : queue_(new (memory) bench::VyukovQueue(kSlots)) {}
  struct End {
    Vyukov& queue;
    std::uint32_t me;
    bool push(std::uint64_t value) { return queue.queue_->push(value); }
    bool pop(std::uint64_t& value) { return queue.queue_->pop(value); }
  };

 private:
  bench::VyukovQueue* queue_;
};

class Tbb {
 public:
  static std::size_t bytes() { return 64; }
  explicit Tbb(void*) { queue_.set_capacity(static_cast<std::ptrdiff_t>(kSlots)); }
  struct End {
    Tbb& queue;
    std::uint32_t me;
    bool push(std::uint64_t value) { return queue.queue_.try_push(value); }
    bool pop(std::uint64_t& value) { return queue.queue_.try_pop(value); }
  };

 private:
  tbb::concurrent_bounded_queue<std::uint64_t> queue_;
};

struct Shape {
  int producers = 1;
  int consumers = 1;
  int producer_pauses = 0;
  int consumer_pauses = 0;
};

template <class Attempt>
void insist(Attempt&& attempt) {
  for (int looks = 1; !attempt(); ++looks) {
    if (looks % 200 == 0) {
      sched_yield();
    } else {
      millrace::shm::cpu_relax();
    }
  }
}

void pause(int times) {
  for (int i = 0; i < times; ++i) millrace::shm::cpu_relax();
}

template <class Queue>
void play(Queue& queue, const Shape& shape, int who) {
  typename Queue::End end{queue, static_cast<std::uint32_t>(who + 1)};
  const bool produces = who % 2 == 0;
  const auto each =
      kCount / static_cast<std::uint64_t>(produces ? shape.producers : shape.consumers);
  for (std::uint64_t i = 0; i < each; ++i) {
    std::uint64_t value = i;
    if (produces) {
      insist([&] { return end.push(value); });
      pause(shape.producer_pauses);
    } else {
      insist([&] { return end.pop(value); });
      bench::keep(value);
      pause(shape.consumer_pauses);
    }
  }
}

// Who is even produces and who is odd consumes: one to one has a cpu each, two to two have both.
int cpu_of(const Shape& shape, int who) {
  return shape.producers + shape.consumers == 2 ? who : who / 2;
}

template <class Queue>
double processes(const Shape& shape) {
  const bench::SharedBlock memory(Queue::bytes());
  Queue queue(memory.get());
  const int count = shape.producers + shape.consumers;
  const double ns = bench::crew_ns(count, [&](int who) {
    bench::pin(cpu_of(shape, who));
    play(queue, shape, who);
  });
  return static_cast<double>(kCount) * 1e3 / ns;
}

template <class Queue>
double threads(const Shape& shape) {
  const bench::SharedBlock memory(Queue::bytes());
  auto queue = std::make_unique<Queue>(memory.get());
  const int count = shape.producers + shape.consumers;
  std::atomic<int> ready{0};
  std::atomic<bool> open{false};
  std::vector<std::thread> crew;
  for (int who = 0; who < count; ++who) {
    crew.emplace_back([&, who] {
      bench::pin(cpu_of(shape, who));
      ready.fetch_add(1, std::memory_order_acq_rel);
      while (!open.load(std::memory_order_acquire)) sched_yield();
      play(*queue, shape, who);
    });
  }
  while (ready.load(std::memory_order_acquire) != count) sched_yield();
  const std::uint64_t start = bench::now_ns();
  open.store(true, std::memory_order_release);
  for (std::thread& thread : crew) thread.join();
  return static_cast<double>(kCount) * 1e3 / static_cast<double>(bench::now_ns() - start);
}

}  // namespace

int main(int argc, char** argv) {
  bench::Suite suite("mpmc");
  const struct {
    const char* name;
    Shape shape;
    double target;
  } cases[] = {{"2x2", {2, 2}, 1.0},
               {"1x1", {1, 1}, 0.9},
               {"1x1 kept full", {1, 1, 0, 4}, 0.9},
               {"1x1 kept empty", {1, 1, 4, 0}, 0.9}};
  for (const auto& c : cases) {
    const Shape shape = c.shape;
    const std::string name = c.name;
    suite.measure("claim " + name, [=] { return processes<Claim>(shape); });
    suite.measure("Vyukov queue, " + name, [=] { return processes<Vyukov>(shape); });
    suite.row({name, "M/s", "claim " + name, "Vyukov queue, " + name, c.target, Better::higher});
    suite.measure("claim, threads " + name, [=] { return threads<Claim>(shape); });
    suite.measure("oneTBB bounded queue, " + name, [=] { return threads<Tbb>(shape); });
    const bool paced = shape.producer_pauses + shape.consumer_pauses > 0;
    suite.row({name + " threads", "M/s", "claim, threads " + name, "oneTBB bounded queue, " + name,
               paced ? 0 : 1.5, Better::higher});
  }
  return suite.run(argc, argv);
}
