// A Pipe as it lies in the arena: two directions, each a ring, and who has its ends open.
//
//   body    | direction read by side 0 | direction read by side 1 | end 0 | end 1 | ring | ring |
//   token   an object of its own for each end: whoever has the end open holds it, processes by
//   their
//           reference tables (shm/ref_table.hpp), messages and captures by the arena's. Its end is
//           the end of the end, whatever ended the holders.
//   frames  ring messages of {head:8, content}: the head says what kind of frame it belongs to,
//           whether it is the frame's first and last message, and how long the frame is. Frames of
//           up to kWholeBytes are one message, longer ones several of kChunkBytes.
//
// Invariants
//  1. Whoever writes a direction's ring holds its send lock, whoever reads it the recv lock; both
//     ends of the ring lie in the body. A frame is sent under one holding of the lock.
//  2. `gone` is set once nobody holds an end's token, and never cleared. Then everybody who may
//  wait
//     for that end is woken: those on the spots, and the bell.
//  3. After publishing, a writer looks for sleepers on `items`, behind a barrier; after releasing,
//  a
//     reader does on `room`. A writer without room gives back by itself what readers have released.
//  4. The bell (pipe_bell.hpp) has a unit whenever the ring is not empty or the end is gone, once
//     `armed` and while nobody is between publishing and ringing.
//
// What happens when a process dies between any two steps:
//   holding the send lock: the next sender makes a new producer from the ring (spsc_ring.hpp), so a
//     message is there or not. A frame of several messages that it began has no last one: the
//     reader drops it when it sees that nobody sends (the lock is free or its owner dead), or
//     another frame's first message. It rings the bell, for the dead may have published and not
//     rung.
//   holding the recv lock: the next reader goes on at the first message that was not released. What
//     is left of a frame that the dead one had begun is skipped to the next first message.
//   anywhere: its tokens are no living process's; waiters find that out within a slice, a poll on
//     fileno() by the pidfds behind it (pipe_end.cpp).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>

#include "shm/object.hpp"
#include "shm/parking.hpp"
#include "shm/shared_lock.hpp"
#include "shm/spsc_ring.hpp"

namespace millrace::runtime {

/// Who rings the bell of a direction, and where others find it: pipe_bell.hpp.
struct BellState {
  static constexpr std::size_t kHolders = 60;
  // Of `rung`: no unit; one was added since the last was taken; none, and a reader sees to it.
  static constexpr std::uint32_t kQuiet = 0;
  static constexpr std::uint32_t kRung = 1;
  static constexpr std::uint32_t kAttended = 2;
  // Of `waiter`: more than one process.
  static constexpr std::uint64_t kMany = ~std::uint64_t{0};

  std::atomic<std::uint32_t> armed;  // 1 once anybody asked for fileno()
  std::atomic<std::uint32_t> rung;
  std::atomic<std::uint64_t> waiter;            // the only process that asked, 0: none
  std::atomic<std::uint64_t> maker;             // the process that decides which one, 0: none
  std::atomic<std::uint64_t> inode;             // of the kernel's pipe, 0: none was made
  std::atomic<std::uint64_t> holder[kHolders];  // {pid:32, descriptor:32}, 0: free
};
static_assert(sizeof(BellState) == 512);

struct alignas(64) Direction {
  using Producer = shm::SpscRing::Producer;
  using Consumer = shm::SpscRing::Consumer;

  static constexpr std::size_t kLines = 256;
  static constexpr std::size_t kBulkBytes = std::size_t{1} << 19;
  static constexpr std::size_t kWholeBytes = kBulkBytes / 4;
  static constexpr std::size_t kChunkBytes = kBulkBytes / 8;
  static constexpr shm::SpscGeometry kGeometry{kLines, kBulkBytes};

  [[nodiscard]] Producer& producer() noexcept {
    return *std::launder(reinterpret_cast<Producer*>(producer_));
  }
  [[nodiscard]] Consumer& consumer() noexcept {
    return *std::launder(reinterpret_cast<Consumer*>(consumer_));
  }
  [[nodiscard]] shm::SpscRing ring() const {
    return shm::SpscRing::attach(ring_, shm::SpscRing::bytes_for(kGeometry));
  }
  /// In zero-filled memory.
  void make(void* ring);
  /// After the death of one who held the send lock.
  void restart_producer();

  // Written by senders.
  shm::SharedLock send_lock;
  alignas(64) std::byte producer_[sizeof(Producer)];  // with the send lock
  // Written by receivers.
  alignas(64) shm::SharedLock recv_lock;
  std::atomic<std::uint32_t> in_frame;  // 1: its holder waits inside a frame; advice for poll()
  alignas(64) std::byte consumer_[sizeof(Consumer)];  // with the recv lock
  // Written around sleeps.
  alignas(64) shm::ParkingSpot items;
  alignas(64) shm::ParkingSpot room;
  // Constant once the Pipe is made.
  alignas(64) void* ring_;
  // Written by those who use fileno() and by those who ring.
  alignas(64) BellState bell;
};

/// One end, as its peer sees it.
struct alignas(64) PipeSide {
  shm::ObjectWatch token;            // constant
  std::uint64_t serial;              // constant: what the token's payload holds
  std::atomic<std::uint32_t> gone;   // 1: nobody has it open
  std::atomic<std::uint32_t> moves;  // grows when a process begins or ceases to have it open
};

struct PipeBody {
  Direction direction[2];  // by the side that reads
  PipeSide side[2];
};

/// The head of a ring's message.
class FrameHead {
 public:
  FrameHead() noexcept = default;
  FrameHead(std::uint32_t kind, bool first, bool last, std::size_t frame_bytes) noexcept
      : word_(std::uint64_t{kind & 3U} | std::uint64_t{first} << 2U | std::uint64_t{last} << 3U |
              std::uint64_t{frame_bytes} << 4U) {}

  [[nodiscard]] std::uint32_t kind() const noexcept { return word_ & 3U; }
  [[nodiscard]] bool first() const noexcept { return (word_ & 4U) != 0; }
  [[nodiscard]] bool last() const noexcept { return (word_ & 8U) != 0; }
  [[nodiscard]] std::size_t frame_bytes() const noexcept { return word_ >> 4U; }

 private:
  std::uint64_t word_ = 0;
};

/// Establishes that nobody has the end open, and wakes all who may wait for it. Rings no bell.
void mark_gone(PipeBody& body, unsigned side) noexcept;
/// True while the token of an end lives. A few loads.
bool token_lives(const PipeSide& side) noexcept;

}  // namespace millrace::runtime
