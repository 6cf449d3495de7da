// Round trips and streams of small messages between two pinned processes: the raw cache line, the
// ring, a ring with two indexes, and what the kernel and Boost offer.
#include <unistd.h>

#include <memory>
#include <numeric>

#include "harness.hpp"
#include "kernel_peers.hpp"
#include "peers.hpp"
#include "shm/end_look.hpp"
#include "shm/parking.hpp"
#include "shm/spsc_ring.hpp"

namespace {

using bench::Better;
using millrace::shm::Publish;
using millrace::shm::SpscGeometry;
using millrace::shm::SpscMessage;
using millrace::shm::SpscRing;

template <std::size_t Bytes>
struct Message {
  std::uint64_t word[Bytes / 8];
};

// What an end does between two looks for its turn.
enum class Wait { look, pause, end };
template <Wait kWait>
void between_looks() {
  if constexpr (kWait == Wait::pause) millrace::shm::cpu_relax();
  if constexpr (kWait == Wait::end) millrace::shm::end_look();
}

template <std::size_t Bytes, Wait kWait = Wait::look>
double raw_round_trip() {
  constexpr int kRounds = 100000;
  bench::SharedBlock block(sizeof(bench::OneLine));
  auto* line = new (block.get()) bench::OneLine;
  const auto bounce = [line](bool first) {
    Message<Bytes + 8> mine{};
    for (std::uint64_t i = 1; i <= 2 * kRounds; i += 2) {
      for (const bool turn : {first, !first}) {
        const std::uint64_t flag = i + (turn != first ? 1 : 0);
        if (turn) {
          std::memcpy(line->payload, mine.word, Bytes);
          line->flag.store(flag, std::memory_order_release);
        } else {
          while (line->flag.load(std::memory_order_acquire) != flag) {
            between_looks<kWait>();
          }
          std::memcpy(mine.word, line->payload, Bytes);
          bench::keep(mine);
        }
      }
    }
  };
  return bench::pair_ns([&] { bounce(true); }, [&] { bounce(false); }) / kRounds;
}

// Each message in a line of its own, as in a ring that has one line a message.
template <std::size_t Bytes, Wait kWait>
double lines_in_turn_round_trip() {
  constexpr std::uint64_t kRounds = 100000;
  constexpr std::uint64_t kLines = 1024;
  bench::SharedBlock there(sizeof(bench::OneLine) * kLines);
  bench::SharedBlock back(sizeof(bench::OneLine) * kLines);
  const auto serve = [](void* to, void* from, bool first) {
    Message<Bytes> mine{};
    const auto send = [&mine, lines = static_cast<bench::OneLine*>(to)](std::uint64_t i) {
      std::memcpy(lines[i % kLines].payload, mine.word, Bytes);
      lines[i % kLines].flag.store(i, std::memory_order_release);
    };
    for (std::uint64_t i = 1; i <= kRounds; ++i) {
      bench::OneLine& line = static_cast<bench::OneLine*>(from)[i % kLines];
      if (first) send(i);
      while (line.flag.load(std::memory_order_acquire) != i) between_looks<kWait>();
      std::memcpy(mine.word, line.payload, Bytes);
      bench::keep(mine);
      if (!first) send(i);
    }
  };
  return bench::pair_ns([&] { serve(there.get(), back.get(), true); },
                        [&] { serve(back.get(), there.get(), false); }) /
         kRounds;
}

struct RingPair {
  explicit RingPair(const SpscGeometry& g)
      : memory_there(SpscRing::bytes_for(g)),
        memory_back(SpscRing::bytes_for(g)),
        there(SpscRing::create(memory_there.get(), g)),
        back(SpscRing::create(memory_back.get(), g)) {}
  bench::SharedBlock memory_there, memory_back;
  SpscRing there, back;
};

template <std::size_t Bytes, Wait kWait = Wait::look>
double ring_round_trip(int rounds = 100000) {
  RingPair rings({1024, 1U << 20});
  const auto serve = [&](SpscRing& out, SpscRing& in, bool first) {
    SpscRing::Producer to(out);
    SpscRing::Consumer from(in);
    auto message = std::make_unique<Message<Bytes>>();
    for (int i = 0; i < rounds; ++i) {
      if (first) {
        to.try_push(message.get(), Bytes);
        to.wake();
      }
      while (from.try_pop(message.get(), Bytes) < 0) {
        between_looks<kWait>();
      }
      bench::keep(*message);
      if (!first) {
        to.try_push(message.get(), Bytes);
        to.wake();
      }
    }
  };
  return bench::pair_ns([&] { serve(rings.there, rings.back, true); },
                        [&] { serve(rings.back, rings.there, false); }) /
         rounds;
}

template <std::size_t Bytes, Wait kWait = Wait::look>
double index_round_trip() {
  constexpr int kRounds = 100000;
  using Ring = bench::IndexRing<Message<Bytes>>;
  bench::SharedBlock a(Ring::bytes_for(4096));
  bench::SharedBlock b(Ring::bytes_for(4096));
  auto* there = new (a.get()) Ring(4096);
  auto* back = new (b.get()) Ring(4096);
  const auto serve = [&](Ring& out, Ring& in, bool first) {
    Message<Bytes> message{};
    for (int i = 0; i < kRounds; ++i) {
      if (first) out.push(message);
      while (!in.pop(message)) {
        between_looks<kWait>();
      }
      bench::keep(message);
      if (!first) out.push(message);
    }
  };
  return bench::pair_ns([&] { serve(*there, *back, true); }, [&] { serve(*back, *there, false); }) /
         kRounds;
}

// Mmsg/s of `count` messages one way, ended by the consumer's process ending.
double rate(double ns, double count) { return count * 1e3 / ns; }

template <std::size_t Bytes>
double index_stream() {
  constexpr int kCount = 3000000;
  using Ring = bench::IndexRing<Message<Bytes>>;
  bench::SharedBlock memory(Ring::bytes_for(4096));
  bench::SharedBlock end(64);
  auto* ring = new (memory.get()) Ring(4096);
  auto* done = new (end.get()) std::atomic<int>{0};
  const double ns = bench::pair_ns(
      [&] {
        Message<Bytes> message{};
        for (int i = 0; i < kCount; ++i) {
          message.word[0] = static_cast<std::uint64_t>(i);
          bench::spin([&] { return ring->push(message); });
        }
        bench::spin([&] { return done->load(std::memory_order_acquire) == 1; });
      },
      [&] {
        Message<Bytes> message{};
        for (int i = 0; i < kCount; ++i) {
          bench::spin([&] { return ring->pop(message); });
          if (message.word[0] != static_cast<std::uint64_t>(i)) _exit(3);
        }
        done->store(1, std::memory_order_release);
      });
  return rate(ns, kCount);
}

template <std::size_t Bytes>
double ring_stream(Publish when) {
  constexpr int kCount = 3000000;
  const SpscGeometry geometry{1024, 1U << 18};
  bench::SharedBlock memory(SpscRing::bytes_for(geometry));
  bench::SharedBlock end(64);
  auto* done = new (end.get()) std::atomic<int>{0};
  const SpscRing ring = SpscRing::create(memory.get(), geometry);
  const double ns = bench::pair_ns(
      [&] {
        SpscRing::Producer to(ring);
        Message<Bytes> message{};
        for (int i = 0; i < kCount; ++i) {
          message.word[0] = static_cast<std::uint64_t>(i);
          bench::spin([&] { return to.try_push(&message, Bytes, when); });
        }
        to.wake();
        bench::spin([&] { return done->load(std::memory_order_acquire) == 1; });
      },
      [&] {
        SpscRing::Consumer from(ring);
        Message<Bytes> message{};
        for (int i = 0; i < kCount; ++i) {
          bench::spin([&] { return from.try_pop(&message, Bytes) >= 0; });
          if (message.word[0] != static_cast<std::uint64_t>(i)) _exit(3);
        }
        done->store(1, std::memory_order_release);
      });
  return rate(ns, kCount);
}

// Values handed over by the array, as they lie in it.
double burst_stream() {
  constexpr std::size_t kBurst = 250;
  constexpr std::uint64_t kCount = 12000 * kBurst;
  const SpscGeometry geometry{1024, 1U << 18};
  bench::SharedBlock memory(SpscRing::bytes_for(geometry));
  bench::SharedBlock end(64);
  auto* done = new (end.get()) std::atomic<int>{0};
  const SpscRing ring = SpscRing::create(memory.get(), geometry);
  const double ns = bench::pair_ns(
      [&] {
        SpscRing::Producer to(ring);
        std::uint64_t values[kBurst];
        for (std::uint64_t i = 0; i < kCount; i += kBurst) {
          std::iota(std::begin(values), std::end(values), i);
          const std::uint64_t* from = values;
          bench::spin([&] {
            from += to.try_push_all(from, sizeof *from,
                                    static_cast<std::size_t>(std::end(values) - from));
            return from == std::end(values);
          });
        }
        to.wake();
        bench::spin([&] { return done->load(std::memory_order_acquire) == 1; });
      },
      [&] {
        SpscRing::Consumer from(ring);
        std::uint64_t values[kBurst];
        for (std::uint64_t i = 0; i < kCount;) {
          std::size_t got = 0;
          bench::spin([&] {
            got = from.try_pop_all(values, sizeof values[0], kBurst);
            return got != 0;
          });
          for (std::size_t k = 0; k < got; ++k) {
            if (values[k] != i + k) _exit(3);
          }
          i += got;
        }
        done->store(1, std::memory_order_release);
      });
  return rate(ns, static_cast<double>(kCount));
}

// The same where everybody pauses between two looks, as the library's waits do, or ends one look
// before the next begins, as try_pop() does: a line looked at without either is slower to come.
template <std::size_t Bytes, Wait kWait>
void patient_round_trips(bench::Suite& suite, const std::string& size) {
  const std::string what = size + (kWait == Wait::pause ? ", waits pause" : ", looks end");
  suite.measure("one cache line, " + what, raw_round_trip<Bytes, kWait>);
  suite.measure("lines in turn, " + what, lines_in_turn_round_trip<Bytes, kWait>);
  suite.measure("index ring, " + what, index_round_trip<Bytes, kWait>);
  suite.measure("ring " + what, [] { return ring_round_trip<Bytes, kWait>(); });
  for (const char* peer : {"one cache line, ", "lines in turn, ", "index ring, "}) {
    suite.row({"round trip " + what, "ns", "ring " + what, peer + what, 0, Better::lower});
  }
}

void round_trips(bench::Suite& suite) {
  suite.measure("one cache line, flag", raw_round_trip<0>);
  suite.measure("one cache line, flag and 48 B", raw_round_trip<48>);
  suite.measure("index ring, 8 B", index_round_trip<8>);
  suite.measure("index ring, 48 B", index_round_trip<48>);
  suite.measure("ring 8 B", [] { return ring_round_trip<8>(); });
  suite.measure("ring 48 B", [] { return ring_round_trip<48>(); });
  suite.measure("ring 1 KiB", [] { return ring_round_trip<1024>(50000); });
  suite.measure("ring 64 KiB", [] { return ring_round_trip<65536>(2000); });
  const auto lower = Better::lower;
  suite.row({"round trip 8 B", "ns", "ring 8 B", "one cache line, flag", 1.3, lower});
  suite.row({"round trip 48 B", "ns", "ring 48 B", "one cache line, flag and 48 B", 1.3, lower});
  suite.row({"round trip 8 B", "ns", "ring 8 B", "index ring, 8 B", 0.5, lower});
  suite.row({"round trip 48 B", "ns", "ring 48 B", "index ring, 48 B", 0.5, lower});
  // What the machine allows of the two rows above.
  suite.row({"physical limit of a round trip 48 B", "ns", "one cache line, flag and 48 B",
             "index ring, 48 B", 0, lower});
  patient_round_trips<8, Wait::pause>(suite, "8 B");
  patient_round_trips<48, Wait::pause>(suite, "48 B");
  patient_round_trips<8, Wait::end>(suite, "8 B");
  patient_round_trips<48, Wait::end>(suite, "48 B");
  for (const bench::KernelPeer peer : bench::kKernelPeers) {
    const std::string name = bench::name_of(peer);
    for (const auto& [label, bytes] : {std::pair{"8 B", 8}, {"1 KiB", 1024}, {"64 KiB", 65536}}) {
      const std::string measure = name + ", " + label;
      suite.measure(measure, [=] { return bench::kernel_round_trip(peer, std::size_t(bytes)); });
      suite.row({std::string("round trip ") + label, "ns", std::string("ring ") + label, measure, 0,
                 lower});
    }
  }
}

void streams(bench::Suite& suite) {
  suite.measure("index ring stream, 8 B", index_stream<8>);
  suite.measure("index ring stream, 64 B", index_stream<64>);
  suite.measure("stream 8 B", [] { return ring_stream<8>(Publish::now); });
  suite.measure("stream 64 B", [] { return ring_stream<64>(Publish::now); });
  suite.measure("batched 8 B", [] { return ring_stream<8>(Publish::later); });
  suite.measure("batched 64 B", [] { return ring_stream<64>(Publish::later); });
  suite.measure("bursts of 8 B", burst_stream);
  const auto higher = Better::higher;
  suite.row({"stream 8 B", "M/s", "stream 8 B", "index ring stream, 8 B", 1.5, higher});
  suite.row({"stream 64 B", "M/s", "stream 64 B", "index ring stream, 64 B", 1, higher});
  suite.row({"batched stream 8 B", "M/s", "batched 8 B", "index ring stream, 8 B", 3, higher});
  suite.row(
      {"stream of bursts of 8 B", "M/s", "bursts of 8 B", "index ring stream, 8 B", 3, higher});
  suite.row({"batched stream 64 B", "M/s", "batched 64 B", "index ring stream, 64 B", 0, higher});
  for (const bench::KernelPeer peer : bench::kKernelPeers) {
    const std::string measure = bench::name_of(peer) + std::string(" stream, 8 B");
    suite.measure(measure, [=] { return bench::kernel_stream(peer, 8); });
    suite.row({"stream 8 B", "M/s", "stream 8 B", measure, 0, higher});
  }
}

}  // namespace

int main(int argc, char** argv) {
  bench::Suite suite("ring");
  round_trips(suite);
  streams(suite);
  return suite.run(argc, argv);
}
