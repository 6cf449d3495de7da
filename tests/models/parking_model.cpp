// The parking spot of shm/parking.hpp under Relacy: two wakers each make one item, two waiters each
// take one; in a second suite a waiter may die, also with a wake-up in its hands, and the reaper
// rouses the spot. Checked: nobody sleeps for ever (a deadlock), and the item is seen with its
// data.
//
//   parking_model [iterations]           the spot as it is
//   parking_model mutant K [iterations]  one rule broken; must be caught
#include "shm/parking.hpp"
//
#include <string>

#include "relacy_platform.hpp"

namespace {

enum Mutant {
  kNone,
  kNoWaiterBarrier,  // the waiter looks at its condition before it is seen to sleep
  kNoWakerBarrier,   // the waker looks for sleepers before its condition is seen
  kNoEpoch,          // a wake does not change the word
  kClearAlone,       // the bit is taken away without waking those who slept before
  kNoRouse,          // nobody rouses the spot after a death
  kMutants
};

constexpr int kThreads = 4;

template <Mutant M>
struct Hook {
  static void before() {}
  static std::memory_order load_order(std::memory_order wanted) { return wanted; }
  static std::memory_order store_order(std::uint32_t, std::memory_order wanted) { return wanted; }
  static std::uint32_t stored(std::uint32_t value) { return value; }
  static std::uint32_t added(std::uint32_t value) { return M == kNoEpoch ? 0 : value; }
  static std::uint32_t exchanged(std::uint32_t expected, std::uint32_t value) {
    return M == kNoEpoch && value != expected ? (expected & ~1U) : value;
  }
};

// The kernel's side: a word is compared and its thread put to sleep under one lock.
struct Kernel {
  rl::mutex lock;
  rl::condition_variable woken;
  bool asleep[kThreads];
};
Kernel* g_kernel = nullptr;

template <Mutant M>
struct Platform {
  template <class T>
  using Atomic = model::Atomic<T, Hook<M>>;

  static void store_load_barrier() {
    if (M == kNoWaiterBarrier && rl::thread_index() >= 2) return;
    if (M == kNoWakerBarrier && rl::thread_index() < 2) return;
    rl::atomic_thread_fence(rl::mo_seq_cst, RL_INFO);
  }
  static int wait(Atomic<std::uint32_t>& word, std::uint32_t expected,
                  millrace::Timeout::Clock::time_point) {
    const unsigned me = rl::thread_index();
    g_kernel->lock.lock(RL_INFO);
    const bool sleeps = word.fetch_add(0, model::kSeqCst) == expected;
    g_kernel->asleep[me] = sleeps;
    while (g_kernel->asleep[me]) g_kernel->woken.wait(g_kernel->lock, RL_INFO);
    g_kernel->lock.unlock(RL_INFO);
    return sleeps ? 0 : EAGAIN;
  }
  static int wake(Atomic<std::uint32_t>&, int count) {
    if (M == kClearAlone && count == INT_MAX) return 0;
    int done = 0;
    g_kernel->lock.lock(RL_INFO);
    for (bool& asleep : g_kernel->asleep) {
      if (asleep && done < count) {
        asleep = false;
        ++done;
      }
    }
    if (done > 0) g_kernel->woken.notify_all(RL_INFO);
    g_kernel->lock.unlock(RL_INFO);
    return done;
  }
};

template <Mutant M, bool Mortal>
struct Suite : rl::test_suite<Suite<M, Mortal>, kThreads> {
  millrace::shm::BasicParkingSpot<Platform<M>> spot;
  Kernel kernel;
  rl::atomic<unsigned> items;
  rl::var<int> data;
  bool over;

  void before() {
    g_kernel = &kernel;
    for (bool& asleep : kernel.asleep) asleep = false;
    items(RL_INFO) = 0U;
    data(RL_INFO) = 0;
    over = false;
  }

  void thread(unsigned me) {
    if (me < 2) {
      wake(me);
    } else if (take(Mortal && me == 2)) {
      over = true;
      if (Mortal) spot.rouse();  // ends the other waiter, if it sleeps with nothing left to take
    } else if (M != kNoRouse) {
      spot.rouse();
    }
  }

  void wake(unsigned me) {
    if (Mortal && me == 1) return;  // one item, for the waiter that lives
    if (me == 0) data(RL_INFO) = 7;
    items.fetch_add(me == 0 ? 1 : 16, rl::mo_release, RL_INFO);
    spot.notify_one();
  }

  // An item of either waker; those of the first bring data along.
  bool try_take() {
    unsigned seen = items.load(rl::mo_acquire, RL_INFO);
    while (seen != 0) {
      const unsigned one = (seen & 15) != 0 ? 1 : 16;
      if (items.compare_exchange_strong(seen, seen - one, rl::mo_acquire, RL_INFO, rl::mo_relaxed,
                                        RL_INFO)) {
        if (one == 1) RL_ASSERT(int(data(RL_INFO)) == 7);
        return true;
      }
    }
    return false;
  }

  // Waits for an item. One that is to die does so at some step before it takes the item, and then
  // returns false; within prepare() and wait() a death leaves what one before or after them leaves.
  bool take(bool mortal) {
    const auto dies = [mortal] { return mortal && rl::rand(4) == 0; };
    const auto ready = [&] {
      return mortal ? over || items.load(rl::mo_acquire, RL_INFO) != 0 : try_take();
    };
    while (!ready()) {
      if (dies()) return false;
      const auto key = spot.prepare();
      if (dies()) return false;
      if (ready()) break;
      if (dies()) return false;
      spot.wait(key, {});
    }
    return !mortal;
  }
};

template <Mutant M>
int run_mutant(const char* name, unsigned long iterations) {
  return M == kNoRouse ? model::run<Suite<M, true>>(name, true, iterations)
                       : model::run<Suite<M, false>>(name, true, iterations);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 2 && std::string(argv[1]) == "mutant") {
    const unsigned long iterations = argc > 3 ? std::stoul(argv[3]) : 2000000;
    switch (std::atoi(argv[2])) {
      case kNoWaiterBarrier:
        return run_mutant<kNoWaiterBarrier>("mutant: no barrier before the waiter's look",
                                            iterations);
      case kNoWakerBarrier:
        return run_mutant<kNoWakerBarrier>("mutant: no barrier before the waker's look",
                                           iterations);
      case kNoEpoch:
        return run_mutant<kNoEpoch>("mutant: a wake leaves the word alone", iterations);
      case kClearAlone:
        return run_mutant<kClearAlone>("mutant: bit taken away without a wake", iterations);
      case kNoRouse:
        return run_mutant<kNoRouse>("mutant: no rouse after a death", iterations);
      default:
        return 2;
    }
  }
  const unsigned long iterations = argc > 1 ? std::stoul(argv[1]) : 600000;
  const int alive = model::run<Suite<kNone, false>>("parking", false, iterations);
  const int mortal = model::run<Suite<kNone, true>>("parking, a waiter dies", false, iterations);
  return alive + mortal;
}
