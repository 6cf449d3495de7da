#include "shm/object.hpp"

#include <algorithm>
#include <cerrno>
#include <millrace/arena.hpp>
#include <millrace/errors.hpp>
#include <mutex>
#include <string>
#include <system_error>

#include "shm/arena.hpp"
#include "shm/arena_header.hpp"
#include "shm/message_scope.hpp"
#include "shm/process_table.hpp"
#include "shm/queue_parts.hpp"
#include "shm/reaper.hpp"
#include "shm/ref_table.hpp"

namespace millrace::shm {
namespace {

constexpr std::uint64_t kObjectMagic = 0x7463656a626f6d6c;

enum class State : std::uint64_t { kVoid, kLive, kDying };

constexpr std::uint64_t kEpochOne = std::uint64_t{1} << (kProcessIdBits + 2);
constexpr std::uint64_t kEpochMask = ~(kEpochOne - 1);

constexpr State state_in(std::uint64_t word) noexcept { return static_cast<State>(word & 3U); }
constexpr ProcessId owner_in(std::uint64_t word) noexcept {
  return static_cast<ProcessId>(word >> 2U & kProcessIdMask);
}
constexpr std::uint64_t with(std::uint64_t word, State state, ProcessId owner) noexcept {
  return (word & kEpochMask) | std::uint64_t{owner} << 2U | static_cast<std::uint64_t>(state);
}

// The gate of this process's table: a fork copies it and must find it as the memory that the child
// gets will be. Its threads pass it one by one, which also keeps an object in one word.
std::mutex& gate() {
  static std::mutex mutex;
  return mutex;
}

struct InGate {
  NoReaping no_reaping;  // which would pass the gate
  std::lock_guard<std::mutex> lock{gate()};
};

void* block_address(std::uint64_t bits) noexcept {
  return reinterpret_cast<void*>(bits);  // NOLINT(performance-no-int-to-ptr): arena address
}

ObjectRecord* record_of(void* payload) noexcept {
  if (!Arena::contains(payload)) return nullptr;
  const ObjectPrefix& prefix = prefix_of(payload);
  ObjectRecord* record = prefix.record;
  return prefix.magic == kObjectMagic && is_record(record) ? record : nullptr;
}

bool is_held_anywhere(const ObjectRecord* record) noexcept {
  if (RefTable::of_arena().holds(record)) return true;
  const ProcessTable& table = ProcessTable::instance();
  const std::size_t end = table.high();
  for (std::size_t i = 0; i < end; ++i) {
    if (table.in_use(i) && RefTable::of(static_cast<ProcessId>(i)).holds(record)) return true;
  }
  return false;
}

// Begins or ends an object's life, in a new epoch.
void enter(ObjectRecord* record, State state) noexcept {
  std::uint64_t seen = record->word.load(std::memory_order_relaxed);
  // PUBLISH record: acq_rel. An object's prefix and block come before its life; a record's next
  // object comes after the end of the one before.
  while (!record->word.compare_exchange_weak(seen, with(seen + kEpochOne, state, kNobody),
                                             std::memory_order_acq_rel,
                                             std::memory_order_relaxed)) {
  }
}

// Takes a block over from who may own it: nobody, or the destroyer whose place this process took.
bool take_over(void* block, ProcessId before) noexcept {
  Arena& arena = Arena::instance();
  return before == self() || arena.give(block, kNobody, self()) ||
         (before != kNobody && arena.give(block, before, self()));
}

// Drops what an object holds: the content of a queue, or references. Each of these is taken out of
// its place first, so that whoever goes on after a death in here drops none of them twice; the one
// in hand is lost: its object stays until the program ends.
void drop_links(void* block) noexcept {
  const OutsideMessage outside;           // they are the object's
  constexpr std::uint64_t kMaxLinks = 4;  // what lies in shared memory is not trusted
  auto* prefix = static_cast<ObjectPrefix*>(block);
  if (prefix->links == kQueueObject) {
    queue_dispose(*reinterpret_cast<QueueHeader*>(prefix + 1));
    return;
  }
  for (std::uint64_t i = 0; i < std::min(prefix->links, kMaxLinks); ++i) {
    std::atomic_ref<std::uint64_t> link(reinterpret_cast<std::uint64_t*>(prefix + 1)[i]);
    // relaxed: one destroyer at a time, the record's word hands the right on
    if (void* payload = block_address(link.exchange(0, std::memory_order_relaxed))) {
      drop_departed_object(payload);
    }
  }
}

// Frees what this process has the right to: the record says kDying and names it.
void destroy(ObjectRecord* record, ProcessId before) noexcept {
  Arena& arena = Arena::instance();
  take_over(record, before);  // swept with this process from here on
  // CLEAR block: acquire of a predecessor's store below
  if (void* block = block_address(record->block.load(std::memory_order_acquire))) {
    const bool mine = take_over(block, before);
    if (mine) drop_links(block);
    // CLEAR block: release, whoever finds no address finds the block owned by its last destroyer
    record->block.store(0, std::memory_order_release);
    if (mine) arena.deallocate(block);
  }
  enter(record, State::kVoid);
  arena.deallocate(record);
}

// Frees the object if nobody holds it. Harmless when it lives, is gone, or its record serves
// another object by now: the decision is about whatever the record stands for.
void decide(ObjectRecord* record) noexcept {
  for (;;) {
    // DECIDE record: seq_cst, the epoch is read before the search for holders
    std::uint64_t seen = record->word.load(std::memory_order_seq_cst);
    ProcessId before = kNobody;
    if (state_in(seen) == State::kLive) {
      if (is_held_anywhere(record)) return;
    } else if (state_in(seen) == State::kDying) {
      before = owner_in(seen);
      if (before == self() || ProcessTable::instance().check_alive(before)) return;
    } else {
      return;
    }
    // DECIDE record: fails when a holder was announced after the epoch was read
    if (record->word.compare_exchange_strong(seen, with(seen, State::kDying, self()),
                                             std::memory_order_seq_cst)) {
      destroy(record, before);
      return;
    }
  }
}

// Decides under an entry of this process's own, so that its death would not lose the decision.
void decide_for_dead(ObjectRecord* record) noexcept {
  RefTable& mine = RefTable::of(self());
  try {
    const InGate in_gate;
    if (mine.add(record, self())) announce_holder(record);
    if (mine.remove(record) != RefTable::Left::kLast) return;  // this process holds it
  } catch (const std::exception&) {
    // no memory for an entry: decide without one
  }
  decide(record);
  mine.decided(record);
}

void hold(ObjectRecord* record) {
  const InGate in_gate;
  if (RefTable::of(self()).add(record, self())) announce_holder(record);
}

void let_go(ObjectRecord* record) noexcept {
  RefTable& mine = RefTable::of(self());
  {
    const InGate in_gate;
    if (mine.remove(record) != RefTable::Left::kLast) return;
  }
  decide(record);
  mine.decided(record);
}

// Where a reference is counted that a handle at `holder` has: by this process, by a message that a
// process begins with, or by nobody in particular.
ProcessId counted_by(const void* holder) noexcept {
  return Arena::contains(holder) ? InMessage::id_at(holder) : self();
}

void hold_for(ProcessId owner, ObjectRecord* record) {
  if (owner == self()) return hold(record);
  RefTable& table = owner == kNobody ? RefTable::of_arena() : RefTable::of(owner);
  if (table.add(record, owner)) announce_holder(record);
}

// Only while this process holds the object too, so that there is nothing to decide: nobody reaps
// the arena's table, and another process's serves this thread alone.
void let_go_for(ProcessId owner, ObjectRecord* record) noexcept {
  if (owner == self()) return let_go(record);
  RefTable& table = owner == kNobody ? RefTable::of_arena() : RefTable::of(owner);
  if (table.remove(record) == RefTable::Left::kLast) table.decided(record);
}

void drop_for(ProcessId owner, ObjectRecord* record) noexcept {
  if (owner == self()) return let_go(record);
  try {
    hold(record);
  } catch (const std::exception&) {
    return;  // no memory for an entry: the object stays
  }
  let_go_for(owner, record);
  let_go(record);
}

[[noreturn]] void not_an_object(const void* payload) {
  throw Corrupt("shared object at " + std::to_string(reinterpret_cast<std::uintptr_t>(payload)) +
                ": the memory in front of it was overwritten, or it is no object");
}

}  // namespace

bool is_record(const ObjectRecord* record) noexcept {
  return Arena::contains(record) && Arena::instance().slabs().is_record(record);
}

void announce_holder(ObjectRecord* record) noexcept {
  // DECIDE record: seq_cst, after the entry and before the reference it came from is dropped
  record->word.fetch_add(kEpochOne, std::memory_order_seq_cst);
}

void* create_object(const ObjectRequest& request, const void* holder) {
  Arena& arena = Arena::instance();
  void* block = arena.allocate_zeroed(request.bytes + sizeof(ObjectPrefix), request.placement);
  ObjectRecord* record = nullptr;
  try {
    record = static_cast<ObjectRecord*>(arena.slabs().allocate_record());
    hold(record);
  } catch (...) {
    arena.deallocate(record);
    arena.deallocate(block);
    throw;
  }
  auto* prefix = static_cast<ObjectPrefix*>(block);
  *prefix = {kObjectMagic, record, request.type, request.elements, request.links};
  record->block.store(reinterpret_cast<std::uint64_t>(block), std::memory_order_relaxed);
  enter(record, State::kLive);
  arena.give(block, kNobody);
  arena.give(record, kNobody);
  void* payload = prefix + 1;
  if (Arena::contains(holder)) move_object(payload, nullptr, holder);
  return payload;
}

void retain_object(void* payload, const void* holder) {
  ObjectRecord* record = record_of(payload);
  if (record == nullptr) not_an_object(payload);
  hold_for(counted_by(holder), record);
}

void release_object(void* payload, const void* holder) noexcept {
  if (ObjectRecord* record = record_of(payload)) drop_for(counted_by(holder), record);
}

void move_object(void* payload, const void* from, const void* to) noexcept {
  const ProcessId before = counted_by(from);
  const ProcessId after = counted_by(to);
  if (before == after) return;
  ObjectRecord* record = record_of(payload);
  if (record == nullptr) return;
  try {
    if (before != self()) {
      hold(record);
      let_go_for(before, record);
    }
    if (after == self()) return;
    hold_for(after, record);
    let_go(record);
  } catch (const std::exception&) {
    // No memory to count it at its new place: the old one keeps it, or this process does, at worst
    // for too long.
  }
}

void depart_object(void* payload) {
  ObjectRecord* record = record_of(payload);
  if (record == nullptr) not_an_object(payload);
  hold_for(InMessage::id(), record);
}

void drop_departed_object(void* payload) noexcept {
  if (ObjectRecord* record = record_of(payload)) drop_for(InMessage::id(), record);
}

void* arrive_object(std::uint64_t address, std::uint64_t type, const void* holder, bool take) {
  void* payload = block_address(address);
  const bool aligned = address % kCacheLine == 0 && Arena::contains(payload) &&
                       Arena::contains(static_cast<ObjectPrefix*>(payload) - 1);
  ObjectRecord* record = aligned ? record_of(payload) : nullptr;
  // OBSERVE record: acquire pairs with PUBLISH record in enter()
  if (record == nullptr || prefix_of(payload).type != type ||
      state_in(record->word.load(std::memory_order_acquire)) != State::kLive ||
      record->block.load(std::memory_order_relaxed) != address - sizeof(ObjectPrefix)) {
    not_an_object(payload);
  }
  const ProcessId after = counted_by(holder);
  if (after == kNobody && take) return payload;  // still held by the same table
  hold_for(after, record);
  if (take) let_go_for(kNobody, record);
  return payload;
}

void throw_array_too_long(std::size_t elements, std::size_t element_bytes) {
  throw std::system_error(ENOMEM, std::generic_category(),
                          "shared memory for " + std::to_string(elements) + " elements of " +
                              std::to_string(element_bytes) + " bytes");
}

void throw_bad_index(std::ptrdiff_t index, std::size_t elements) {
  throw IndexError("shared_array: index " + std::to_string(index) + " in an array of " +
                   std::to_string(elements));
}

void drop_references(ProcessId dead) noexcept {
  RefTable& table = RefTable::of(dead);
  table.drain(&decide_for_dead);
  table.clear();
}

ObjectWatch watch_object(const void* payload) noexcept {
  const ObjectPrefix& prefix = prefix_of(payload);
  return {prefix.record, reinterpret_cast<std::uint64_t>(&prefix)};
}

bool is_live(const ObjectWatch& watch) noexcept {
  // OBSERVE record: acquire pairs with PUBLISH record in enter() and with DECIDE record
  return state_in(watch.record->word.load(std::memory_order_acquire)) == State::kLive &&
         watch.record->block.load(std::memory_order_relaxed) ==
             watch.block;  // same life or another
}

Holders holders_of(const ObjectWatch& watch) {
  ProcessTable& table = ProcessTable::instance();
  // Twice: a process that changes its id moves its references without telling (RefTable::move).
  for (int misses = 0;;) {
    Holders found;
    // DECIDE record: seq_cst, the epoch is read before the search for holders
    const std::uint64_t seen = watch.record->word.load(std::memory_order_seq_cst);
    if (!is_live(watch)) return found;
    found.on_the_way = RefTable::of_arena().holds(watch.record);
    for (std::size_t i = 0; i < table.high(); ++i) {
      if (!table.in_use(i) || !RefTable::of(static_cast<ProcessId>(i)).holds(watch.record))
        continue;
      if (const ProcessId id = table.id_at(i); table.check_alive(id)) found.processes.push_back(id);
    }
    // DECIDE record: a holder that moved while it was searched for has raised the epoch
    const bool moved = watch.record->word.load(std::memory_order_seq_cst) != seen;
    misses = moved ? 0 : misses + 1;
    if (!found.none() || misses == 2) return found;
  }
}

void lock_references() noexcept { gate().lock(); }
void unlock_references() noexcept { gate().unlock(); }

}  // namespace millrace::shm
