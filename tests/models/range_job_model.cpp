// The algorithm of sched/range_job.hpp under Relacy, in small: three chunks, of which the first two
// are one grab. A worker that may die ahead of any atomic operation, another one, and a waiter that
// sleeps, repairs, cancels, and starts a second job in the same record. Checked: a chunk is
// finished once or lost, never both; completion means that every word is final and its results are
// seen (data races); nobody waits for ever; a late worker of the first job does not harm the
// second.
//
//   range_job_model [iterations]           the algorithm as it is
//   range_job_model mutant K [iterations]  one rule broken; must be caught
#include <cstdint>
#include <string>

#include "relacy_platform.hpp"

namespace {

using model::kAcqRel;
using model::kAcquire;
using model::kRelaxed;
using model::kRelease;
using model::kSeqCst;

constexpr int kChunks = 3;
constexpr int kGrabs = 2;
constexpr int kFirstOfGrab[kGrabs + 1] = {0, 2, 3};
constexpr unsigned kGenerations = 2;
enum State : unsigned { kFree, kRunning, kDone, kLost };

enum Mutant {
  kNone,
  kStoreDone,     // finish() stores DONE instead of exchanging
  kCountFirst,    // the count is raised ahead of its word
  kSharedCount,   // one count for all: nothing mends the increment of a worker that died
  kRelaxedDone,   // DONE is published relaxed
  kRelaxedCount,  // the count is published relaxed
  kTakingCursor,  // the cursor is moved by fetch_add: late workers take grabs of the next job
  kNoSweep,       // nobody looks below the cursor after a repair
  kSilentLeave,   // the last count is not ordered before the look at the sleeper
  kMutants
};

struct Died {};

int g_deaths_left = 0;
bool g_mortal = false;  // the thread that runs now is in the part where it may die

struct Hook {
  static void before() {
    if (!g_mortal || rl::thread_index() != 0 || g_deaths_left == 0 || rl::rand(12) != 0) return;
    --g_deaths_left;
    throw Died{};
  }
  static std::memory_order load_order(std::memory_order wanted) { return wanted; }
  static std::memory_order store_order(std::uint64_t, std::memory_order wanted) { return wanted; }
  static std::uint64_t stored(std::uint64_t value) { return value; }
  static std::uint64_t added(std::uint64_t value) { return value; }
  static std::uint64_t exchanged(std::uint64_t, std::uint64_t value) { return value; }
};
using Word = model::Atomic<std::uint64_t, Hook>;

std::uint64_t tagged(unsigned generation, std::uint64_t low) {
  return std::uint64_t{generation} << 32 | low;
}
unsigned generation_of(std::uint64_t word) { return static_cast<unsigned>(word >> 32); }
std::uint64_t low_of(std::uint64_t word, unsigned generation) {
  if (generation_of(word) == generation) return word & 0xffffffff;
  return generation_of(word) > generation ? kDone : kFree;
}
std::uint64_t running(unsigned generation, unsigned owner) {
  return tagged(generation, owner << 2 | kRunning);
}

// Seats 0 and 1 are workers, seat 2 the waiter, which helps after a repair. Owner = seat + 1.
template <Mutant M, bool Deaths>
struct Suite : rl::test_suite<Suite<M, Deaths>, 3> {
  Word epoch, cursor, disturbed, rescan, asleep, wakes, dead, words[kChunks], counts[3];
  rl::var<int> data[kGenerations + 1][kChunks];
  int finished[kGenerations + 1][kChunks];
  int lost[kGenerations + 1][kChunks];

  void before() {
    g_deaths_left = Deaths ? 1 : 0;
    g_mortal = false;
    for (auto& generation : finished) {
      for (int& count : generation) count = 0;
    }
    for (auto& generation : lost) {
      for (int& count : generation) count = 0;
    }
  }

  void thread(unsigned me) {
    if (me == 2) return wait();
    try {
      for (unsigned g = 1; g <= kGenerations; ++g) {
        unsigned seen = 0;
        while ((seen = static_cast<unsigned>(epoch.load(kAcquire))) < g) rl::yield(1, RL_INFO);
        if (seen != g) continue;  // too late to join
        g_mortal = g_mortal || me == 0;
        work(me, g);
      }
    } catch (const Died&) {
      g_mortal = false;
      dead.store(1, kRelease);
      wakes.fetch_add(1, kAcqRel);  // the kernel tells
      return;
    }
    if (me == 0) g_mortal = false;
  }

  // --- workers ---
  void work(unsigned me, unsigned g) {
    std::uint64_t repairs = rescan.load(kAcquire);
    bool sweep = disturbed.load(kSeqCst) == g;
    for (;;) {
      const int grab = next_grab(g);
      if (grab < kGrabs) {
        for (int c = kFirstOfGrab[grab]; c < kFirstOfGrab[grab + 1]; ++c) run(me, g, c);
        continue;
      }
      const std::uint64_t now = rescan.load(kAcquire);
      sweep = sweep || now != repairs;
      repairs = now;
      if (!sweep || M == kNoSweep) break;
      for (int c = kChunks; c-- > 0;) run(me, g, c);
      sweep = false;
    }
    leave(me, g);
  }

  int next_grab(unsigned g) {
    std::uint64_t seen = cursor.load(kRelaxed);
    for (;;) {
      if (generation_of(seen) > g) return kGrabs;
      const auto number = generation_of(seen) == g ? static_cast<int>(seen & 0xffffffff) : 0;
      if (number >= kGrabs) return kGrabs;
      if (!Deaths && rl::rand(4) == 0) long_preemption(g);
      if (M == kTakingCursor && generation_of(seen) == g) {
        const std::uint64_t taken = cursor.fetch_add(1, kRelaxed);
        return generation_of(taken) == g ? static_cast<int>(taken & 0xffffffff) : kGrabs;
      }
      if (cursor.compare_exchange_strong(seen, tagged(g, static_cast<unsigned>(number) + 1),
                                         kRelaxed, kRelaxed)) {
        return number;
      }
    }
  }

  // A random scheduler hardly ever lets a thread stand still while a whole job passes.
  void long_preemption(unsigned g) {
    for (int i = 0; i < 100 && generation_of(cursor.load(kRelaxed)) <= g; ++i) {
      rl::yield(1, RL_INFO);
    }
  }

  void run(unsigned me, unsigned g, int c) {
    std::uint64_t seen = words[c].load(kRelaxed);
    if ((low_of(seen, g) & 3) != kFree) return;
    std::uint64_t mine = running(g, me + 1);
    if (!words[c].compare_exchange_strong(seen, mine, kAcquire, kRelaxed)) return;
    data[g][c](RL_INFO) = static_cast<int>(me) + 1;
    if (M == kCountFirst) raise_count(me, g);
    const std::uint64_t done = tagged(g, (me + 1) << 2 | kDone);
    if (M == kStoreDone) {
      words[c].store(done, kRelease);
    } else if (!words[c].compare_exchange_strong(
                   mine, done, M == kRelaxedDone ? kRelaxed : kRelease, kRelaxed)) {
      return;
    }
    ++finished[g][c];
    if (M != kCountFirst) raise_count(me, g);
  }

  void raise_count(unsigned me, unsigned g) {
    Word& count = counts[M == kSharedCount ? 0 : me];
    std::uint64_t seen = count.load(kRelaxed);
    const auto next = [&] { return tagged(g, generation_of(seen) == g ? (seen & 0xff) + 1 : 1); };
    if (M == kSharedCount) {
      while (!count.compare_exchange_strong(seen, next(), kAcqRel, kRelaxed)) {
      }
      return;
    }
    count.store(next(), M == kRelaxedCount ? kRelaxed : kRelease);
  }

  void leave(unsigned me, unsigned g) {
    if (M == kSilentLeave) {
      const std::uint64_t seen = counts[me].load(kRelaxed);
      counts[me].store(generation_of(seen) == g ? seen : tagged(g, 0), kRelease);
    } else if (M == kSharedCount) {
      counts[0].fetch_add(0, kSeqCst);
    } else {
      std::uint64_t seen = counts[me].load(kRelaxed);
      const std::uint64_t same = generation_of(seen) == g ? seen : tagged(g, 0);
      counts[me].compare_exchange_strong(seen, same, kSeqCst, kRelaxed);  // nobody else writes it
    }
    if (asleep.load(M == kSilentLeave ? kRelaxed : kSeqCst) != 0) wakes.fetch_add(1, kAcqRel);
  }

  // --- the waiter ---
  std::uint64_t done(unsigned g) {
    std::uint64_t sum = 0;
    for (Word& count : counts) {
      const std::uint64_t seen = count.load(kSeqCst);
      if (generation_of(seen) == g) sum += seen & 0xff;
    }
    return sum;
  }

  bool complete(unsigned g) {
    if (done(g) == kChunks) return true;
    if (M == kSharedCount || disturbed.load(kSeqCst) != g) return false;
    for (Word& word : words) {
      if ((low_of(word.load(kAcquire), g) & 3) < kDone) return false;
    }
    return true;
  }

  void repair(unsigned g) {
    disturbed.store(g, kSeqCst);
    bool claimable = false;
    const bool again = rl::rand(2) == 0;
    for (int c = 0; c < kChunks; ++c) {
      std::uint64_t seen = words[c].load(kRelaxed);
      if (seen == running(g, 1)) {
        const std::uint64_t next = tagged(g, again ? kFree : 1 << 2 | kLost);
        if (words[c].compare_exchange_strong(seen, next, kSeqCst, kRelaxed)) {
          if (!again) ++lost[g][c];
          if (!again && M == kSharedCount) raise_count(2, g);
          seen = next;
        }
      }
      claimable = claimable || (low_of(seen, g) & 3) == kFree;
    }
    if (claimable) rescan.fetch_add(1, kAcqRel);
  }

  void cancel(unsigned g, int c) {
    disturbed.store(g, kSeqCst);
    std::uint64_t seen = words[c].load(kRelaxed);
    for (;;) {
      if ((low_of(seen, g) & 3) >= kDone) return;
      if (words[c].compare_exchange_strong(seen, tagged(g, kLost), kSeqCst, kRelaxed)) break;
    }
    ++lost[g][c];
    if (M == kSharedCount) raise_count(2, g);
  }

  void wait() {
    bool repaired = false;
    for (unsigned g = 1; g <= kGenerations; ++g) {
      epoch.store(g, kRelease);
      if (rl::rand(3) == 0) cancel(g, static_cast<int>(rl::rand(kChunks)));
      bool repaired_here = repaired;  // the dead took nothing of a job that began after its repair
      std::uint64_t woken = wakes.load(kAcquire);
      for (;;) {
        if (complete(g)) break;
        if (!repaired_here && dead.load(kAcquire) != 0) {
          repair(g);
          work(2, g);
          repaired = repaired_here = true;
          continue;
        }
        asleep.store(1, kSeqCst);
        const bool death = !repaired_here && dead.load(kSeqCst) != 0;
        if (!death && !complete(g)) {
          while (wakes.load(kAcquire) == woken) rl::yield(1, RL_INFO);
        }
        woken = wakes.load(kAcquire);
        asleep.store(0, kRelaxed);
      }
      check(g);
    }
  }

  void check(unsigned g) {
    for (int c = 0; c < kChunks; ++c) {
      const std::uint64_t state = words[c].load(kAcquire) & 3;
      RL_ASSERT(state == kDone || state == kLost);
      RL_ASSERT(finished[g][c] + lost[g][c] <= 1);
      if (state == kDone) RL_ASSERT(static_cast<int>(data[g][c](RL_INFO)) > 0);
    }
  }
};

template <Mutant M>
int run_mutant(const char* name, unsigned long iterations) {
  return model::run<Suite<M, M != kTakingCursor>>(name, true, iterations);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 2 && std::string(argv[1]) == "mutant") {
    const unsigned long iterations = argc > 3 ? std::stoul(argv[3]) : 1000000;
    switch (std::atoi(argv[2])) {
      case kStoreDone:
        return run_mutant<kStoreDone>("mutant: DONE is stored", iterations);
      case kCountFirst:
        return run_mutant<kCountFirst>("mutant: count ahead of its word", iterations);
      case kSharedCount:
        return run_mutant<kSharedCount>("mutant: one count for all", iterations);
      case kRelaxedDone:
        return run_mutant<kRelaxedDone>("mutant: relaxed DONE", iterations);
      case kRelaxedCount:
        return run_mutant<kRelaxedCount>("mutant: relaxed count", iterations);
      case kTakingCursor:
        return run_mutant<kTakingCursor>("mutant: cursor moved by fetch_add", iterations);
      case kNoSweep:
        return run_mutant<kNoSweep>("mutant: no sweep after a repair", iterations);
      case kSilentLeave:
        return run_mutant<kSilentLeave>("mutant: leaving is not ordered", iterations);
      default:
        return 2;
    }
  }
  const unsigned long iterations = argc > 1 ? std::stoul(argv[1]) : 150000;
  return model::run<Suite<kNone, false>>("no death", false, iterations / 2) +
         model::run<Suite<kNone, true>>("one death", false, iterations);
}
