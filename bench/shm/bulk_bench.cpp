// End to end with long messages: the producer writes fresh data for every message, the consumer
// sums it. In place through the ring, with two copies through a byte ring; beside the speed at
// which a cpu reads what another has just written, and memcpy.
#include <algorithm>
#include <string>
#include <vector>

#include "harness.hpp"
#include "peers.hpp"
#include "shm/spsc_ring.hpp"

namespace {

using bench::Better;
using millrace::shm::SpscGeometry;
using millrace::shm::SpscMessage;
using millrace::shm::SpscRing;

constexpr double kGiB = 1024.0 * 1024 * 1024;
constexpr std::size_t kTotal = std::size_t{96} << 20;  // bytes of one run

std::uint64_t sum_of(const void* data, std::size_t bytes) {
  const auto* word = static_cast<const std::uint64_t*>(data);
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < bytes / 8; ++i) sum += word[i];
  return sum;
}

// Every ring of a row has the same capacity; large messages need room for several.
std::size_t capacity_for(std::size_t bytes) {
  return bytes >= (std::size_t{1} << 20) ? std::size_t{4} << 20 : std::size_t{1} << 20;
}

double gib_per_s(double ns, std::size_t bytes) {
  return static_cast<double>(bytes) / kGiB / (ns / 1e9);
}

// Runs both ends; the producer's time ends when the consumer has seen everything.
template <class Produce, class Consume>
double stream(const Produce& produce, const Consume& consume) {
  const bench::SharedBlock end(64);
  auto* done = new (end.get()) std::atomic<int>{0};
  return bench::pair_ns(
      [&] {
        produce();
        bench::spin([&] { return done->load(std::memory_order_acquire) == 1; });
      },
      [&] {
        consume();
        done->store(1, std::memory_order_release);
      });
}

double in_place(std::size_t bytes) {
  const std::size_t count = kTotal / bytes;
  const SpscGeometry geometry{1024, capacity_for(bytes)};
  const bench::SharedBlock memory(SpscRing::bytes_for(geometry));
  const SpscRing ring = SpscRing::create(memory.get(), geometry);
  const double ns = stream(
      [&] {
        SpscRing::Producer to(ring);
        for (std::size_t i = 0; i < count; ++i) {
          std::byte* place = nullptr;
          bench::spin([&] { return (place = to.try_reserve(bytes)) != nullptr; });
          std::memset(place, static_cast<int>(i & 255), bytes);
          to.commit(bytes);
        }
        to.wake();
      },
      [&] {
        SpscRing::Consumer from(ring);
        for (std::size_t i = 0; i < count; ++i) {
          SpscMessage message;
          bench::spin([&] { return static_cast<bool>(message = from.try_peek()); });
          bench::keep(sum_of(message.data, message.size));
          from.release();
        }
      });
  return gib_per_s(ns, count * bytes);
}

// The same ring with its copying calls.
double copied(std::size_t bytes) {
  const std::size_t count = kTotal / bytes;
  const SpscGeometry geometry{1024, capacity_for(bytes)};
  const bench::SharedBlock memory(SpscRing::bytes_for(geometry));
  const SpscRing ring = SpscRing::create(memory.get(), geometry);
  const double ns = stream(
      [&] {
        SpscRing::Producer to(ring);
        const std::vector<char> data(bytes, 1);
        for (std::size_t i = 0; i < count; ++i) {
          bench::spin([&] { return to.try_push(data.data(), bytes); });
        }
        to.wake();
      },
      [&] {
        SpscRing::Consumer from(ring);
        std::vector<char> data(bytes);
        for (std::size_t i = 0; i < count; ++i) {
          bench::spin([&] { return from.try_pop(data.data(), bytes) >= 0; });
          bench::keep(data);
        }
      });
  return gib_per_s(ns, count * bytes);
}

double two_copies(std::size_t bytes) {
  const std::size_t count = kTotal / bytes;
  const std::size_t capacity = capacity_for(bytes);
  const bench::SharedBlock memory(bench::CopyRing::bytes_for(capacity));
  auto* ring = new (memory.get()) bench::CopyRing(capacity);
  const double ns = stream(
      [&] {
        std::vector<char> data(bytes);
        for (std::size_t i = 0; i < count; ++i) {
          std::memset(data.data(), static_cast<int>(i & 255), bytes);
          bench::keep(data);
          bench::spin([&] { return ring->push(data.data(), bytes); });
        }
      },
      [&] {
        std::vector<char> data(bytes);
        for (std::size_t i = 0; i < count; ++i) {
          bench::spin([&] { return ring->pop(data.data(), bytes); });
          bench::keep(sum_of(data.data(), bytes));
        }
      });
  return gib_per_s(ns, count * bytes);
}

// One cpu writes a block, then the other reads it; only the reading is timed.
double read_remote_dirty(std::size_t bytes) {
  const std::size_t rounds = std::max<std::size_t>(kTotal / 4 / bytes, 8);
  const bench::SharedBlock block(bytes);
  const bench::SharedBlock control(256);
  struct Turn {
    alignas(64) std::atomic<std::uint64_t> written{0};
    alignas(64) std::atomic<std::uint64_t> read{0};
    alignas(64) double ns = 0;
  };
  auto* turn = new (control.get()) Turn;
  bench::pair_ns(
      [&] {
        for (std::uint64_t i = 1; i <= rounds; ++i) {
          std::memset(block.get(), static_cast<int>(i & 255), bytes);
          turn->written.store(i, std::memory_order_release);
          bench::spin([&] { return turn->read.load(std::memory_order_acquire) == i; });
        }
      },
      [&] {
        std::uint64_t spent = 0;
        for (std::uint64_t i = 1; i <= rounds; ++i) {
          bench::spin([&] { return turn->written.load(std::memory_order_acquire) == i; });
          const std::uint64_t start = millrace::shm::ticks();
          bench::keep(sum_of(block.get(), bytes));
          spent += millrace::shm::ticks() - start;
          turn->read.store(i, std::memory_order_release);
        }
        turn->ns =
            static_cast<double>(spent) * 1e3 / static_cast<double>(millrace::shm::ticks_per_us());
      });
  return gib_per_s(turn->ns, rounds * bytes);
}

double memcpy_alone(std::size_t bytes) {
  const std::size_t count = kTotal / bytes;
  std::vector<char> from(capacity_for(bytes), 1);
  std::vector<char> to(bytes);
  bench::pin(0);
  const std::uint64_t start = bench::now_ns();
  for (std::size_t i = 0; i < count; ++i) {
    std::memcpy(to.data(), from.data() + i * bytes % from.size(), bytes);
    bench::keep(to);
  }
  return gib_per_s(static_cast<double>(bench::now_ns() - start), count * bytes);
}

}  // namespace

int main(int argc, char** argv) {
  bench::Suite suite("bulk");
  for (const auto& [label, bytes] : {std::pair<std::string, std::size_t>{"1 KiB", 1024},
                                     {"64 KiB", 65536},
                                     {"1 MiB", 1 << 20}}) {
    const std::size_t size = bytes;
    suite.measure("in place " + label, [=] { return in_place(size); });
    suite.measure("two copies, " + label, [=] { return two_copies(size); });
    // A block must be long enough to be timed by itself.
    suite.measure("remote-dirty read, " + label,
                  [=] { return read_remote_dirty(std::max<std::size_t>(size, 4096)); });
    suite.measure("copied " + label, [=] { return copied(size); });
    suite.measure("memcpy, " + label, [=] { return memcpy_alone(size); });
    const auto higher = Better::higher;
    suite.row(
        {"end to end " + label, "GiB/s", "in place " + label, "two copies, " + label, 1.5, higher});
    suite.row({"end to end " + label, "GiB/s", "in place " + label, "remote-dirty read, " + label,
               0.8, higher});
    suite.row({"push and pop " + label, "GiB/s", "copied " + label, "memcpy, " + label, 0, higher});
  }
  return suite.run(argc, argv);
}
