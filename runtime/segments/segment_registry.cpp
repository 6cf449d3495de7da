#include "runtime/segments/segment_registry.hpp"

#include <cstring>

#include "shm/arena.hpp"
#include "shm/process_table.hpp"

namespace millrace::runtime {
namespace {

constexpr std::uint64_t kFree = 0;
constexpr std::uint64_t kClaimed = 1;  // and the claiming process's id from bit 2 on
constexpr std::uint64_t kArmed = 2;
constexpr std::uint64_t kKind = 3;

// Installs a zeroed T where none is; of two who come at once one wins and the other frees its own.
template <class T, class Word>
T* install(std::atomic<Word>& place) {
  shm::Arena& arena = shm::Arena::instance();
  void* const made = arena.allocate_zeroed(sizeof(T));
  arena.give(made, shm::kNobody);
  Word expected{};
  // INSTALL notes: release of the zeroed memory, pairs with the acquire of whoever finds it
  if (place.compare_exchange_strong(expected, (Word)made, std::memory_order_acq_rel,
                                    std::memory_order_acquire)) {
    return static_cast<T*>(made);
  }
  arena.deallocate(made);
  return (T*)expected;
}

}  // namespace

SegmentRegistry& SegmentRegistry::instance() {
  auto& word = shm::Arena::instance().root().word[shm::ArenaRoot::kRuntime];
  // INSTALL notes: acquire, see install()
  const std::uint64_t address = word.load(std::memory_order_acquire);
  if (address != 0) return *reinterpret_cast<SegmentRegistry*>(address);
  return *install<SegmentRegistry>(word);
}

SegmentRegistry::Block* SegmentRegistry::add_block(std::atomic<Block*>& place) {
  // INSTALL notes: acquire, see install()
  Block* const next = place.load(std::memory_order_acquire);
  return next != nullptr ? next : install<Block>(place);
}

SegmentRegistry::Slot& SegmentRegistry::claim() {
  const std::uint64_t mine = kClaimed | std::uint64_t{shm::self()} << 2U;
  for (Block* block = &first_;; block = add_block(block->next)) {
    for (Slot& slot : block->slots) {
      std::uint64_t seen = slot.state.load(std::memory_order_relaxed);
      const bool orphaned =
          (seen & kKind) == kClaimed &&
          !shm::ProcessTable::instance().check_alive(static_cast<shm::ProcessId>(seen >> 2U));
      if (seen != kFree && !orphaned) continue;
      // FREE note: acquire, after the last look of the previous user
      if (slot.state.compare_exchange_strong(seen, mine, std::memory_order_acquire,
                                             std::memory_order_relaxed)) {
        return slot;
      }
    }
  }
}

void SegmentRegistry::arm(const SegmentIdentity& segment, std::string_view name) {
  Slot& slot = claim();
  std::array<char, kSegmentNameBytes> text{};
  name.copy(text.data(), text.size() - 1);
  for (std::size_t i = 0; i < slot.name.size(); ++i) {
    std::uint64_t word = 0;
    std::memcpy(&word, &text[i * 8], sizeof word);
    slot.name[i].store(word, std::memory_order_relaxed);  // published by ARM note
  }
  slot.device.store(segment.device, std::memory_order_relaxed);
  slot.inode.store(segment.inode, std::memory_order_relaxed);
  // ARM note: release pairs with the acquire in disarm() and each()
  slot.state.store(kArmed, std::memory_order_release);
}

void SegmentRegistry::disarm(const SegmentIdentity& segment) noexcept {
  for (Block* block = &first_; block != nullptr;) {
    for (Slot& slot : block->slots) {
      // ARM note: acquire, see arm()
      std::uint64_t seen = slot.state.load(std::memory_order_acquire);
      if (seen != kArmed) continue;
      const SegmentIdentity noted{slot.device.load(std::memory_order_relaxed),
                                  slot.inode.load(std::memory_order_relaxed)};
      if (!(noted == segment)) continue;
      // FREE note: release. The segment has lost its name, and one inode has one note: nobody else
      // changes this slot.
      slot.state.compare_exchange_strong(seen, kFree, std::memory_order_release,
                                         std::memory_order_relaxed);
      return;
    }
    block = block->next.load(std::memory_order_acquire);  // INSTALL notes: see install()
  }
}

void SegmentRegistry::each(void (*visit)(const Note&, void*), void* argument) const noexcept {
  for (const Block* block = &first_; block != nullptr;) {
    for (const Slot& slot : block->slots) {
      // ARM note: acquire, see arm()
      if (slot.state.load(std::memory_order_acquire) != kArmed) continue;
      Note note{};
      note.segment = {slot.device.load(std::memory_order_relaxed),
                      slot.inode.load(std::memory_order_relaxed)};
      for (std::size_t i = 0; i < slot.name.size(); ++i) {
        const std::uint64_t word = slot.name[i].load(std::memory_order_relaxed);
        std::memcpy(&note.name[i * 8], &word, sizeof word);
      }
      note.name.back() = 0;
      visit(note, argument);
    }
    block = block->next.load(std::memory_order_acquire);  // INSTALL notes: see install()
  }
}

}  // namespace millrace::runtime
