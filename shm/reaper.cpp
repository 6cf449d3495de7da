#include "shm/reaper.hpp"

#include "shm/arena.hpp"
#include "shm/object.hpp"
#include "shm/process_table.hpp"

namespace millrace::shm {

void reap(ProcessId dead) noexcept {
  ProcessTable& table = ProcessTable::instance();
  table.mark_dead(dead, kUnknownStatus);
  if (!table.begin_reaping(dead)) return;
  // References first: an object that the dead process was freeing is recognised by the block being
  // still its own (object.hpp).
  drop_references(dead);
  Arena::instance().sweep(dead);
  table.end_reaping(dead);
}

}  // namespace millrace::shm
