// shm/spsc_ring.hpp and its .cpp as they stand, with a word of Relacy's in the place of
// std::atomic: a producer and a consumer on two lines and two units of bulk, so that both wrap;
// messages that share a line, close one, fill one or lie in bulk, published at once or in batches.
// Both ends sleep as the ring makes them; in a second suite the producer dies ahead of any
// operation and another takes its place, in a third the consumer does. Checked: every message
// arrives once, whole and in order, but for those that died unpublished with their producer, and
// those that a consumer had not given back; no data race on a byte of them; nobody sleeps for ever.
//
//   spsc_model [iterations]           the ring as it is
//   spsc_model mutant K [iterations]  one rule broken; must be caught
#include <cstring>
#include <string>

#include "spsc_model_ring.hpp"

namespace {

// Messages are numbered from 1: two share a line, bulk, one that closes its line, a full line,
// bulk, all of the bulk at once, one more; then the last one, and another in case that its producer
// died.
constexpr std::size_t kSizes[] = {0, 24, 24, 60, 8, 56, 60, 256, 16, 8, 8};
constexpr int kLast = 9;

template <Mutant M, Harm H>
struct Suite : rl::test_suite<Suite<M, H>, 2> {
  static constexpr millrace::shm::WaitPolicy kPark{.yields = 0};
  static constexpr std::size_t kBytes = 768;  // bytes_for(kGeometry)
  Words words;
  rl::var<int> owners[kBytes / 8];  // the message to which eight bytes of the ring belong
  alignas(64) std::byte memory[kBytes];
  alignas(SpscRing) std::byte ring_memory[sizeof(SpscRing)];
  SpscRing* ring;
  int tried;               // the producer's last message
  int sure;                // the last one that it published for sure
  int lost_from, lost_to;  // those that a producer's death may have taken along
  int next;                // what the consumer has to see next

  void before() {
    g_words = &words;
    g_made[0] = g_made[1] = 0;
    g_mutant = M;
    g_mortal = H == Harm::none ? 2 : H == Harm::producer ? 0 : 1;
    g_gone = false;
    g_swap = g_late = false;
    g_deaths_left = 0;
    std::memset(g_seen, 0, sizeof g_seen);
    std::memset(g_last, 0, sizeof g_last);
    g_asleep[0] = g_asleep[1] = false;
    ring = new (ring_memory) SpscRing(SpscRing::create(memory, kGeometry));
    g_deaths_left = 1;
    tried = sure = lost_to = 0;
    lost_from = next = 1;
  }

  void thread(unsigned me) {
    try {
      me == kProducer ? produce() : consume();
    } catch (const millrace::Corrupt&) {
      RL_ASSERT(!"the ring says that it is damaged");
    }
  }

  bool dead() const { return rl::thread_index() == g_mortal && g_gone; }
  rl::var<int>& owner(const std::byte* at) {
    return owners[static_cast<std::size_t>(at - memory) / 8];
  }

  // --- the producer, and another one in its place ---
  void produce() {
    while (!send_all()) {
      lost_from = sure + 1;
      lost_to = tried;
      g_gone = false;
    }
  }

  // False when it died.
  bool send_all() {
    SpscRing::Producer producer(*ring);
    while (tried < kLast || sure < tried) {
      ++tried;
      const bool now = tried >= kLast || rl::rand(2) == 0;
      if (!send(producer, now)) return false;
      if (now) sure = tried;
      if (rl::rand(4) == 0 || tried >= kLast) producer.wake();
      if (dead()) return false;
    }
    return true;
  }

  bool send(SpscRing::Producer& producer, bool now) {
    const std::size_t size = kSizes[tried];
    std::byte* place = room_for(producer, size);
    if (dead()) return false;
    for (std::size_t i = 0; i < size; i += 8) owner(place + i)(RL_INFO) = tried;
    producer.commit(size, now ? Publish::now : Publish::later);
    return !dead();
  }

  std::byte* room_for(SpscRing::Producer& producer, std::size_t size) {
    if (H == Harm::none) return producer.reserve(size, kPark);
    std::byte* place = nullptr;
    while ((place = producer.try_reserve(size)) == nullptr && !dead()) rl::yield(1, RL_INFO);
    return place;
  }

  // --- the consumer, and another one in its place ---
  void consume() {
    bool successor = false;
    while (!take_all(successor)) {
      g_gone = false;
      successor = true;
    }
  }

  // False when it died.
  bool take_all(bool successor) {
    SpscRing::Consumer consumer(*ring);
    for (; next <= kLast; successor = false) {
      const SpscMessage message = look(consumer);
      if (dead()) return false;
      const int number = owner(message.data)(RL_INFO);
      RL_ASSERT(number == next || (successor && number < next) ||
                (next >= lost_from && number == lost_to + 1));
      RL_ASSERT(message.size == kSizes[number]);
      for (std::size_t i = 0; i < message.size; i += 8) {
        RL_ASSERT(int(owner(message.data + i)(RL_INFO)) == number);
      }
      next = number + 1;
      consumer.release();
      if (dead()) return false;
    }
    consumer.give_back();
    return !dead();
  }

  SpscMessage look(SpscRing::Consumer& consumer) {
    if (H == Harm::none) return consumer.peek(kPark);
    SpscMessage message;
    while (!(message = consumer.try_peek()) && !dead()) rl::yield(1, RL_INFO);
    return message;
  }
};

struct Case {
  const char* name;
  int (*run)(const char* name, bool mutant, unsigned long iterations);
};
constexpr Case kMutants[] = {
    {"relaxed line", &model::run<Suite<kRelaxedLine, Harm::none>>},
    {"relaxed cursor", &model::run<Suite<kRelaxedCursor, Harm::none>>},
    {"relaxed bulk", &model::run<Suite<kRelaxedBulk, Harm::none>>},
    {"tail too early", &model::run<Suite<kEarlyTail, Harm::none>>},
    {"lines not closed", &model::run<Suite<kNoClose, Harm::none>>},
    {"no look for a producer", &model::run<Suite<kNoRoomLook, Harm::none>>},
    {"consumer without barrier", &model::run<Suite<kNoConsumerBarrier, Harm::none>>},
    {"producer without barrier", &model::run<Suite<kNoProducerBarrier, Harm::none>>},
    {"bulk given back first", &model::run<Suite<kBulkFirst, Harm::consumer>>},
    {"producer blind to claims", &model::run<Suite<kProducerUnclaimed, Harm::producer>>},
    {"consumer blind to claims", &model::run<Suite<kConsumerUnclaimed, Harm::consumer>>},
    {"no second look", &model::run<Suite<kNoSecondLook, Harm::producer>>},
    {"owned too late", &model::run<Suite<kLateOwn, Harm::none>>},
};

}  // namespace

int main(int argc, char** argv) {
  if (argc > 2 && std::string(argv[1]) == "mutant") {
    const auto number = std::stoul(argv[2]) - 1;
    if (number >= std::size(kMutants)) return 2;
    return kMutants[number].run(kMutants[number].name, true,
                                argc > 3 ? std::stoul(argv[3]) : 2000000);
  }
  const unsigned long iterations = argc > 1 ? std::stoul(argv[1]) : 100000;
  return model::run<Suite<kNone, Harm::none>>("no death", false, iterations) +
         model::run<Suite<kNone, Harm::producer>>("a producer dies", false, iterations) +
         model::run<Suite<kNone, Harm::consumer>>("a consumer dies", false, iterations);
}
