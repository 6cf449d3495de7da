// Which named segments the program has to unlink at its end: a list in the arena, which every
// process of the program writes and the resource tracker reads when all of them are gone.
//
// A slot's state is one word: FREE, CLAIMED by a process that is filling it in, ARMED. Any process
// may call anything; each call is lock-free but for the making of a new block, which is one
// compare-and-swap too.
// Death of a process between any two steps: a CLAIMED slot is taken back by the next process that
// looks for one; an ARMED one stays, and is checked against the name's inode before anything is
// unlinked, so a note whose segment never got its name, or lost it, does no harm.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace millrace::runtime {

/// The longest name of a file, and its NUL.
inline constexpr std::size_t kSegmentNameBytes = 256;

/// Which file a name means.
struct SegmentIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  friend bool operator==(const SegmentIdentity&, const SegmentIdentity&) = default;
};

/// The notes of the program and its tracker. All bytes zero is a valid, empty one.
class SegmentRegistry {
 public:
  /// The program's; made on first use. Throws std::system_error (ENOMEM).
  static SegmentRegistry& instance();

  /// Notes a segment; from now on it ends with the program. Throws std::system_error (ENOMEM).
  void arm(const SegmentIdentity& segment, std::string_view name);
  /// Takes the note back; nothing when there is none.
  void disarm(const SegmentIdentity& segment) noexcept;

  /// One noted segment, for the tracker.
  struct Note {
    SegmentIdentity segment;
    std::array<char, kSegmentNameBytes> name;
  };
  /// Calls `visit(note, argument)` for each. For the tracker, when no process changes them any
  /// more. Uses no heap.
  void each(void (*visit)(const Note& note, void* argument), void* argument) const noexcept;

  /// Who tracks: nobody (0), starting by process `word >> 2`, or running with pid `word >> 2`.
  std::atomic<std::uint64_t> tracker;
  /// Start time of the running tracker, so that another process with its pid is not taken for it.
  std::atomic<std::uint64_t> tracker_started;
  /// The pid of a tracker just made, told by the process between it and the one that starts it.
  std::atomic<std::int32_t> tracker_made;

  SegmentRegistry(const SegmentRegistry&) = delete;
  SegmentRegistry& operator=(const SegmentRegistry&) = delete;

 private:
  struct alignas(64) Slot {
    std::atomic<std::uint64_t> state;
    std::atomic<std::uint64_t> device;  // this and the rest: written while CLAIMED, read when ARMED
    std::atomic<std::uint64_t> inode;
    std::array<std::atomic<std::uint64_t>, kSegmentNameBytes / 8> name;
  };
  struct Block {
    std::array<Slot, 12> slots;
    std::atomic<Block*> next;  // written once
  };

  Slot& claim();
  static Block* add_block(std::atomic<Block*>& place);

  Block first_;
};

}  // namespace millrace::runtime
