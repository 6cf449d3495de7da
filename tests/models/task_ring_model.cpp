// The algorithm of shm/task_ring.hpp under Relacy: a producer hands three tasks through two slots
// to two workers, all of whom sleep when there is nothing to do. The producer takes tasks away that
// nobody has claimed; in a second suite the first worker dies ahead of any of its operations, in a
// third the producer takes a task away from it while it runs (a deadline). Checked: each task ends
// once and with its reply, also those that were taken away and published again; no data race on
// a slot's request and reply; nobody sleeps for ever.
//
//   task_ring_model [iterations]           the algorithm as it is
//   task_ring_model mutant K [iterations]  one rule broken; must be caught
#include "shm/task_ring.hpp"
//
#include <string>

#include "relacy_platform.hpp"

namespace {

using millrace::shm::TaskState;
using millrace::shm::TaskTag;
using model::kAcqRel;
using model::kAcquire;
using model::kRelaxed;
using model::kRelease;
using model::kSeqCst;

constexpr std::size_t kSlots = 2;
constexpr int kTasks = 3;
constexpr unsigned kWorkers = 2;

enum Mutant {
  kNone,
  kRelaxedPublish,  // READY is stored relaxed
  kRelaxedFinish,   // DONE is exchanged relaxed
  kSilentTail,      // the tail is not ordered before the producer's look at the sleepers
  kSilentFinish,    // DONE is not ordered before the worker's look at the producer
  kTailFirst,       // the tail is stored ahead of its slot
  kNoSecondLook,    // a slot is passed by what it was before the look at the tail
  kHintFirst,       // the hint moves ahead of the claim
  kClaimByStore,    // claimed by a store
  kFinishByStore,   // ended by a store
  kTakeByStore,     // taken away by a store
  kReuseEarly,      // a slot taken from a living worker is used again at once
  kNoReaper,        // nobody takes away what the dead hold
};

enum class Harm { none, death, deadline };

// Relacy runs one thread at a time, as fibers of this one, so plain globals hold its state.
int g_deaths_left = 0;
bool g_gone = false;           // worker 1 was killed: whatever it does now has no effect
const void* g_tail = nullptr;  // these words of the ring under test
const void* g_state[kSlots] = {};

struct Hook {
  static void before() {}
  static std::memory_order load_order(std::memory_order wanted) { return wanted; }
  static std::memory_order store_order(std::uint64_t, std::memory_order wanted) { return wanted; }
  static std::uint64_t stored(std::uint64_t value) { return value; }
  static std::uint64_t added(std::uint64_t value) { return value; }
  static std::uint64_t exchanged(std::uint64_t, std::uint64_t value) { return value; }
};
using Plain = model::Atomic<std::uint64_t, Hook>;

// Ahead of every operation of a worker on the ring: here it may be killed. The ring throws nothing,
// so the rest of its call runs on, sees zeros and changes nothing.
bool killed() {
  if (rl::thread_index() != 1) return false;
  if (!g_gone && g_deaths_left != 0 && rl::rand(8) == 0) {
    --g_deaths_left;
    g_gone = true;
  }
  return g_gone;
}

// A word of the ring. The mutants live here: which of its words it is tells its address.
template <class T, Mutant M>
class Word : public Plain {
 public:
  Word(T value = T()) : Plain(value) {}

  T load(std::memory_order order) const {
    if (killed()) return 0;
    const unsigned me = rl::thread_index();
    if (M == kNoSecondLook && slot() >= 0 && looked_at_tail_[me]) {
      looked_at_tail_[me] = false;
      return seen_[me];
    }
    const T value = Plain::load(order);
    if (slot() >= 0) seen_[me] = value;
    looked_at_tail_[me] = this == g_tail && order == kAcquire;
    if (slot() < 0 && this != g_tail) hint_ = const_cast<Word*>(this);
    return value;
  }

  void store(T value, std::memory_order order) {
    if (killed()) return;
    if (slot() >= 0 && TaskState::tag(value) == TaskTag::ready) {
      if (M == kRelaxedPublish) order = kRelaxed;
      if (M == kTailFirst) {
        late_ = this;
        late_value_ = value;
        return;
      }
    }
    if (this == g_tail && M == kSilentTail) order = kRelease;
    Plain::store(value, order);
    if (this == g_tail && late_ != nullptr) {
      late_->Plain::store(late_value_, kRelease);
      late_ = nullptr;
    }
  }

  bool compare_exchange_strong(T& expected, T value, std::memory_order success,
                               std::memory_order failure) {
    if (killed()) return false;
    const TaskTag tag = TaskState::tag(value);
    const bool claims = tag == TaskTag::running;
    const bool ends = tag == TaskTag::done;
    if (claims && M == kHintFirst) {
      hint_->Plain::store(TaskState::lap(value) * kSlots + static_cast<unsigned>(slot()) + 1,
                          kRelaxed);
      if (killed()) return false;
    }
    if ((claims && M == kClaimByStore) || (ends && M == kFinishByStore) ||
        (tag == TaskTag::lost && M == kTakeByStore)) {
      Plain::store(value, success);
      return true;
    }
    if (ends && M == kRelaxedFinish) success = kRelaxed;
    if (ends && M == kSilentFinish) success = kAcqRel;
    return Plain::compare_exchange_strong(expected, value, success, failure);
  }

 private:
  // Of which slot it is the state, else -1.
  int slot() const {
    for (std::size_t i = 0; i < kSlots; ++i) {
      if (this == g_state[i]) return static_cast<int>(i);
    }
    return -1;
  }

  static inline T seen_[kWorkers + 1] = {};
  static inline bool looked_at_tail_[kWorkers + 1] = {};
  static inline Word* hint_ = nullptr;
  static inline Word* late_ = nullptr;
  static inline T late_value_ = 0;
};

template <Mutant M>
struct Words {
  template <class T>
  using Atomic = Word<T, M>;
};

// Thread 0 is the producer, threads 1 and 2 the workers; their ids are their numbers.
template <Mutant M, Harm H>
struct Suite : rl::test_suite<Suite<M, H>, kWorkers + 1> {
  using Ring = millrace::shm::BasicTaskRing<kSlots, Words<M>::template Atomic>;
  using Slot = typename Ring::Slot;
  enum class Ticket { free, out, rests };

  Ring ring;
  rl::var<int> line[kSlots];  // the request: its task; the reply: ten times that
  Plain over, asleep, bell, dead[kWorkers + 1], idle[kWorkers + 1], rung[kWorkers + 1];

  // The producer's memory.
  Ticket ticket[kSlots];
  int task[kSlots];
  std::uint64_t rests_for[kSlots];
  int again[kTasks], again_count, fed, ended[kTasks];
  int finished[kTasks];  // by workers that were told so
  std::uint64_t next;
  bool seen_death;
  int takes_left, cancels_left;

  void before() {
    g_tail = &ring;
    for (std::size_t i = 0; i < kSlots; ++i) {
      g_state[i] = &ring.at(i).state;
      ticket[i] = Ticket::free;
    }
    g_gone = false;
    g_deaths_left = H == Harm::death ? 1 : 0;
    takes_left = H == Harm::deadline ? 1 : 0;
    cancels_left = 1;
    for (int& count : ended) count = 0;
    for (int& count : finished) count = 0;
    again_count = fed = 0;
    next = 0;
    seen_death = false;
  }

  void thread(unsigned me) {
    if (me == 0) {
      produce();
    } else if (!work(me)) {
      die(me);
    }
  }

  // The kernel tells of it.
  void die(unsigned me) {
    dead[me].store(1, kRelease);
    bell.fetch_add(1, kAcqRel);
  }

  // --- workers ---
  static bool gone(unsigned me) { return me == 1 && g_gone; }

  // False when it died.
  bool work(unsigned me) {
    while (over.load(kAcquire) == 0) {
      Slot* slot = ring.claim(me);
      if (slot == nullptr) {
        if (gone(me) || !sleep(me)) return false;
        continue;
      }
      const std::size_t index = slot == &ring.at(0) ? 0 : 1;
      const int request = line[index](RL_INFO);
      line[index](RL_INFO) = request * 10;
      if (!Ring::finish(*slot, me, TaskTag::done)) return false;  // killed, or taken away from it
      ++finished[request - 1];
      if (gone(me)) return false;
      if (asleep.load(kSeqCst) != 0) bell.fetch_add(1, kAcqRel);
    }
    return true;
  }

  bool sleep(unsigned me) {
    const std::uint64_t seen = rung[me].load(kAcquire);
    idle[me].store(1, kSeqCst);
    const bool work = ring.may_have_work();
    if (gone(me)) return false;
    if (!work && over.load(kSeqCst) == 0) {
      while (rung[me].load(kAcquire) == seen) rl::yield(1, RL_INFO);
    }
    idle[me].store(0, kRelaxed);
    return true;
  }

  // --- the producer ---
  void produce() {
    for (;;) {
      bool moved = feed();
      moved |= collect();
      moved |= bury();
      if (fed == kTasks && again_count == 0 && !any_out()) break;
      if (!moved) listen();
    }
    over.store(1, kSeqCst);
    wake();
    for (int number = 0; number < kTasks; ++number) {
      RL_ASSERT(ended[number] == 1 && finished[number] == 1);
    }
  }

  bool any_out() const { return ticket[0] == Ticket::out || ticket[1] == Ticket::out; }

  void wake() {
    for (unsigned worker = 1; worker <= kWorkers; ++worker) {
      if (idle[worker].load(kSeqCst) != 0) rung[worker].fetch_add(1, kAcqRel);
    }
  }

  bool feed() {
    bool any = false;
    for (std::size_t step = 0; step < kSlots; ++step, ++next) {
      const std::size_t i = next % kSlots;
      if (ticket[i] == Ticket::rests && dead[rests_for[i]].load(kAcquire) != 0) {
        own_again(i);
      }
      if (ticket[i] != Ticket::free || (again_count == 0 && fed == kTasks)) continue;
      task[i] = again_count != 0 ? again[--again_count] : fed++;
      line[i](RL_INFO) = task[i] + 1;
      ticket[i] = Ticket::out;
      ring.publish(next);
      wake();
      any = true;
    }
    return any;
  }

  void own_again(std::size_t i) {
    Ring::retire(ring.at(i));
    ticket[i] = Ticket::free;
  }

  bool collect() {
    bool any = false;
    for (std::size_t i = 0; i < kSlots; ++i) {
      if (ticket[i] != Ticket::out) continue;
      const std::uint64_t state = Ring::look(ring.at(i));
      if (TaskState::tag(state) == TaskTag::done) {
        RL_ASSERT(int(line[i](RL_INFO)) == (task[i] + 1) * 10);
        ++ended[task[i]];
        own_again(i);
        any = true;
      } else if (TaskState::tag(state) == TaskTag::ready && cancels_left != 0 && rl::rand(4) == 0) {
        --cancels_left;
        any |= take(i, state);
      } else if (TaskState::owner(state) == 1 && takes_left != 0 && rl::rand(2) == 0) {
        --takes_left;
        any |= take(i, state);
      }
    }
    return any;
  }

  // Takes a task away, to be published again.
  bool take(std::size_t i, std::uint64_t state) {
    if (!Ring::take_away(ring.at(i), state)) return false;
    again[again_count++] = task[i];
    rests_for[i] = TaskState::owner(state);
    ticket[i] = Ticket::rests;
    if (TaskState::tag(state) == TaskTag::ready || M == kReuseEarly) own_again(i);
    return true;
  }

  bool bury() {
    if (seen_death || dead[1].load(kAcquire) == 0) return false;
    seen_death = true;
    for (std::size_t i = 0; i < kSlots; ++i) {
      const std::uint64_t state = Ring::look(ring.at(i));
      if (ticket[i] != Ticket::out || TaskState::tag(state) != TaskTag::running) continue;
      if (TaskState::owner(state) != 1 || M == kNoReaper) continue;
      RL_ASSERT(take(i, state));  // the dead end nothing
    }
    wake();  // the wake-up that it may have had in its hands
    return true;
  }

  void listen() {
    const std::uint64_t seen = bell.load(kAcquire);
    asleep.store(1, kSeqCst);
    bool arrived = !seen_death && dead[1].load(kSeqCst) != 0;
    for (std::size_t i = 0; i < kSlots; ++i) {
      if (ticket[i] == Ticket::rests) arrived |= dead[rests_for[i]].load(kSeqCst) != 0;
      if (ticket[i] != Ticket::out) continue;
      arrived |= TaskState::tag(Ring::look(ring.at(i))) == TaskTag::done;
    }
    if (!arrived) {
      while (bell.load(kAcquire) == seen) rl::yield(1, RL_INFO);
    }
    asleep.store(0, kRelaxed);
  }
};

template <Mutant M, Harm H>
int run_mutant(const char* name, unsigned long iterations) {
  return model::run<Suite<M, H>>(name, true, iterations);
}

int run_mutant(int number, unsigned long iterations) {
  switch (number) {
    case kRelaxedPublish:
      return run_mutant<kRelaxedPublish, Harm::none>("mutant: relaxed READY", iterations);
    case kRelaxedFinish:
      return run_mutant<kRelaxedFinish, Harm::none>("mutant: relaxed DONE", iterations);
    case kSilentTail:
      return run_mutant<kSilentTail, Harm::none>("mutant: tail not ordered", iterations);
    case kSilentFinish:
      return run_mutant<kSilentFinish, Harm::none>("mutant: DONE not ordered", iterations);
    case kTailFirst:
      return run_mutant<kTailFirst, Harm::none>("mutant: tail ahead of its slot", iterations);
    case kNoSecondLook:
      return run_mutant<kNoSecondLook, Harm::none>("mutant: no second look", iterations);
    case kHintFirst:
      return run_mutant<kHintFirst, Harm::death>("mutant: hint ahead of the claim", iterations);
    case kClaimByStore:
      return run_mutant<kClaimByStore, Harm::none>("mutant: claimed by a store", iterations);
    case kFinishByStore:
      return run_mutant<kFinishByStore, Harm::deadline>("mutant: ended by a store", iterations);
    case kTakeByStore:
      return run_mutant<kTakeByStore, Harm::none>("mutant: taken away by a store", iterations);
    case kReuseEarly:
      return run_mutant<kReuseEarly, Harm::deadline>("mutant: used again at once", iterations);
    case kNoReaper:
      return run_mutant<kNoReaper, Harm::death>("mutant: the dead keep what they hold", iterations);
    default:
      return 2;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 2 && std::string(argv[1]) == "mutant") {
    return run_mutant(std::atoi(argv[2]), argc > 3 ? std::stoul(argv[3]) : 2000000);
  }
  const unsigned long iterations = argc > 1 ? std::stoul(argv[1]) : 100000;
  return model::run<Suite<kNone, Harm::none>>("no harm", false, iterations) +
         model::run<Suite<kNone, Harm::death>>("one death", false, iterations) +
         model::run<Suite<kNone, Harm::deadline>>("one deadline", false, iterations);
}
