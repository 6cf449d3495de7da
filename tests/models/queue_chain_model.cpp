// Chains of segments (shm/queue_ring.hpp, queue_chain.hpp, queue_walk.hpp) under Relacy: two
// producers and two consumers of an unbounded queue whose segments hold very few items, so that it
// grows, crosses, retires segments and uses them again; any of them may die ahead of any atomic
// operation. Checked: no value is taken twice, none is lost, also of consumers that died, order per
// producer across segments, no data race, no livelock.
//
//   queue_chain_model [iterations]           the algorithm as it is: no death, one, two
//   queue_chain_model mutant K [iterations]  one rule broken; must be caught
#include "queue_chain_platform.hpp"

namespace {

// The process table of the model: ids 1 to 4.
struct Table {
  rl::atomic<unsigned> dead[4];
  rl::atomic<std::uint64_t> count;
  struct Count {
    const rl::atomic<std::uint64_t>* word;
    std::uint64_t load(std::memory_order wanted) const {
      return g_mutant == kNoRescan ? 0 : word->load(model::order(wanted), RL_INFO);
    }
  };
  bool is_dead(std::uint32_t owner) {
    return owner != 0 && dead[owner - 1].load(rl::mo_acquire, RL_INFO) != 0;
  }
  Count deaths() const { return {&count}; }
  void check_alive(std::uint32_t) {}
  void abandon(QueueSlot& slot, std::uint64_t seen) { queue_abandon(slot, seen); }
  void mark(unsigned index) {
    dead[index].store(1, rl::mo_release, RL_INFO);
    count.fetch_add(1, rl::mo_release, RL_INFO);
  }
};

template <int Deaths, int Slots, int Items>
struct Suite : rl::test_suite<Suite<Deaths, Slots, Items>, 4> {
  rl::atomic<std::uint64_t> cells[kCells];
  rl::var<int> values[kSegments][kMostSlots];
  Table table;
  rl::atomic<unsigned> finished;  // producers that are through, 16 a consumer
  int pushed[4], got[4][Items + 1], last[4][4];
  bool died[4];
  int consumers_died;
  static inline Suite* current = nullptr;

  void before() {
    current = this;
    g_cells = cells;
    g_deaths_left = Deaths;
    g_on_death = [](unsigned me) { current->die(me); };
    lay_out();
    for (auto& d : table.dead) d(RL_INFO) = 0U;
    table.count(RL_INFO) = 0ULL;
    finished(RL_INFO) = 0U;
    consumers_died = 0;
    for (int i = 0; i < 4; ++i) {
      g_may_die[i] = false;
      died[i] = false;
      pushed[i] = 0;
      for (int& g : got[i]) g = 0;
      for (int& l : last[i]) l = 0;
    }
  }

  // Every word gets a cell; the queue is as queue_create() leaves it.
  void lay_out() {
    for (auto& each : cells) each(RL_INFO) = 0ULL;
    std::uint64_t next = 0;
    const auto give = [&](auto& word) { word.cell_ = next++; };
    QueueHeader& q = header();
    give(q.segments), give(q.spare), give(q.extra), give(q.scar);
    give(q.first), give(q.last), give(q.oldest);
    q.slot_shift = kSlotShift;
    q.ring = 0;
    for (int i = 0; i < kSegments; ++i) {
      QueueSegment& s = segment(i);
      give(s.claim), give(s.next), give(s.start), give(s.end), give(s.drained);
      give(s.head), give(s.tail);
      queue_seal(s, Slots, kSlotShift, 0);
      for (int j = 0; j < kMostSlots; ++j) give(slot(i, j).state);
    }
    g_grown = kFirstSegments;
    for (int i = 1; i < kFirstSegments; ++i) {
      queue_seal(segment(i - 1), Slots, kSlotShift, queue_page(segment(i)));
    }
    cells[q.segments.cell_](RL_INFO) = queue_page(segment(0));
    cells[segment(0).end.cell_](RL_INFO) = static_cast<std::uint64_t>(Slots);
    for (auto* link : {&q.first, &q.last, &q.oldest}) cells[link->cell_](RL_INFO) = 2ULL;
  }

  void die(unsigned me) {
    died[me] = true;
    if (me >= kProducers) ++consumers_died;
    table.mark(me);
  }

  rl::var<int>& value_of(const QueueHeld& held) {
    const auto at = reinterpret_cast<std::uintptr_t>(held.slot) - kArenaBase;
    return values[at / kPageBytes - 2][(at % kPageBytes - sizeof(QueueSegment)) >> kSlotShift];
  }

  void push(QueueRing& ring, unsigned me, int value) {
    QueueHeld held;
    std::uint32_t blocker = 0;
    RL_ASSERT(ring.claim_room(table, me + 1, held, blocker) == RingResult::done);
    value_of(held)(RL_INFO) = value;
    QueueRing::publish(held, me + 1);
  }
  RingResult pop(QueueRing& ring, unsigned me, QueueScan& scan, int& value) {
    QueueHeld held;
    const RingResult result = ring.claim_item(table, me + 1, scan, held);
    if (result != RingResult::done) return result;
    value = value_of(held)(RL_INFO);
    (QueueRing::free)(held);  // Relacy has a macro of that name
    return result;
  }

  // One operation on the queue, in which this thread may die: false when it did.
  template <class Operation>
  static bool survives(unsigned me, Operation&& operation) {
    g_may_die[me] = true;
    try {
      operation();
    } catch (const Died&) {
      return false;
    }
    g_may_die[me] = false;
    return true;
  }

  void thread(unsigned me) {
    QueueRing ring(header(), kPages * kPageBytes);
    if (me < kProducers) {
      produce(ring, me);
      finished.fetch_add(1, rl::mo_acq_rel, RL_INFO);
    } else {
      QueueScan scan;
      const bool lives = consume(ring, me, scan);
      finished.fetch_add(16, rl::mo_acq_rel, RL_INFO);
      if (lives) linger(ring, me, scan);
    }
  }

  void produce(QueueRing& ring, unsigned me) {
    for (int item = 1; item <= Items; ++item) {
      if (!survives(me, [&] { push(ring, me, static_cast<int>(me) * 16 + item); })) return;
      pushed[me] = item;
    }
  }

  // Takes values until the producers are through and nothing is left; false when it died.
  bool consume(QueueRing& ring, unsigned me, QueueScan& scan) {
    for (;;) {
      const bool through = (finished.load(rl::mo_acquire, RL_INFO) & 15) == kProducers;
      int value = 0;
      RingResult result = RingResult::none;
      if (!survives(me, [&] { result = pop(ring, me, scan, value); })) return false;
      if (result == RingResult::done) {
        take(me, value, true);
      } else if (through && result == RingResult::none) {
        return true;
      } else {
        rl::yield(1, RL_INFO);
      }
    }
  }

  // The other consumer may still die with a value in its hands: it must come out here.
  void linger(QueueRing& ring, unsigned me, QueueScan& scan) {
    for (;;) {
      const bool other_through = finished.load(rl::mo_acquire, RL_INFO) >= 32 || died[me ^ 1];
      int value = 0;
      const RingResult result = pop(ring, me, scan, value);
      if (result == RingResult::done) {
        take(me, value, false);
      } else if (other_through && result == RingResult::none) {
        return;
      } else {
        rl::yield(1, RL_INFO);
      }
    }
  }

  void take(unsigned me, int value, bool in_order) {
    const int producer = value / 16;
    const int item = value % 16;
    RL_ASSERT(producer < kProducers && item >= 1 && item <= Items);
    ++got[producer][item];
    if (in_order && consumers_died == 0) RL_ASSERT(item > last[me][producer]);
    last[me][producer] = item;
  }

  void after() {
    if (died[2] && died[3]) return;
    int missing = 0;
    for (int producer = 0; producer < kProducers; ++producer) {
      for (int item = 1; item <= Items; ++item) {
        RL_ASSERT(got[producer][item] <= 1);
        if (item <= pushed[producer] && got[producer][item] == 0) ++missing;
      }
    }
    RL_ASSERT(missing == 0);  // a consumer dies ahead of giving the slot back, or not in its call
  }
};

}  // namespace

int main(int argc, char** argv) {
  if (::mmap(page(0), (kSegments + 2) * kPageBytes, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != page(0)) {
    std::perror("mmap");
    return 2;
  }
  static constexpr const char* kNames[kMutants] = {"",
                                                   "mutant: no rescan after a death",
                                                   "mutant: READY forgets its producer",
                                                   "mutant: dead producer's slot keeps its lap",
                                                   "mutant: relaxed publish",
                                                   "mutant: relaxed free",
                                                   "mutant: retired before its last slot is free",
                                                   "mutant: a free slot is left behind",
                                                   "mutant: a segment keeps its lap",
                                                   "mutant: relaxed start"};
  if (argc > 2 && std::string(argv[1]) == "mutant") {
    const int mutant = std::atoi(argv[2]);
    if (mutant <= kNone || mutant >= kMutants) return 2;
    g_mutant = static_cast<Mutant>(mutant);
    return model::run<Suite<1, 2, 3>>(kNames[mutant], true,
                                      argc > 3 ? std::stoul(argv[3]) : 2000000);
  }
  const unsigned long iterations = argc > 1 ? std::stoul(argv[1]) : 40000;
  return model::run<Suite<0, 2, 3>>("no death", false, iterations) +
         model::run<Suite<1, 2, 3>>("one death", false, iterations) +
         model::run<Suite<2, 2, 3>>("two deaths", false, iterations) +
         model::run<Suite<1, 1, 3>>("one death, an item a segment", false, iterations);
}
