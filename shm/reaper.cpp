#include "shm/reaper.hpp"

#include "shm/arena.hpp"
#include "shm/object.hpp"
#include "shm/process_heap.hpp"
#include "shm/process_table.hpp"

namespace millrace::shm {

void reap(ProcessId dead) noexcept {
  ProcessTable& table = ProcessTable::instance();
  table.mark_dead(dead, kUnknownStatus);
  if (!table.begin_reaping(dead)) return;
  // References first: an object that the dead process was freeing is recognised by the block being
  // still its own (object.hpp).
  drop_references(dead);
  freeze_heap(dead);
  Arena::instance().sweep(dead);
  table.end_reaping(dead);
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
