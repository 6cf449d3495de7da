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
#include <sched.h>

#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <millrace/errors.hpp>
#include <millrace/timeout.hpp>
#include <new>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

namespace std {

// What the ring's code knows as std::atomic below. It only says which of Relacy's words it is, so
// that it is as large as the real one.
template <class T>
class model_word {
 public:
  static constexpr bool is_always_lock_free = true;
  model_word(T value = 0) noexcept;
  T load(memory_order order) const noexcept;
  void store(T value, memory_order order) noexcept;
  T fetch_add(T value, memory_order order) noexcept;
  T fetch_or(T value, memory_order order) noexcept;
  bool compare_exchange_strong(T& expected, T value, memory_order success,
                               memory_order failure) noexcept;

 private:
  T index_;
};
void model_thread_fence(memory_order order) noexcept;

}  // namespace std

#define atomic model_word
#define atomic_thread_fence model_thread_fence
#include "shm/spsc_ring.cpp"
#undef atomic
#undef atomic_thread_fence
//
#include "relacy_platform.hpp"

namespace {

using millrace::shm::Publish;
using millrace::shm::SpscMessage;
using millrace::shm::SpscRing;
using model::kRelaxed;
using model::kSeqCst;

enum Mutant {
  kNone,
  kRelaxedLine,        // a line is published relaxed
  kRelaxedCursor,      // the lines are given back relaxed
  kRelaxedBulk,        // the bulk is given back relaxed
  kEarlyTail,          // the line that is being read is given back with those before it
  kNoClose,            // a line is left without being closed
  kNoRoomLook,         // the consumer does not look whether the producer waits for room
  kNoConsumerBarrier,  // the consumer looks at the ring before it is seen to sleep
  kNoProducerBarrier,  // the producer looks for sleepers before its messages are seen
  kBulkFirst,          // bulk is given back ahead of its message: a successor reads what is reused
  kProducerUnclaimed,  // a new producer takes the bulk's tail for that of its cursor
  kConsumerUnclaimed,  // a new consumer does
  kNoSecondLook,       // a new end does not look whether the cursor moved meanwhile
};
enum class Harm { none, producer, consumer };

constexpr unsigned kProducer = 0;
constexpr millrace::shm::SpscGeometry kGeometry{2, 128};
constexpr std::uint64_t kClosedBit = 1ULL << 42;

// The words of the ring in the order in which create() makes them.
enum Long : std::uint64_t { kLine0, kLine1, kCursorTail, kBulkTail, kCursorClaim, kBulkClaim };
constexpr std::uint32_t kRoom = 1;  // of the 32-bit ones: items, room
constexpr std::size_t kLongs = 6;

struct Words {
  rl::atomic<std::uint64_t> longs[kLongs];
  rl::atomic<std::uint32_t> shorts[2];
};
// Relacy runs one thread at a time, as fibers of this one, so plain globals hold its state.
Words* g_words = nullptr;
std::uint64_t g_made[2];  // longs and shorts
Mutant g_mutant = kNone;
int g_deaths_left = 0;
unsigned g_mortal = 2;               // the thread that may die
bool g_gone = false;                 // it did: whatever it does now has no effect
std::uint64_t g_seen[2][2][kLongs];  // by thread and size: what it saw last
bool g_swap = false;                 // kBulkFirst holds back this cursor
std::uint64_t g_kept = 0;
std::uint64_t g_last[2][2];  // by thread: the longs that it loaded last
bool g_asleep[2];

// Ahead of every operation on the ring: here a process may be killed. The ring's functions run on
// to their end, see what they saw last and change nothing.
bool killed() {
  if (rl::thread_index() != g_mortal) return false;
  if (!g_gone && g_deaths_left != 0 && rl::rand(12) == 0) {
    --g_deaths_left;
    g_gone = true;
  }
  return g_gone;
}

template <class T>
auto& word(T index) {
  if constexpr (sizeof(T) == 8) {
    return g_words->longs[index];
  } else {
    return g_words->shorts[index];
  }
}
template <class T>
std::uint64_t& seen(T index) {
  return g_seen[rl::thread_index()][sizeof(T) == 4][index];
}

std::memory_order store_order(std::uint64_t index, std::memory_order wanted) {
  if (g_mutant == kRelaxedLine && index <= kLine1) return kRelaxed;
  if (g_mutant == kRelaxedCursor && index == kCursorTail) return kRelaxed;
  if (g_mutant == kRelaxedBulk && index == kBulkTail) return kRelaxed;
  return wanted;
}

}  // namespace

namespace std {

template <class T>
model_word<T>::model_word(T value) noexcept : index_(static_cast<T>(g_made[sizeof(T) == 4]++)) {
  word(index_).store(value, rl::mo_relaxed, RL_INFO);
}

template <class T>
T model_word<T>::load(memory_order order) const noexcept {
  if (killed()) return static_cast<T>(seen(index_));
  const unsigned me = rl::thread_index();
  if (sizeof(T) == 8) {
    const bool unclaimed = g_mutant == kProducerUnclaimed || g_mutant == kConsumerUnclaimed;
    if (unclaimed && index_ == kCursorClaim) return static_cast<T>(~T{0});
    auto& [before, last] = g_last[me];
    const bool second = before == kCursorClaim && last == kBulkTail && index_ == kCursorTail;
    before = std::exchange(last, index_);
    if (second && g_mutant == kNoSecondLook) return static_cast<T>(seen(index_));
  }
  const T value = word(index_).load(model::order(order), RL_INFO);
  seen(index_) = value;
  const bool room = sizeof(T) == 4 && index_ == kRoom;
  return g_mutant == kNoRoomLook && room && me != kProducer ? static_cast<T>(value & ~T{1}) : value;
}

template <class T>
void model_word<T>::store(T value, memory_order order) noexcept {
  if (killed()) return;
  if (sizeof(T) == 8) {
    if (g_mutant == kNoClose && index_ <= kLine1) value = static_cast<T>(value & ~kClosedBit);
    if (g_mutant == kEarlyTail && index_ == kCursorTail) value = static_cast<T>(value + 8);
    if (g_mutant == kBulkFirst && index_ == kBulkClaim) g_swap = true;
    if (g_swap && index_ == kCursorTail) {
      g_kept = value;
      return;
    }
  }
  word(index_).store(value, model::order(store_order(index_, order)), RL_INFO);
  if (sizeof(T) == 8 && index_ == kBulkTail && std::exchange(g_swap, false) && !killed()) {
    g_words->longs[kCursorTail].store(g_kept, rl::mo_release, RL_INFO);
  }
}

template <class T>
T model_word<T>::fetch_add(T value, memory_order order) noexcept {
  if (killed()) return static_cast<T>(seen(index_));
  return word(index_).fetch_add(value, model::order(order), RL_INFO);
}

template <class T>
T model_word<T>::fetch_or(T value, memory_order order) noexcept {
  if (killed()) return static_cast<T>(seen(index_));
  return word(index_).fetch_or(value, model::order(order), RL_INFO);
}

template <class T>
bool model_word<T>::compare_exchange_strong(T& expected, T value, memory_order success,
                                            memory_order failure) noexcept {
  if (killed()) return false;
  return word(index_).compare_exchange_strong(expected, value, model::order(success), RL_INFO,
                                              model::order(failure), RL_INFO);
}

void model_thread_fence(memory_order) noexcept {
  const bool producer = rl::thread_index() == kProducer;
  if (g_mutant == (producer ? kNoProducerBarrier : kNoConsumerBarrier)) return;
  rl::atomic_thread_fence(rl::mo_seq_cst, RL_INFO);
}

}  // namespace std

namespace millrace::shm {

// The kernel: compares and puts to sleep in one step. Each spot has one possible sleeper.
int futex_wait(const std::model_word<std::uint32_t>& spot, std::uint32_t expected,
               Timeout::Clock::time_point) noexcept {
  auto& own = const_cast<std::model_word<std::uint32_t>&>(spot);
  if (own.fetch_add(0, kSeqCst) != expected) return EAGAIN;
  bool& asleep = g_asleep[rl::thread_index()];
  asleep = true;
  while (asleep) rl::yield(1, RL_INFO);
  return 0;
}

int futex_wake(const std::model_word<std::uint32_t>&, int) noexcept {
  bool& asleep = g_asleep[1 - rl::thread_index()];
  const bool slept = asleep;
  asleep = false;
  return slept ? 1 : 0;
}

std::uint64_t ticks_per_us() noexcept { return 1; }

}  // namespace millrace::shm

namespace {

// Messages are numbered from 1: two share a line, bulk, one that closes its line, a full line,
// bulk, all of the bulk at once, one more; then the last one, and another in case that its producer
// died.
constexpr std::size_t kSizes[] = {0, 24, 24, 60, 8, 56, 60, 128, 16, 8, 8};
constexpr int kLast = 9;

template <Mutant M, Harm H>
struct Suite : rl::test_suite<Suite<M, H>, 2> {
  static constexpr millrace::shm::WaitPolicy kPark{.yields = 0};
  static constexpr std::size_t kBytes = 512;
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
    g_swap = false;
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
