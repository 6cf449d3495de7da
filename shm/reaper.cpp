#include "shm/reaper.hpp"

#include <atomic>

#include "shm/arena.hpp"
#include "shm/object.hpp"
#include "shm/process_heap.hpp"
#include "shm/process_table.hpp"

namespace millrace::shm {
namespace {

// Written once, before any process is sent a message.
constinit std::atomic<SettleMessage> message_settler{nullptr};

void settle_message(ProcessId dead) noexcept {
  // MESSAGE of a process: acquire, what whoever set it (spawn.cpp) had written
  const std::uint64_t at =
      ProcessTable::instance().message_of(dead).load(std::memory_order_acquire);
  const SettleMessage settle = message_settler.load(std::memory_order_relaxed);  // a constant
  if (at == 0 || settle == nullptr) return;
  settle(dead, reinterpret_cast<void*>(at));  // NOLINT(performance-no-int-to-ptr): arena address
}

}  // namespace

void set_message_settler(SettleMessage settle) noexcept {
  message_settler.store(settle, std::memory_order_relaxed);  // no other thread uses it yet
}

void reap(ProcessId dead) noexcept {
  ProcessTable& table = ProcessTable::instance();
  table.mark_dead(dead, kUnknownStatus);
  if (!table.begin_reaping(dead)) return;
  // While its memory is its own still. What is in there may be held by the process as well.
  settle_message(dead);
  // References first: an object that the dead process was freeing is recognised by the block being
  // still its own (object.hpp).
  drop_references(dead);
  freeze_heap(dead);
  Arena::instance().sweep(dead);
  table.end_reaping(dead);
}

void reap_messages() noexcept {
  ProcessTable& table = ProcessTable::instance();
  if (NoReaping::here() || !table.had_messages()) return;
  for (std::size_t i = 0; i < table.high(); ++i) {
    const ProcessId id = table.id_at(i);
    // relaxed: a hint, reap() looks again
    if (!table.in_use(i) || table.message_of(id).load(std::memory_order_relaxed) == 0) continue;
    if (!table.check_alive(id) && !table.awaits_heir(id)) reap(id);
  }
}

void reap_all_dead() noexcept {
  if (NoReaping::here()) return;
  ProcessTable& table = ProcessTable::instance();
  // Not self(): a process that is just being entered in a full table has no id yet.
  const ProcessId own = this_process_id.load(std::memory_order_relaxed);
  for (std::size_t i = 0; i < table.high(); ++i) {
    const ProcessId id = table.id_at(i);
    if (!table.in_use(i) || id == own || table.check_alive(id)) continue;
    if (!table.awaits_heir(id)) reap(id);
  }
}

}  // namespace millrace::shm
