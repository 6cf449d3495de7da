#include "shm/ref_table.hpp"

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "shm/arena.hpp"
#include "shm/arena_header.hpp"
#include "shm/object.hpp"

namespace millrace::shm {
namespace {

constexpr std::uint64_t kCountBits = 26;
constexpr std::uint64_t kDeciding = (std::uint64_t{1} << kCountBits) - 1;
constexpr std::size_t kWindow = 16;  // words an object may be in, on each level
constexpr std::size_t kSecondWords = 512;

constexpr std::uint64_t count_of(std::uint64_t word) noexcept { return word & kDeciding; }
constexpr bool is_held(std::uint64_t word) noexcept {
  return count_of(word) != 0 && count_of(word) != kDeciding;
}

std::uint64_t name_of(const ObjectRecord* record) noexcept {
  return (reinterpret_cast<std::uintptr_t>(record) - kArenaBase) / kCacheLine << kCountBits;
}

constexpr std::uint64_t name_in(std::uint64_t word) noexcept { return word & ~kDeciding; }

// The address is not trusted: drain() checks that a record is there.
ObjectRecord* record_in(std::uint64_t word) noexcept {
  return reinterpret_cast<ObjectRecord*>(  // NOLINT(performance-no-int-to-ptr): arena address
      kArenaBase + (word >> kCountBits) * kCacheLine);
}

std::size_t hash(std::uint64_t name) noexcept {
  return static_cast<std::size_t>(name * 0x9e3779b97f4a7c15U >> 20U);
}

enum class Next { kGoOn, kNextLevel, kDone };

}  // namespace

RefTable& RefTable::of(ProcessId id) noexcept {
  return Arena::instance().header().references[id & (kMaxProcesses - 1)];
}

RefTable& RefTable::of_arena() noexcept { return Arena::instance().header().arena_references; }

RefTable::Span RefTable::level(std::size_t k) const noexcept {
  if (k == 0) return {first_, kFirstWords};
  // OBSERVE level: acquire pairs with PUBLISH level in grow(): its words are zero
  const std::uint64_t at = later_[k - 1].load(std::memory_order_acquire);
  auto* words = reinterpret_cast<std::atomic<std::uint64_t>*>(at);  // NOLINT: arena address
  const std::size_t count = kSecondWords << (3 * (k - 1));
  // Checked, since the word lies in memory that others may damage.
  const bool inside =
      at % kCacheLine == 0 && Arena::contains(words) && Arena::contains(words + count - 1);
  return inside ? Span{words, count} : Span{nullptr, 0};
}

RefTable::Span RefTable::grow(std::size_t k, ProcessId owner) {
  const std::size_t bytes = (kSecondWords << (3 * (k - 1))) * sizeof(std::uint64_t);
  Arena& arena = Arena::instance();
  void* block = arena.allocate_zeroed(bytes);
  if (owner != self()) arena.give(block, owner);
  std::uint64_t expected = 0;
  // PUBLISH level: release. Killed before, the block is swept with its owner's; lost to another
  // thread, it is given back.
  if (!later_[k - 1].compare_exchange_strong(expected, reinterpret_cast<std::uint64_t>(block),
                                             std::memory_order_release,
                                             std::memory_order_relaxed)) {
    arena.deallocate(block);
  }
  return level(k);
}

// Visits the words in which `record` may be, level by level, until told to stop.
template <class Visit>
bool RefTable::probe(const ObjectRecord* record, Visit&& visit) const noexcept {
  const std::size_t start = hash(name_of(record));
  for (std::size_t k = 0; k <= kLevels; ++k) {
    const Span words = level(k);
    if (words.words == nullptr) return false;
    for (std::size_t j = 0; j < kWindow; ++j) {
      const Next next = visit(words.words[(start + j) % words.count]);
      if (next == Next::kDone) return true;
      if (next == Next::kNextLevel) break;
    }
  }
  return false;
}

bool RefTable::add_to_present(const ObjectRecord* record, std::uint64_t n, bool& first) noexcept {
  const std::uint64_t name = name_of(record);
  return probe(record, [&](std::atomic<std::uint64_t>& word) {
    // HOLD object: seq_cst here, in remove() and holds(): a process that has dropped its last
    // reference and then sees nobody else's must not be overtaken by one who adds and then drops
    // what it had elsewhere (store-load on two words, on both sides).
    std::uint64_t seen = word.load(std::memory_order_seq_cst);
    while (seen != 0 && name_in(seen) == name) {
      const bool none = !is_held(seen);
      const std::uint64_t count = (none ? 0 : count_of(seen)) + n;
      if (count >= kDeciding) return Next::kGoOn;  // full: another word counts the rest
      // HOLD object: the holder's end
      if (word.compare_exchange_weak(seen, name | count, std::memory_order_seq_cst)) {
        first = none;
        return Next::kDone;
      }
    }
    return seen == 0 ? Next::kNextLevel : Next::kGoOn;
  });
}

bool RefTable::insert(const ObjectRecord* record, std::uint64_t n) noexcept {
  const std::uint64_t name = name_of(record);
  return probe(record, [&](std::atomic<std::uint64_t>& word) {
    std::uint64_t seen = word.load(std::memory_order_relaxed);
    while (count_of(seen) == 0) {
      // HOLD object: see add_to_present()
      if (word.compare_exchange_weak(seen, name | n, std::memory_order_seq_cst)) return Next::kDone;
    }
    return Next::kGoOn;
  });
}

bool RefTable::add(ObjectRecord* record, ProcessId owner, std::uint64_t n) {
  // relaxed: read by the same process, or by its parent before the fork
  if (used_.load(std::memory_order_relaxed) == 0) used_.store(1, std::memory_order_relaxed);
  bool first = true;
  if (add_to_present(record, n, first)) return first;
  while (!insert(record, n)) {
    std::size_t k = 1;
    while (k <= kLevels && level(k).words != nullptr) ++k;
    if (k > kLevels || grow(k, owner).words == nullptr) {
      throw std::system_error(ENOMEM, std::generic_category(),
                              "refer to another shared object: the process's table is full");
    }
  }
  return true;
}

RefTable::Left RefTable::remove(ObjectRecord* record) noexcept {
  const std::uint64_t name = name_of(record);
  Left left = Left::kNone;
  probe(record, [&](std::atomic<std::uint64_t>& word) {
    std::uint64_t seen = word.load(std::memory_order_relaxed);
    while (name_in(seen) == name && is_held(seen)) {
      const bool last = count_of(seen) == 1;
      // HOLD object: see add_to_present()
      if (word.compare_exchange_weak(seen, last ? name | kDeciding : seen - 1,
                                     std::memory_order_seq_cst)) {
        left = last ? Left::kLast : Left::kSome;
        return Next::kDone;
      }
    }
    return seen == 0 ? Next::kNextLevel : Next::kGoOn;
  });
  return left;
}

void RefTable::decided(ObjectRecord* record) noexcept {
  const std::uint64_t name = name_of(record);
  probe(record, [&](std::atomic<std::uint64_t>& word) {
    std::uint64_t expected = name | kDeciding;
    // FREE entry: release, to the acquire that takes it in insert(): what was freed is freed before
    // the entry serves another object
    if (word.compare_exchange_strong(expected, name, std::memory_order_release,
                                     std::memory_order_relaxed)) {
      return Next::kDone;
    }
    return expected == 0 ? Next::kNextLevel : Next::kGoOn;
  });
}

bool RefTable::holds(const ObjectRecord* record) const noexcept {
  const std::uint64_t name = name_of(record);
  return probe(record, [&](const std::atomic<std::uint64_t>& word) {
    const std::uint64_t seen = word.load(std::memory_order_seq_cst);  // HOLD object: the search
    if (seen == 0) return Next::kNextLevel;
    return name_in(seen) == name && is_held(seen) ? Next::kDone : Next::kGoOn;
  });
}

template <class Visit>
void RefTable::each(Visit&& visit) const {
  if (used_.load(std::memory_order_relaxed) == 0) return;
  for (std::size_t k = 0; k <= kLevels; ++k) {
    const Span words = level(k);
    if (words.words == nullptr) return;
    for (std::size_t i = 0; i < words.count; ++i) visit(words.words[i]);
  }
}

bool RefTable::holds_anything() const noexcept {
  bool any = false;
  each([&](const std::atomic<std::uint64_t>& word) {
    any = any || is_held(word.load(std::memory_order_relaxed));
  });
  return any;
}

void RefTable::copy(const RefTable& from, ProcessId owner) {
  from.each([&](const std::atomic<std::uint64_t>& word) {
    const std::uint64_t seen = word.load(std::memory_order_relaxed);
    if (!is_held(seen)) return;
    ObjectRecord* record = record_in(seen);
    if (!is_record(record)) return;
    if (add(record, owner, count_of(seen))) announce_holder(record);
  });
}

void RefTable::drain(void (*decide)(ObjectRecord*)) noexcept {
  each([&](std::atomic<std::uint64_t>& word) {
    // relaxed: its owner is dead, which is_dead() ordered
    std::uint64_t seen = word.load(std::memory_order_relaxed);
    if (count_of(seen) == 0) return;
    const std::uint64_t name = name_in(seen);
    // HOLD object: from here on the dead process does not
    word.store(name | kDeciding, std::memory_order_seq_cst);
    ObjectRecord* record = record_in(seen);
    if (is_record(record)) decide(record);
    word.store(name, std::memory_order_release);  // FREE entry: as in decided()
  });
}

void RefTable::clear() noexcept {
  // relaxed: published with the entry's FREE state
  for (auto& word : first_) word.store(0, std::memory_order_relaxed);
  for (auto& later : later_) later.store(0, std::memory_order_relaxed);
  used_.store(0, std::memory_order_relaxed);
}

void RefTable::move(ProcessId from, ProcessId to) noexcept {
  RefTable& old = of(from);
  try {
    of(to).copy(old, to);
  } catch (const std::exception&) {
    return;  // no memory: what is not in the new table stays held by the old one for ever
  }
  old.clear();
}

}  // namespace millrace::shm
