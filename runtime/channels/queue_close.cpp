// Which processes have closed a queue.
#include "runtime/channels/queue.hpp"
#include "shm/arena.hpp"

namespace millrace::runtime {
namespace {

using Table = std::atomic<std::uint32_t>;

Table* table_of(const QueueState& state) noexcept {
  // CLOSE table: acquire, pairs with the exchange in make_table()
  const std::uint64_t address = state.ring.extra.load(std::memory_order_acquire);
  return reinterpret_cast<Table*>(address);  // NOLINT(performance-no-int-to-ptr): in the arena
}

Table* make_table(QueueState& state) {
  shm::Arena& arena = shm::Arena::instance();
  void* block = arena.allocate_zeroed(shm::kMaxProcesses * sizeof(Table));
  arena.give(block, shm::kNobody);
  std::uint64_t seen = 0;
  // CLOSE table: release, its zeroes; one table wins
  if (!state.ring.extra.compare_exchange_strong(seen, reinterpret_cast<std::uint64_t>(block),
                                                std::memory_order_acq_rel,
                                                std::memory_order_acquire)) {
    arena.deallocate(block);
  }
  return table_of(state);
}

bool take_word(Table& word, shm::ProcessId process) noexcept {
  std::uint32_t seen = word.load(std::memory_order_relaxed);  // a guess, the exchange decides
  if (seen == process) return true;
  if (seen != 0 && !shm::ProcessTable::instance().is_dead(seen)) return false;
  // CLOSE queue: seq_cst, before the look for sleepers of who closes
  return word.compare_exchange_strong(seen, process, std::memory_order_seq_cst,
                                      std::memory_order_relaxed);
}

}  // namespace

bool has_closed(const QueueState& state, shm::ProcessId process) noexcept {
  // CLOSE queue: acquire; the process's own word, written by one of its threads
  for (const auto& word : state.closers) {
    if (word.load(std::memory_order_acquire) == process) return true;
  }
  const Table* table = table_of(state);
  if (table == nullptr) return false;
  // CLOSE queue: acquire, as above
  return table[process & (shm::kMaxProcesses - 1)].load(std::memory_order_acquire) == process;
}

void note_closed(QueueState& state, shm::ProcessId process) {
  for (auto& word : state.closers) {
    if (take_word(word, process)) return;
  }
  Table* table = table_of(state);
  if (table == nullptr) table = make_table(state);
  // CLOSE queue: seq_cst, as in take_word(); whoever had this index before is dead
  table[process & (shm::kMaxProcesses - 1)].store(process, std::memory_order_seq_cst);
}

}  // namespace millrace::runtime
