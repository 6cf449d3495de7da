// The algorithm of shm/mpmc_core.hpp under Relacy: two producers and two consumers on two slots, so
// that laps wrap; any of them may die ahead of any atomic operation. Checked: no value is taken
// twice, none is lost but with a consumer that died, order per producer, no data race, no livelock.
//
//   mpmc_model [iterations]           the algorithm as it is, with one and with two deaths
//   mpmc_model mutant K [iterations]  one rule broken; must be caught
#include "shm/mpmc_core.hpp"
//
#include "relacy_platform.hpp"

namespace millrace::shm {

void mpmc_corrupt(const void*, std::uint64_t) {
  RL_ASSERT(!"a state that no rule produces");
  std::abort();
}

}  // namespace millrace::shm

namespace {

using millrace::shm::RingResult;

constexpr int kSlots = 2;
constexpr int kItems = 2;
constexpr int kProducers = 2;

enum Mutant {
  kNone,
  kNoRescan,    // consumers do not look behind the hint after a death
  kNoProducer,  // READY does not keep the producer's id: a passed producer is overtaken by itself
  kSameLap,     // a dead producer's slot becomes FREE of the same lap
  kRelaxedPublish,  // READY is stored relaxed
  kRelaxedFree,     // FREE is stored relaxed
  kMutants
};

struct Died {};

// Relacy runs one thread at a time, as fibers of this one, so plain globals hold its state.
int g_deaths_left = 0;
bool g_may_die[4];
void (*g_on_death)(unsigned) = nullptr;

template <Mutant M>
struct Hook {
  static unsigned tag(std::uint64_t state) { return static_cast<unsigned>(state & 3); }
  // Ahead of every operation on the ring: here a process may be killed.
  static void before() {
    const unsigned me = rl::thread_index();
    if (me >= 4 || !g_may_die[me] || g_deaths_left == 0 || rl::rand(4) != 0) return;
    --g_deaths_left;
    g_may_die[me] = false;
    g_on_death(me);
    throw Died{};
  }
  static std::memory_order load_order(std::memory_order wanted) { return wanted; }
  static std::memory_order store_order(std::uint64_t value, std::memory_order wanted) {
    if (wanted != model::kRelease) return wanted;
    if (M == kRelaxedPublish && tag(value) == 2) return model::kRelaxed;
    if (M == kRelaxedFree && tag(value) == 0) return model::kRelaxed;
    return wanted;
  }
  static std::uint64_t added(std::uint64_t value) { return value; }
  static std::uint64_t stored(std::uint64_t value) {
    const bool publishes = tag(value) == 2 && (value >> 2 & 0x3ffffff) != 0;
    return M == kNoProducer && publishes ? (value >> 28 << 28 | 2) : value;
  }
  static std::uint64_t exchanged(std::uint64_t expected, std::uint64_t value) {
    const bool given_up = tag(expected) == 1 && tag(value) == 0;
    return M == kSameLap && given_up ? value - (1ULL << 28) : value;
  }
};

template <Mutant M>
struct Platform {
  template <class T>
  using Atomic = model::Atomic<T, Hook<M>>;
  template <class T>
  struct Cell {
    rl::var<T> value;
    void store(const T& from) { value(RL_INFO) = from; }
    void load(T& to) const { to = const_cast<Cell*>(this)->value(RL_INFO); }
  };
};

// The process table of the model: ids 1 to 4.
template <Mutant M>
struct Table {
  rl::atomic<unsigned> dead[4];
  rl::atomic<std::uint64_t> count;
  struct Count {
    const rl::atomic<std::uint64_t>* word;
    std::uint64_t load(std::memory_order wanted) const {
      return M == kNoRescan ? 0 : word->load(model::order(wanted), RL_INFO);
    }
  };
  bool is_dead(std::uint32_t owner) { return dead[owner - 1].load(rl::mo_acquire, RL_INFO) != 0; }
  Count deaths() const { return {&count}; }
  void check_alive(std::uint32_t) {}
  void mark(unsigned index) {
    dead[index].store(1, rl::mo_release, RL_INFO);
    count.fetch_add(1, rl::mo_release, RL_INFO);
  }
};

template <Mutant M, int Deaths>
struct Suite : rl::test_suite<Suite<M, Deaths>, 4> {
  using Core = millrace::shm::MpmcCore<int, Platform<M>>;
  typename Core::Hints hints;
  typename Core::Slot slots[Core::spread(kSlots)];
  Table<M> table;
  rl::atomic<unsigned> finished;  // producers that are through, 16 a consumer
  int pushed[4], got[4][kItems + 1], last[4][4];
  bool died[4];
  int consumers_died;
  static inline Suite* current = nullptr;

  void before() {
    current = this;
    g_deaths_left = Deaths;
    g_on_death = [](unsigned me) { current->die(me); };
    for (auto& d : table.dead) d(RL_INFO) = 0U;
    table.count(RL_INFO) = 0ULL;
    finished(RL_INFO) = 0U;
    consumers_died = 0;
    for (int i = 0; i < 4; ++i) {
      died[i] = false;
      pushed[i] = 0;
      for (int& g : got[i]) g = 0;
      for (int& l : last[i]) l = 0;
    }
  }

  void die(unsigned me) {
    died[me] = true;
    if (me >= kProducers) ++consumers_died;
    table.mark(me);
  }

  // One operation on the ring, in which this thread may die: false when it did.
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
    Core core(hints, slots, kSlots);
    if (me < kProducers) {
      produce(core, me);
      finished.fetch_add(1, rl::mo_acq_rel, RL_INFO);
    } else if (consume(core, me)) {
      finished.fetch_add(16, rl::mo_acq_rel, RL_INFO);
      linger(core, me);
    } else {
      finished.fetch_add(16, rl::mo_acq_rel, RL_INFO);
    }
  }

  void produce(Core& core, unsigned me) {
    for (int item = 1; item <= kItems; ++item) {
      for (RingResult result = RingResult::none; result != RingResult::done;) {
        const int value = static_cast<int>(me) * 16 + item;
        if (!survives(me, [&] { result = core.try_push(table, me + 1, value); })) return;
        if (result == RingResult::done) break;
        if (died[2] && died[3]) return;
        rl::yield(1, RL_INFO);
      }
      pushed[me] = item;
    }
  }

  // Takes values until the producers are through and nothing is left; false when it died.
  bool consume(Core& core, unsigned me) {
    typename Core::Scan scan;
    for (;;) {
      const bool through = (finished.load(rl::mo_acquire, RL_INFO) & 15) == kProducers;
      int value = 0;
      RingResult result = RingResult::none;
      if (!survives(me, [&] { result = core.try_pop(table, me + 1, scan, value); })) return false;
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
  void linger(Core& core, unsigned me) {
    typename Core::Scan scan;
    for (;;) {
      const bool other_through = finished.load(rl::mo_acquire, RL_INFO) >= 32 || died[me ^ 1];
      int value = 0;
      const RingResult result = core.try_pop(table, me + 1, scan, value);
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
    RL_ASSERT(producer < kProducers && item >= 1 && item <= kItems);
    ++got[producer][item];
    if (in_order && consumers_died == 0) RL_ASSERT(item > last[me][producer]);
    last[me][producer] = item;
  }

  void after() {
    if (died[2] && died[3]) return;
    int missing = 0;
    for (int producer = 0; producer < kProducers; ++producer) {
      for (int item = 1; item <= kItems; ++item) {
        RL_ASSERT(got[producer][item] <= 1);
        if (item <= pushed[producer] && got[producer][item] == 0) ++missing;
      }
    }
    RL_ASSERT(missing <= consumers_died);
  }
};

template <Mutant M>
int run_mutant(unsigned long iterations) {
  static constexpr const char* kNames[] = {"",
                                           "mutant: no rescan after a death",
                                           "mutant: READY forgets its producer",
                                           "mutant: dead producer's slot keeps its lap",
                                           "mutant: relaxed publish",
                                           "mutant: relaxed free"};
  return model::run<Suite<M, 1>>(kNames[M], true, iterations);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 2 && std::string(argv[1]) == "mutant") {
    const unsigned long iterations = argc > 3 ? std::stoul(argv[3]) : 2000000;
    switch (std::atoi(argv[2])) {
      case kNoRescan:
        return run_mutant<kNoRescan>(iterations);
      case kNoProducer:
        return run_mutant<kNoProducer>(iterations);
      case kSameLap:
        return run_mutant<kSameLap>(iterations);
      case kRelaxedPublish:
        return run_mutant<kRelaxedPublish>(iterations);
      case kRelaxedFree:
        return run_mutant<kRelaxedFree>(iterations);
      default:
        return 2;
    }
  }
  const unsigned long iterations = argc > 1 ? std::stoul(argv[1]) : 150000;
  const int alive = model::run<Suite<kNone, 0>>("no death", false, iterations / 2);
  const int once = model::run<Suite<kNone, 1>>("one death", false, iterations);
  const int twice = model::run<Suite<kNone, 2>>("two deaths", false, iterations);
  return alive + once + twice;
}
