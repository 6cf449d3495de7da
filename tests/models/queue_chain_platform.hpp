// The headers of queues (shm/queue_ring.hpp) on Relacy's atomics, for queue_chain_model.cpp.
//
// They are compiled as they are, with a word of Relacy's in place of std::atomic: each holds the
// number of its cell. What a killed process leaves is left by an exception, so functions may throw
// here that may not elsewhere. Mutants break one rule of the algorithm at a time.
#pragma once

#include <immintrin.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <millrace/errors.hpp>
#include <millrace/timeout.hpp>
#include <optional>
#include <span>
#include <type_traits>

namespace std {  // for the headers below only

template <class T>
class model_word {
 public:
  constexpr model_word(T cell = 0) : cell_(cell) {}
  T load(memory_order order) const;
  void store(T value, memory_order order);
  T exchange(T value, memory_order order);
  T fetch_add(T value, memory_order order);
  T fetch_or(T value, memory_order order);
  bool compare_exchange_strong(T& expected, T value, memory_order success, memory_order failure);
  bool compare_exchange_weak(T& expected, T value, memory_order success, memory_order failure) {
    return compare_exchange_strong(expected, value, success, failure);
  }
  T cell_;
};

}  // namespace std

#define atomic model_word
#define noexcept
#include "shm/queue_ring.hpp"
#undef noexcept
#undef atomic

#include "relacy_platform.hpp"

namespace {

using namespace millrace::shm;

constexpr unsigned kSlotShift = 4;
constexpr int kSegments = 8;
constexpr int kFirstSegments = 2;
constexpr int kMostSlots = 2;
constexpr int kHeaderWords = 7;
constexpr int kSegmentWords = 7;
constexpr int kCells = kHeaderWords + kSegments * (kSegmentWords + kMostSlots);
constexpr int kProducers = 2;

enum Mutant {
  kNone,
  kNoRescan,        // consumers do not look behind the hints after a death
  kNoProducer,      // READY does not keep the producer's id: it is overtaken by itself
  kSameLap,         // a dead producer's slot becomes FREE of the same lap
  kRelaxedPublish,  // READY is stored relaxed
  kRelaxedFree,     // FREE is stored relaxed: a segment is used again while its values are read
  kDrainedEarly,    // a segment is retired though its last slot is in use
  kTailJumps,       // producers leave a segment that has a free slot
  kOldLap,          // a segment is used again on the lap it had
  kRelaxedStart,    // where a segment begins is stored relaxed: one in use passes for retired
  kMutants
};
Mutant g_mutant = kNone;

struct Died {};

// Relacy runs one thread at a time, as fibers of this one, so plain globals hold its state.
int g_deaths_left = 0;
bool g_may_die[4];
void (*g_on_death)(unsigned) = nullptr;
rl::atomic<std::uint64_t>* g_cells = nullptr;

// Ahead of every operation on the queue: here a process may be killed.
void maybe_die() {
  const unsigned me = rl::thread_index();
  if (me >= 4 || !g_may_die[me] || g_deaths_left == 0 || rl::rand(16) != 0) return;
  --g_deaths_left;
  g_may_die[me] = false;
  g_on_death(me);
  throw Died{};
}

enum class Field { other, slot, drained, start, tail, next };

// The memory of the queue: its header in the first page, segments from the third on.
constexpr std::uint64_t kPages = 2 + kSegments;
std::byte* page(std::uint64_t number) {
  return reinterpret_cast<std::byte*>(kArenaBase + number * kPageBytes);
}
QueueHeader& header() { return *reinterpret_cast<QueueHeader*>(page(0)); }
QueueSegment& segment(int i) {
  return *reinterpret_cast<QueueSegment*>(page(static_cast<std::uint64_t>(i) + 2));
}
QueueSlot& slot(int i, int index) {
  return *reinterpret_cast<QueueSlot*>(reinterpret_cast<std::byte*>(&segment(i) + 1) +
                                       (static_cast<std::size_t>(index) << kSlotShift));
}

Field field_of(const void* word) {
  const auto at = reinterpret_cast<std::uintptr_t>(word) - kArenaBase;
  if (at < 2 * kPageBytes) return Field::other;
  switch (at % kPageBytes) {
    case offsetof(QueueSegment, drained):
      return Field::drained;
    case offsetof(QueueSegment, start):
      return Field::start;
    case offsetof(QueueSegment, tail):
      return Field::tail;
    case offsetof(QueueSegment, next):
      return Field::next;
    default:
      return at % kPageBytes >= sizeof(QueueSegment) ? Field::slot : Field::other;
  }
}

std::uint64_t stored(Field field, std::uint64_t value) {
  const bool names_producer = QueueSlot::tag_of(value) == QueueSlot::kReady && field == Field::slot;
  if (g_mutant == kNoProducer && names_producer) {
    return QueueSlot::word(QueueSlot::lap_of(value), 0, QueueSlot::kReady);
  }
  if (g_mutant == kDrainedEarly && field == Field::drained) return value + 1;
  if (g_mutant == kTailJumps && field == Field::tail && (value & kQueueIndexMask) != 0) {
    return value + 1;
  }
  if (g_mutant == kOldLap && field == Field::next && value >> kQueueLapShift != 0) {
    return value - (std::uint64_t{1} << kQueueLapShift);
  }
  return value;
}

std::memory_order store_order(Field field, std::uint64_t value, std::memory_order wanted) {
  if (g_mutant == kRelaxedStart && field == Field::start) return model::kRelaxed;
  if (field != Field::slot) return wanted;
  const QueueSlot::Tag tag = QueueSlot::tag_of(value);
  if (g_mutant == kRelaxedPublish && tag == QueueSlot::kReady) return model::kRelaxed;
  if (g_mutant == kRelaxedFree && tag == QueueSlot::kFree) return model::kRelaxed;
  return wanted;
}

std::uint64_t exchanged(Field field, std::uint64_t expected, std::uint64_t value) {
  const bool given_up = field == Field::slot &&
                        QueueSlot::tag_of(expected) == QueueSlot::kWriting &&
                        QueueSlot::tag_of(value) == QueueSlot::kFree;
  return g_mutant == kSameLap && given_up ? value - (std::uint64_t{1} << kQueueLapShift) : value;
}

}  // namespace

template <class T>
T std::model_word<T>::load(std::memory_order wanted) const {
  maybe_die();
  return static_cast<T>(g_cells[cell_].load(model::order(wanted), RL_INFO));
}
template <class T>
void std::model_word<T>::store(T value, std::memory_order wanted) {
  maybe_die();
  const Field field = field_of(this);
  g_cells[cell_].store(stored(field, value), model::order(store_order(field, value, wanted)),
                       RL_INFO);
}
template <class T>
bool std::model_word<T>::compare_exchange_strong(T& expected, T value, std::memory_order success,
                                                 std::memory_order failure) {
  maybe_die();
  std::uint64_t seen = expected;
  const bool done = g_cells[cell_].compare_exchange_strong(
      seen, exchanged(field_of(this), expected, value), model::order(success), RL_INFO,
      model::order(failure), RL_INFO);
  expected = static_cast<T>(seen);
  return done;
}

namespace millrace::shm {

void queue_corrupt(const void*, std::uint64_t) {
  RL_ASSERT(!"a state that no rule produces");
  std::abort();
}
void queue_lost(std::uint64_t) {
  RL_ASSERT(!"a link that leads nowhere");
  std::abort();
}

// The next of the segments that the list does not have yet, as queue_parts.cpp adds memory.
int g_grown = 0;
QueueSegment* queue_grow(QueueHeader& queue, std::uint32_t me) {
  RL_ASSERT(g_grown < kSegments);
  QueueSegment& made = segment(g_grown++);
  made.claim.store(QueueSlot::word(1, me, QueueSlot::kWriting), model::kRelaxed);
  std::uint64_t slots = 0;
  queue_unseal(reinterpret_cast<std::uint64_t>(&made) + kSlotShift, made.slots, slots);
  std::uint64_t newest = queue.segments.load(model::kRelaxed);
  do {
    queue_seal(made, slots, kSlotShift, newest);
  } while (!queue.segments.compare_exchange_weak(newest, queue_page(made), model::kAcqRel,
                                                 model::kRelaxed));
  return &made;
}

}  // namespace millrace::shm
