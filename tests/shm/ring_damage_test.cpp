// Rings whose shared words are overwritten at random while two processes use them, in memory beside
// which there is no page.
#include "tests/shm/ring_damage.hpp"

#include <cstdlib>

#include "shm/mpmc_ring.hpp"
#include "shm/spsc_ring.hpp"

namespace millrace::shm {
namespace {

struct Spsc {
  static constexpr SpscGeometry kGeometry{4, 512};
  static std::size_t bytes() { return SpscRing::bytes_for(kGeometry); }
  static std::size_t words() {
    return (bytes() - kGeometry.bulk_bytes) / 8;
  }  // not what is carried
  static void make(void* memory) { SpscRing::create(memory, kGeometry); }

  Spsc(void* memory, std::size_t bytes) : ring(SpscRing::attach(memory, bytes)) {}
  void send(Stage& stage, std::mt19937_64& random) {
    SpscRing::Producer to(ring);  // a successor's look at it, too
    for (int i = 0; i < kSteps; ++i) {
      // A damaged header may be that of another ring.
      const std::size_t size = random() % (i % 2 == 0 ? 200 : 60) % (to.max_message() + 1);
      if (i % 8 == 0) {
        // A line of one length.
        const std::byte line[kInLine] = {};
        const std::size_t each = size % kInLine / 8 * 8 + 8;
        if (each <= to.max_message()) (void)to.try_push_all(line, each, kInLine / each);
      } else if (std::byte* const room = to.try_reserve(size)) {
        std::memset(room, 7, size);
        to.commit(size);
      }
      stage.sent();
    }
  }
  void receive(Stage& stage) {
    SpscRing::Consumer from(ring);
    for (int i = 0; stage.worth_trying(i); ++i) {
      (void)from.has_message();
      if (i % 4 == 0) {
        // Those of one length in a row, if there are any.
        std::byte all[kAtOnce * kInLine];
        const std::size_t size = static_cast<std::size_t>(i) / 4 % (kInLine / 8) * 8 + 8;
        const std::size_t count = from.try_pop_all(all, size, kAtOnce);
        if (count > kAtOnce) std::abort();
        g_sum.fetch_add(sum(all, count * size), std::memory_order_relaxed);
        stage.taken.fetch_add(count, std::memory_order_relaxed);
        continue;
      }
      const SpscMessage message = from.try_peek();
      if (!message) continue;
      g_sum.fetch_add(sum(message.data, message.size), std::memory_order_relaxed);
      from.release();
      stage.taken.fetch_add(1, std::memory_order_relaxed);
    }
  }
  static constexpr std::size_t kAtOnce = 5;
  static constexpr std::size_t kInLine = 56;
  SpscRing ring;
};

struct Mpmc {
  struct Item {
    std::uint64_t word[4];
  };
  using Ring = MpmcRing<Item>;
  static std::size_t bytes() { return Ring::bytes_for(8); }
  static std::size_t words() { return bytes() / 8; }
  static void make(void* memory) { Ring::create(memory, 8); }

  Mpmc(void* memory, std::size_t bytes) : ring(Ring::attach(memory, bytes)) {}
  void send(Stage& stage, std::mt19937_64& random) {
    for (int i = 0; i < kSteps; ++i) {
      (void)ring.try_push(table, 1, Item{{random(), 0, 0, 0}});
      stage.sent();
    }
  }
  void receive(Stage& stage) {
    Item item{};
    for (int i = 0; stage.worth_trying(i); ++i) {
      const bool took = ring.try_pop(table, 2, scan, item) == RingResult::done;
      stage.taken.fetch_add(took ? 1 : 0, std::memory_order_relaxed);
    }
  }
  Ring ring;
  Ring::Scan scan;
  Immortals table;
};

// Lies against the one or the other end of its memory.
template <class Ring>
class Guarded {
 public:
  void make(std::uint32_t round) { Ring::make(place(round)); }
  Ring attach(std::uint32_t round) { return Ring(place(round), memory_.size()); }
  std::uint64_t* word(std::uint32_t round, std::mt19937_64& random) {
    return reinterpret_cast<std::uint64_t*>(place(round)) + random() % Ring::words();
  }
  static constexpr int most_damages(std::uint32_t) { return kDamages; }

 private:
  std::byte* place(std::uint32_t round) { return memory_.at(round % 2 == 0); }
  GuardedMemory memory_{Ring::bytes()};
};

using Rings = ::testing::Types<Guarded<Spsc>, Guarded<Mpmc>>;
TYPED_TEST_SUITE(RingDamage, Rings);

TYPED_TEST(RingDamage, WhileTwoProcessesUseItLeadsNobodyElsewhere) { this->run(); }  // R26

}  // namespace
}  // namespace millrace::shm
