// Which objects a process refers to, and how often: one table a process, in the arena, so that
// others can see who holds an object and a dead process's references can be dropped.
//
// One 64-bit word an entry, {object:38, count:26}: the object is named by its record's distance
// from the arena's base in cache lines. 0 = never used; a count of 0 leaves the object's name in
// the word, to be taken by any other object.
//
// The process itself inserts and counts (its threads under the fork gate, object.cpp); others only
// read; after its death its reaper writes. One table more counts the handles and messages
// that lie in shared memory: any process writes it, and no death drops what it holds. Invariants
//  1. A word never becomes 0 again, and an object is put into the first word of its probe
//     sequence that is 0 or has count 0: a search may stop at a 0.
//  2. `kDeciding` as a count: the last reference was dropped and nobody has decided yet whether
//     the object dies. Does not count as holding it; the reaper decides if the process dies.
//  3. Two threads that insert one object at once may use two words: each counts.
// A table is a chain of levels, each eight times the one before; words of later levels are blocks
// of the arena that belong to the process.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "shm/layout.hpp"

namespace millrace::shm {

struct ObjectRecord;

class RefTable {
 public:
  static constexpr std::size_t kFirstWords = 56;
  static constexpr std::size_t kLevels = 7;

  /// Counts `n` references more. True when the table held none before: then announce_holder() must
  /// follow. Throws what Arena::allocate() throws when it must grow.
  bool add(ObjectRecord* record, ProcessId owner, std::uint64_t n = 1);
  /// What remove() found.
  enum class Left { kNone, kSome, kLast };
  /// Counts one reference less; kLast: it was the last one, the word says kDeciding and the
  /// caller must decide and then call decided(). kNone: the table holds no reference.
  Left remove(ObjectRecord* record) noexcept;
  /// The decision about `record` that remove() called for is made.
  void decided(ObjectRecord* record) noexcept;
  /// True when a reference is counted.
  [[nodiscard]] bool holds(const ObjectRecord* record) const noexcept;
  /// True when any reference is counted.
  [[nodiscard]] bool holds_anything() const noexcept;
  /// Adds all references of `from` to this table, of process `owner`.
  void copy(const RefTable& from, ProcessId owner);
  /// For the reaper: makes every reference kDeciding and calls decide(record) for it.
  void drain(void (*decide)(ObjectRecord*)) noexcept;
  /// Forgets everything; the later levels' memory goes with its owner's other blocks.
  void clear() noexcept;

  /// The table of a process.
  static RefTable& of(ProcessId id) noexcept;
  /// References by handles and messages in shared memory.
  static RefTable& of_arena() noexcept;
  /// Makes the references of `from` those of `to`: both are this process. Killed in between, both
  /// tables have them, and both are reaped.
  static void move(ProcessId from, ProcessId to) noexcept;

 private:
  struct Span {
    std::atomic<std::uint64_t>* words;
    std::size_t count;
  };
  [[nodiscard]] Span level(std::size_t k) const noexcept;
  Span grow(std::size_t k, ProcessId owner);
  bool add_to_present(const ObjectRecord* record, std::uint64_t n, bool& first) noexcept;
  bool insert(const ObjectRecord* record, std::uint64_t n) noexcept;
  template <class Visit>
  bool probe(const ObjectRecord* record, Visit&& visit) const noexcept;
  template <class Visit>
  void each(Visit&& visit) const;

  std::atomic<std::uint64_t> later_[kLevels];  // addresses of the levels behind the first, or 0
  std::atomic<std::uint64_t> used_;            // 1 once anything was added
  mutable std::atomic<std::uint64_t> first_[kFirstWords];
};
static_assert(sizeof(RefTable) == 512);

}  // namespace millrace::shm
