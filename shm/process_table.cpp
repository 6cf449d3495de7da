#include "shm/process_table.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "shm/arena.hpp"
#include "shm/arena_header.hpp"
#include "shm/liveness.hpp"
#include "shm/process_word.hpp"
#include "shm/reaper.hpp"
#include "shm/ref_table.hpp"

namespace millrace::shm {

using namespace process_word;

namespace {

// Entries in use lie below a bound that is doubled when about half of them are taken: short, since
// every search for holders walks it, and long enough that the status of the dead stays readable
// for half as many processes.
constexpr std::uint32_t kWindow = 64;

}  // namespace

ProcessTable& ProcessTable::instance() { return Arena::instance().header().processes; }

ProcessId ProcessTable::reserve_in(std::size_t limit) noexcept {
  const std::size_t tries = limit < kMaxProcesses ? limit / 2 : limit;
  for (std::size_t tried = 0; tried < tries; ++tried) {
    // relaxed: a hint that spreads the searchers, each entry is taken by its own CAS
    const std::size_t index = cursor_.fetch_add(1, std::memory_order_relaxed) % limit;
    std::uint64_t seen = entries_[index].word.load(std::memory_order_relaxed);
    Word w = unpack(seen);
    if (w.state != State::kFree) continue;
    Word taken;
    taken.generation = next_generation(w.generation);
    taken.state = State::kReserved;
    taken.actor = static_cast<std::uint32_t>(::getpid());
    // OBSERVE entry: acquire pairs with the release in end_reaping() and cancel(), so the new
    // user comes after the last touch of the previous one.
    if (entries_[index].word.compare_exchange_strong(seen, pack(taken), std::memory_order_acquire,
                                                     std::memory_order_relaxed)) {
      return make_id(taken.generation, index);
    }
  }
  return 0;
}

ProcessId ProcessTable::reserve() {
  std::uint32_t limit = std::max(high_.load(std::memory_order_relaxed), kWindow);
  for (;;) {
    std::uint32_t high = high_.load(std::memory_order_relaxed);
    // HIGH index: raised before the entry below it is used, process_table.cpp and span_table.cpp
    while (high < limit && !high_.compare_exchange_weak(high, limit, std::memory_order_seq_cst)) {
    }
    limit = std::max(limit, high);
    if (const ProcessId id = reserve_in(limit)) return id;
    if (limit < kMaxProcesses) {
      limit = std::min<std::uint32_t>(limit * 2, kMaxProcesses);
      continue;
    }
    reap_all_dead();
    if (const ProcessId id = reserve_in(limit)) return id;
    throw std::system_error(EAGAIN, std::generic_category(),
                            "process table: all 4096 entries belong to living processes");
  }
}

[[gnu::hot]] bool ProcessTable::make_alive(ProcessId id) noexcept {
  Entry& entry = entries_[index_of(id)];
  std::uint64_t seen = entry.word.load(std::memory_order_relaxed);
  if (!is_reserved(seen, id)) return false;
  const std::uint64_t now = start_clock_now();
  while (is_reserved(seen, id)) {  // again when entrust() was faster
    Word w = unpack(seen);
    w.state = State::kAlive;
    w.actor = static_cast<std::uint32_t>(::getpid());
    // PUBLISH entry: release pairs with the acquire in check_alive(): it finds this start time, or
    // the 0 of the last user's end, which is not compared. Nothing is written before: the entry may
    // serve another by now.
    if (entry.word.compare_exchange_weak(seen, pack(w), std::memory_order_acq_rel,
                                         std::memory_order_relaxed)) {
      entry.start_time.store(now, std::memory_order_relaxed);  // see above
      entry.pid.store(::getpid(), std::memory_order_relaxed);  // for those who ask when it is dead
      return true;
    }
  }
  return false;
}

[[gnu::hot]] void ProcessTable::adopt(ProcessId id) noexcept {
  const ProcessId had = this_process_id.load(std::memory_order_relaxed);
  if (had == id) return;
  if (!make_alive(id)) return;  // its maker died and the reservation went with it: enrol() later
  if (had != 0) RefTable::move(had, id);
  this_process_id.store(id, std::memory_order_relaxed);
  if (had != 0) cancel(had);
}

[[gnu::hot]] void ProcessTable::adopt_later(ProcessId id) noexcept {
  reserved_process_id.store(id, std::memory_order_relaxed);  // this child has one thread
}

void ProcessTable::entrust(ProcessId id, pid_t pid) noexcept {
  Entry& entry = entries_[index_of(id)];
  std::uint64_t seen = entry.word.load(std::memory_order_relaxed);
  Word w = unpack(seen);
  if (!is_reserved(seen, id)) return;
  w.actor = static_cast<std::uint32_t>(pid);
  // relaxed: the word says all there is. It fails when the child has adopted it meanwhile.
  entry.word.compare_exchange_strong(seen, pack(w), std::memory_order_relaxed,
                                     std::memory_order_relaxed);
}

bool ProcessTable::is_mine(ProcessId id) const noexcept {
  const Entry& entry = entries_[index_of(id)];
  // OBSERVE entry: acquire pairs with the release in make_alive()
  const Word w = unpack(entry.word.load(std::memory_order_acquire));
  return w.generation == generation_of(id) && w.state == State::kAlive &&
         w.actor == static_cast<std::uint32_t>(::getpid());
}

void ProcessTable::cancel(ProcessId id) noexcept {
  Entry& entry = entries_[index_of(id)];
  std::uint64_t seen = entry.word.load(std::memory_order_relaxed);
  Word w = unpack(seen);
  if (w.generation != generation_of(id)) return;
  if (w.state != State::kReserved && w.state != State::kAlive) return;
  // A fork server's fork that failed was for another process, which gives back what it has
  // reserved.
  if (w.actor != static_cast<std::uint32_t>(::getpid())) return;
  // relaxed, all: nobody looks, the entry is this process's
  entry.start_time.store(0, std::memory_order_relaxed);
  entry.pid.store(0, std::memory_order_relaxed);
  entry.heir.store(0, std::memory_order_relaxed);
  entry.message.store(0, std::memory_order_relaxed);
  w.state = State::kFree;
  w.actor = 0;
  // PUBLISH entry: see reserve_in()
  entry.word.compare_exchange_strong(seen, pack(w), std::memory_order_release,
                                     std::memory_order_relaxed);
}

// DEAD, not FREE: a child between its look at the word and its CAS may still write its pid.
bool ProcessTable::revoke(ProcessId id) noexcept {
  Entry& entry = entries_[index_of(id)];
  std::uint64_t seen = entry.word.load(std::memory_order_relaxed);
  while (is_reserved(seen, id)) {
    Word w = unpack(seen);
    w.state = State::kDying;
    w.actor = 0;
    // PUBLISH death: see mark_dead(); against PUBLISH entry in make_alive(), one of the two wins
    if (entry.word.compare_exchange_weak(seen, pack(w), std::memory_order_acq_rel,
                                         std::memory_order_relaxed)) {
      complete_death(entry, pack(w));
      return true;
    }
  }
  return false;
}

void ProcessTable::complete_death(const Entry& entry, std::uint64_t seen) const noexcept {
  // COUNT death: release orders the death before the count that readers rescan by. The count goes
  // first: killed in between, the next reader of DYING raises it once more, which costs a rescan.
  deaths_.fetch_add(1, std::memory_order_acq_rel);
  Word w = unpack(seen);
  w.state = State::kDead;
  // PUBLISH death: acq_rel, see is_dead()
  const_cast<Entry&>(entry).word.compare_exchange_strong(seen, pack(w), std::memory_order_acq_rel,
                                                         std::memory_order_relaxed);
}

bool ProcessTable::is_dead(ProcessId id) const noexcept {
  const Entry& entry = entries_[index_of(id)];
  // OBSERVE death: acquire pairs with PUBLISH death in mark_dead(): what the dead process wrote
  // last, and whoever waited for it saw, is visible to the one who recovers.
  const std::uint64_t seen = entry.word.load(std::memory_order_acquire);
  const Word w = unpack(seen);
  if (w.generation != generation_of(id)) return true;
  if (w.state == State::kReserved || w.state == State::kAlive) return false;
  if (w.state == State::kDying) complete_death(entry, seen);
  return true;
}

void ProcessTable::mark_dead(ProcessId id, int status) noexcept {
  Entry& entry = entries_[index_of(id)];
  std::uint64_t seen = entry.word.load(std::memory_order_acquire);  // OBSERVE death: by another
  for (;;) {
    Word w = unpack(seen);
    if (w.generation != generation_of(id)) return;
    const bool first = w.state == State::kReserved || w.state == State::kAlive;
    const bool tells = status != kUnknownStatus && !w.status_known;
    if (w.state == State::kDying) {
      complete_death(entry, seen);
      seen = entry.word.load(std::memory_order_acquire);  // OBSERVE death: complete now
      continue;
    }
    if (!first && !tells) return;
    if (tells) note_status(w, status);
    if (first) {
      w.state = State::kDying;
      w.actor = 0;
    }
    // PUBLISH death: release, see is_dead()
    if (entry.word.compare_exchange_weak(seen, pack(w), std::memory_order_acq_rel,
                                         std::memory_order_acquire)) {
      if (first) complete_death(entry, pack(w));
      return;
    }
  }
}

int ProcessTable::status(ProcessId id) const noexcept {
  // OBSERVE death: acquire pairs with PUBLISH death in mark_dead()
  const Word w = unpack(entries_[index_of(id)].word.load(std::memory_order_acquire));
  if (w.generation != generation_of(id) || !w.status_known) return kUnknownStatus;
  return static_cast<int>(w.status);
}

pid_t ProcessTable::pid(ProcessId id) const noexcept {
  const Entry& entry = entries_[index_of(id)];
  // OBSERVE entry: acquire pairs with the release in make_alive()
  const Word w = unpack(entry.word.load(std::memory_order_acquire));
  if (w.generation != generation_of(id) || w.state == State::kReserved) return 0;
  if (w.state == State::kAlive) return static_cast<pid_t>(w.actor);
  const pid_t pid = entry.pid.load(std::memory_order_relaxed);
  // OBSERVE entry: acquire, it may have been taken by another process between the two loads
  const Word again = unpack(entry.word.load(std::memory_order_acquire));
  return again.generation == w.generation ? pid : 0;
}

bool ProcessTable::is_gone(const Entry& entry, std::uint64_t seen) const noexcept {
  const Word w = unpack(seen);
  const bool adopted = w.state == State::kAlive;
  const std::uint64_t started = entry.start_time.load(std::memory_order_relaxed);
  return process_gone(static_cast<pid_t>(w.actor), adopted ? started : 0);
}

bool ProcessTable::check_alive(ProcessId id) noexcept {
  Entry& entry = entries_[index_of(id)];
  while (!is_dead(id)) {
    // OBSERVE entry: acquire pairs with the release in make_alive()
    std::uint64_t seen = entry.word.load(std::memory_order_acquire);
    Word w = unpack(seen);
    if (!is_present_as(w, id)) continue;
    if (!is_gone(entry, seen)) return true;
    // Nobody may ever wait for it through the library; who asks how it ended learns it from here.
    // Of a reservation the word does not say whether it names the child or its maker.
    static_assert(kUnknownStatus == -1, "as zombie_status() says it");
    if (w.state == State::kAlive) {
      note_status(w, zombie_status(static_cast<pid_t>(w.actor),
                                   entry.start_time.load(std::memory_order_relaxed)));
    }
    w.state = State::kDying;
    w.actor = 0;
    // PUBLISH death: see mark_dead(). Of what was asked about only: a child that adopts its
    // reservation just before its parent ends, or is named there, has changed the word.
    if (entry.word.compare_exchange_strong(seen, pack(w), std::memory_order_acq_rel,
                                           std::memory_order_relaxed)) {
      complete_death(entry, pack(w));
    }
  }
  return false;
}

bool ProcessTable::begin_reaping(ProcessId dead) noexcept {
  Entry& entry = entries_[index_of(dead)];
  std::uint64_t seen = entry.word.load(std::memory_order_acquire);  // OBSERVE death: all it wrote
  Word w = unpack(seen);
  if (w.generation != generation_of(dead)) return false;
  const bool orphaned = w.state == State::kReaping && w.actor != self() && !check_alive(w.actor);
  if (w.state != State::kDead && !orphaned) return false;
  w.state = State::kReaping;
  w.actor = self();
  // TAKE entry: acq_rel, after the work of a reaper that died; PUBLISH entry: in end_reaping()
  return entry.word.compare_exchange_strong(seen, pack(w), std::memory_order_acq_rel,
                                            std::memory_order_relaxed);
}

void ProcessTable::end_reaping(ProcessId dead) noexcept {
  Entry& entry = entries_[index_of(dead)];
  std::uint64_t seen = entry.word.load(std::memory_order_relaxed);
  Word w = unpack(seen);
  // relaxed: PUBLISH entry below orders it before the next user
  if (w.state == State::kReaping) {
    entry.start_time.store(0, std::memory_order_relaxed);
    entry.heir.store(0, std::memory_order_relaxed);
    entry.message.store(0, std::memory_order_relaxed);
  }
  while (w.generation == generation_of(dead) && w.state == State::kReaping) {
    w.state = State::kFree;
    w.actor = 0;
    // PUBLISH entry: see reserve_in(); TAKE entry: its end. A failed CAS: somebody has added the
    // status meanwhile.
    if (entry.word.compare_exchange_weak(seen, pack(w), std::memory_order_release,
                                         std::memory_order_relaxed)) {
      return;
    }
    w = unpack(seen);
  }
}

void ProcessTable::set_heir(ProcessId id, ProcessId heir) noexcept {
  // relaxed: read once `id` is dead, after OBSERVE death
  entries_[index_of(id)].heir.store(heir, std::memory_order_relaxed);
}

bool ProcessTable::awaits_heir(ProcessId dead) noexcept {
  // relaxed: see set_heir()
  const ProcessId heir = entries_[index_of(dead)].heir.load(std::memory_order_relaxed);
  return heir != 0 && check_alive(heir);
}

std::size_t ProcessTable::high() const noexcept {
  // RAISE high: seq_cst, see reserve(). Checked, since the word lies in memory that others may
  // damage.
  // HIGH index: raised before the entry below it is used, process_table.cpp and span_table.cpp
  return std::min<std::size_t>(high_.load(std::memory_order_seq_cst), kMaxProcesses);
}

ProcessId ProcessTable::id_at(std::size_t index) const noexcept {
  // OBSERVE entry: acquire
  const Word w = unpack(entries_[index & (kMaxProcesses - 1)].word.load(std::memory_order_acquire));
  return w.generation == 0 ? 0 : make_id(w.generation, index & (kMaxProcesses - 1));
}

bool ProcessTable::is_present(ProcessId id) const noexcept {
  // OBSERVE entry: acquire
  return is_present_as(unpack(entries_[index_of(id)].word.load(std::memory_order_acquire)), id);
}

ProcessId enrol() {
  ProcessTable& table = ProcessTable::instance();
  // relaxed: see reserved_process_id. Of two threads one makes the entry alive, both find it so.
  const ProcessId reserved = reserved_process_id.load(std::memory_order_relaxed);
  if (reserved != 0 && (table.make_alive(reserved) || table.is_mine(reserved))) {
    this_process_id.store(reserved, std::memory_order_relaxed);
    return reserved;
  }
  const ProcessId id = table.reserve();
  table.make_alive(id);
  ProcessId expected = 0;
  // relaxed: see self(). Of two threads that come here at once one wins, the other gives back.
  if (this_process_id.compare_exchange_strong(expected, id, std::memory_order_relaxed)) return id;
  table.cancel(id);
  return expected;
}

}  // namespace millrace::shm
