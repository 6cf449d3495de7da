// The lock of shm/lock_word.hpp and the semaphore of shm/semaphore_word.hpp with their turnstile
// and parking spot, under Relacy.
//
// Lock: three processes take turns, one of which may be killed: before it takes the lock, while it
// waits, while it holds the lock, or after it gave it back and before it wakes anybody (every
// instruction between is the matter of tests/stress/sync_step_kill_test.cpp). Semaphore: permits
// given one after the other to processes that wait. Checked: never two inside; what one wrote the
// next one sees; whoever takes a dead owner's place is told so, once; nobody sleeps for ever (a
// deadlock), though nothing wakes but the lock itself and, in the suite with a death, slices that
// end; a free lock is there for who only tries.
//
//   lock_model [iterations]           as it is
//   lock_model mutant K [iterations]  one rule broken; must be caught
#include "shm/lock_word.hpp"
#include "shm/semaphore_word.hpp"
//
#include <string>

namespace {
constexpr int kTimedOut = ETIMEDOUT;  // Relacy has its own
constexpr int kChanged = EAGAIN;
}  // namespace

#include "relacy_platform.hpp"

namespace {

enum Mutant {
  kNone,
  kRelaxedTake,   // the lock is taken without seeing what its last holder did
  kRelaxedGive,   // it is given back before what was done is seen
  kNoBarrier,     // the giver looks for sleepers before the lock is seen free
  kStoreInherit,  // a dead owner's place is taken without asking who else does
  kClosedGate,    // who gives when nobody is behind leaves the gate closed
  kLateClear,     // who was woken clears `waking` after it has looked
  kStaleWaking,   // who found nobody to wake leaves `waking` set
  kNoPassing,     // one who took a permit does not look whether there is another
  kMutants
};

constexpr int kThreads = 3;
constexpr int kTurns = 2;

// Thrown where a process is killed.
struct Killed {};
enum Place { kBefore, kWaiting, kInside, kBeforeWake, kPlaces };

// The words in the order of their declaration.
enum Name { kWord, kSpot, kHurry, kWaking, kWords };

struct World {
  rl::mutex lock;
  rl::condition_variable woken;
  bool asleep[kThreads];
  bool waiting[kThreads];
  bool took[kThreads];        // something, while it waited
  rl::atomic<unsigned> dead;  // bit of each process whose death is established
  int mortal;                 // the process that is killed; -1: none
  Place place;                // where
  bool over;                  // all have gone, and `waking` of the dead is void
  void* words;                // where they begin
};
World* g_world = nullptr;

bool dies_at(Place place) {
  return static_cast<int>(rl::thread_index()) == g_world->mortal && g_world->place == place &&
         !g_world->over;
}

template <Mutant M>
struct Hook {
  static void before() {}
  static std::memory_order load_order(std::memory_order wanted) { return wanted; }
  static std::memory_order store_order(std::uint32_t, std::memory_order wanted) { return wanted; }
  static std::uint32_t stored(std::uint32_t value) { return value; }
  static std::uint32_t added(std::uint32_t value) { return value; }
  static std::uint32_t exchanged(std::uint32_t, std::uint32_t value) { return value; }
};

// relacy_platform.hpp's atomic with exchange(), and with the mutants' doings.
template <class T, Mutant M>
class Word : public model::Atomic<T, Hook<M>> {
  using Base = model::Atomic<T, Hook<M>>;

 public:
  using Base::Base;
  T exchange(T value, std::memory_order wanted) {
    T seen = this->load(model::kRelaxed);
    const auto order = M == kRelaxedGive ? model::kRelaxed : wanted;
    while (!Base::compare_exchange_strong(seen, value, order, model::kRelaxed)) {
    }
    return seen;
  }
  bool compare_exchange_strong(T& expected, T value, std::memory_order success,
                               std::memory_order failure) {
    if (M == kRelaxedTake) success = model::kRelaxed;
    if (M == kStoreInherit && expected != 0) {
      this->store(value, model::kSeqCst);
      return true;
    }
    return Base::compare_exchange_strong(expected, value, success, failure);
  }
  bool compare_exchange_weak(T& expected, T value, std::memory_order success,
                             std::memory_order failure) {
    const bool done = Base::compare_exchange_strong(expected, value, success, failure);
    const unsigned me = rl::thread_index();
    if (M == kNoPassing && done && g_world->waiting[me]) g_world->took[me] = true;
    return done;
  }
  T load(std::memory_order wanted) const {
    if (is(kWord) && g_world->took[rl::thread_index()]) return 0;
    return Base::load(wanted);
  }
  void store(T value, std::memory_order wanted) {
    const unsigned me = rl::thread_index();
    if (is(kHurry) && value == 0 && M == kClosedGate && !g_world->waiting[me]) return;
    if (is(kWaking) && value == 0) {
      if (M == kStaleWaking && !g_world->waiting[me]) return;
      if (M == kLateClear && g_world->waiting[me]) return;
    }
    Base::store(value, wanted);
  }

 private:
  [[nodiscard]] bool is(Name name) const {
    return this == static_cast<const Word*>(g_world->words) + name;
  }
};

template <Mutant M>
struct Platform {
  template <class T>
  using Atomic = Word<T, M>;
  using Spot = millrace::shm::BasicParkingSpot<Platform>;

  static void store_load_barrier() { rl::atomic_thread_fence(rl::mo_seq_cst, RL_INFO); }
  static void load_load_barrier() { store_load_barrier(); }
  static void barrier_after_rmw() {
    if (M != kNoBarrier) store_load_barrier();
  }
  static std::uint32_t stamp() { return 1; }
  static bool recent(std::uint32_t stamp) { return stamp != 0 && !g_world->over; }

  // Who waits in a world with deaths wakes up by itself in the end: a slice.
  static int wait(Atomic<std::uint32_t>& word, std::uint32_t expected,
                  millrace::Timeout::Clock::time_point) {
    const unsigned me = rl::thread_index();
    if (M == kLateClear) {
      g_world->waiting[me] = false;
      reinterpret_cast<Atomic<std::uint32_t>*>(g_world->words)[kWaking].store(0, model::kRelaxed);
      g_world->waiting[me] = true;
    }
    if (g_world->mortal >= 0) {
      rl::yield(1, RL_INFO);
      return word.load(model::kSeqCst) == expected ? kTimedOut : kChanged;
    }
    g_world->lock.lock(RL_INFO);
    const bool sleeps = word.fetch_add(0, model::kSeqCst) == expected;
    g_world->asleep[me] = sleeps;
    while (g_world->asleep[me]) g_world->woken.wait(g_world->lock, RL_INFO);
    g_world->lock.unlock(RL_INFO);
    return sleeps ? 0 : kChanged;
  }
  static int wake(Atomic<std::uint32_t>&, int count) {
    int done = 0;
    if (dies_at(kBeforeWake)) return count;
    g_world->lock.lock(RL_INFO);
    for (bool& asleep : g_world->asleep) {
      if (asleep && done < count) {
        asleep = false;
        ++done;
      }
    }
    if (done > 0) g_world->woken.notify_all(RL_INFO);
    g_world->lock.unlock(RL_INFO);
    return done;
  }
};

// A wait is late after its first sleep.
struct Pace {
  int sleeps = 0;
  Pace() { g_world->waiting[rl::thread_index()] = true; }
  ~Pace() { g_world->waiting[rl::thread_index()] = g_world->took[rl::thread_index()] = false; }
  [[nodiscard]] bool over() const { return false; }
  [[nodiscard]] bool late() const { return sleeps > 0; }
  [[nodiscard]] millrace::Timeout::Clock::time_point until() const { return {}; }
  void tick() { ++sleeps; }
  template <class Spot>
  [[nodiscard]] int sleep(Spot&) const {
    return 0;
  }
  void check() const {
    if (dies_at(kWaiting)) throw Killed();
  }
};

void begin(World& world, void* words, int mortal) {
  g_world = &world;
  for (int i = 0; i < kThreads; ++i) {
    world.asleep[i] = world.waiting[i] = world.took[i] = false;
  }
  world.dead(RL_INFO) = 0U;
  world.mortal = mortal;
  world.place = static_cast<Place>(rl::rand(kPlaces));
  world.over = false;
  world.words = words;
}

template <Mutant M, bool Mortal>
struct Suite : rl::test_suite<Suite<M, Mortal>, kThreads> {
  millrace::shm::BasicLockWord<Platform<M>> lock;
  World world;
  rl::var<int> guarded;
  int inside;
  int told;
  bool killed_inside;
  static_assert(sizeof lock == kWords * sizeof(Word<std::uint32_t, M>));

  void before() {
    begin(world, &lock, Mortal ? 0 : -1);
    guarded(RL_INFO) = 0;
    inside = 0;
    told = 0;
    killed_inside = false;
  }

  bool gone(std::uint32_t owner) {
    return (world.dead(RL_INFO).load(rl::mo_acquire) >> (owner - 1) & 1U) != 0;
  }

  void turn(unsigned me) {
    if (dies_at(kBefore)) throw Killed();
    if (!lock.try_take(me + 1)) {
      Pace pace;
      const auto taken = lock.take(
          me + 1, [this](std::uint32_t owner) { return gone(owner); }, pace);
      RL_ASSERT(taken.taken);
      if (taken.from != 0) {
        RL_ASSERT(taken.from == 1 && killed_inside && inside == 1);
        ++told;
        inside = 0;
      }
    }
    RL_ASSERT(inside == 0);
    inside = 1;
    guarded(RL_INFO) = guarded(RL_INFO) + 1;
    if (dies_at(kInside)) {
      killed_inside = true;
      throw Killed();
    }
    inside = 0;
    lock.give();
    if (dies_at(kBeforeWake)) throw Killed();
  }

  void thread(unsigned me) {
    try {
      for (int i = 0; i < kTurns; ++i) turn(me);
    } catch (const Killed&) {
      world.dead(RL_INFO).fetch_or(1U << me, rl::mo_release);
    }
  }

  // Nobody is left. Who comes now only tries.
  void after() {
    world.over = true;
    if (killed_inside && told == 0) {
      RL_ASSERT(lock.inherit(9, [this](std::uint32_t owner) { return gone(owner); }) == 1);
    } else {
      RL_ASSERT(told == (killed_inside ? 1 : 0));
      RL_ASSERT(lock.try_take(9));
    }
  }
};

// One gives as many permits as the others take.
template <Mutant M>
struct PermitSuite : rl::test_suite<PermitSuite<M>, kThreads> {
  millrace::shm::BasicSemaphoreWord<Platform<M>> semaphore;
  World world;

  void before() { begin(world, &semaphore, -1); }

  void thread(unsigned me) {
    for (int i = 0; i < kTurns * (me == 0 ? kThreads - 1 : 1); ++i) {
      if (me == 0) {
        RL_ASSERT(semaphore.give());
      } else if (!semaphore.try_take()) {
        Pace pace;
        RL_ASSERT(semaphore.take(pace));
      }
    }
  }

  void after() {
    RL_ASSERT(semaphore.count() == 0 && !semaphore.try_take());
    RL_ASSERT(semaphore.give() && semaphore.try_take());
  }
};

template <Mutant M>
int check(unsigned long iterations) {
  if (M == kNone) {
    return model::run<Suite<M, false>>("lock", false, iterations) |
           model::run<Suite<M, true>>("lock, with a death", false, iterations) |
           model::run<PermitSuite<M>>("semaphore", false, iterations);
  }
  if (M == kStoreInherit) return model::run<Suite<M, true>>("mutant", true, iterations);
  if (M == kNoPassing) return model::run<PermitSuite<M>>("mutant", true, iterations);
  return model::run<Suite<M, false>>("mutant", true, iterations);
}

template <int... K>
int check_one_of(int which, unsigned long iterations, std::integer_sequence<int, K...>) {
  int failed = 2;
  ((which == K ? void(failed = check<static_cast<Mutant>(K)>(iterations)) : void()), ...);
  return failed;
}

}  // namespace

int main(int argc, char** argv) {
  const bool mutant = argc > 2 && std::string(argv[1]) == "mutant";
  const int which = mutant ? std::atoi(argv[2]) : 0;
  const char* last = argc > (mutant ? 3 : 1) ? argv[mutant ? 3 : 1] : nullptr;
  const unsigned long iterations = last != nullptr ? std::strtoul(last, nullptr, 10) : 300000;
  return check_one_of(which, iterations, std::make_integer_sequence<int, kMutants>());
}
