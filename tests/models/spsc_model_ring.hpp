// The ring of shm/spsc_ring.cpp over Relacy's words: what spsc_model.cpp runs, the mutants, the
// kernel.
#pragma once

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

#include "shm/interrupt.hpp"

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
  kLateOwn,            // the consumer writes a line as it stood after having given it back
};
enum class Harm { none, producer, consumer };

constexpr unsigned kProducer = 0;
constexpr millrace::shm::SpscGeometry kGeometry{2, 256};
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
bool g_late = false;  // kLateOwn holds back this store to a line
std::uint64_t g_late_line = 0, g_late_control = 0;
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
    if (g_mutant == kLateOwn && index_ <= kLine1 && rl::thread_index() != kProducer) {
      g_late = true;
      g_late_line = index_;
      g_late_control = value;
      return;
    }
    if (g_swap && index_ == kCursorTail) {
      g_kept = value;
      return;
    }
  }
  word(index_).store(value, model::order(store_order(index_, order)), RL_INFO);
  if (sizeof(T) == 8 && index_ == kBulkTail && std::exchange(g_swap, false) && !killed()) {
    g_words->longs[kCursorTail].store(g_kept, rl::mo_release, RL_INFO);
  }
  if (sizeof(T) == 8 && index_ == kCursorTail && std::exchange(g_late, false) && !killed()) {
    g_words->longs[g_late_line].store(g_late_control, rl::mo_release, RL_INFO);
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

// Interruptions of waits are not part of this model.
std::atomic<bool> interrupts::enabled{false};
bool BlockingCall::enter() noexcept { return false; }
void BlockingCall::leave() noexcept {}
void BlockingCall::take() {}
bool BlockingCall::is_requested() noexcept { return false; }
std::size_t InterruptibleSleep::enter(ParkingSpot*) noexcept { return kNowhere; }
void InterruptibleSleep::leave() const noexcept {}

}  // namespace millrace::shm
