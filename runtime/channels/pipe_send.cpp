// The sending half of PipeEnd: frames into the ring, under the send lock.
#include <cerrno>
#include <chrono>
#include <cstring>

#include "runtime/channels/pipe_turn.hpp"

namespace millrace::runtime {
namespace {

constexpr std::chrono::microseconds kSpin{20};

// Copies the parts of a frame piece by piece.
class Parts {
 public:
  explicit Parts(std::span<const FramePart> parts) noexcept : parts_(parts) {}

  void copy(std::byte* to, std::size_t bytes) noexcept {
    while (bytes != 0) {
      const FramePart& part = parts_.front();
      const std::size_t count = std::min(bytes, part.size() - offset_);
      if (count != 0) std::memcpy(to, part.data() + offset_, count);
      to += count;
      bytes -= count;
      offset_ += count;
      if (offset_ == part.size()) {
        parts_ = parts_.subspan(1);
        offset_ = 0;
      }
    }
  }

 private:
  std::span<const FramePart> parts_;
  std::size_t offset_ = 0;
};

std::size_t size_of(std::span<const FramePart> parts) noexcept {
  std::size_t bytes = 0;
  for (const FramePart& part : parts) bytes += part.size();
  return bytes;
}

}  // namespace

void PipeEnd::send(FrameKind kind, std::span<const FramePart> parts) {
  check_writable();
  const std::size_t bytes = size_of(parts);
  Direction& to = out();
  SendTurn turn(*this);
  check_open();
  if (nobody_will_read()) throw_broken_pipe();
  if (bytes + sizeof(FrameHead) > Direction::kWholeBytes) {
    send_chunks(kind, parts, bytes);
  } else {
    std::byte* const place = room_for(bytes + sizeof(FrameHead));
    const FrameHead head(static_cast<std::uint32_t>(kind), true, true, bytes);
    std::memcpy(place, &head, sizeof head);
    Parts(parts).copy(place + sizeof head, bytes);
    to.producer().commit(bytes + sizeof head);
  }
  const bool armed = bell_out_.armed();
  if (armed) announce();
  turn.release();
  // The lock was given back by a read-modify-write.
  shm::TurnPlatform::barrier_after_rmw();
  if (to.items.maybe_asleep()) to.items.notify_all();
  // Who armed the bell just then may not have seen the message.
  if (!armed && bell_out_.armed()) published();
}

// peer_gone(), without its look at the clock for an answer to what has just come: that the one who
// sent it died since is found by the next message, if this one is not answered.
bool PipeEnd::nobody_will_read() {
  // relaxed: a guess
  if (!heard_.load(std::memory_order_relaxed)) return peer_gone();
  heard_.store(false, std::memory_order_relaxed);
  // GONE end: pipe_end.cpp sets it; acquire, see peer_gone()
  return peer().gone.load(std::memory_order_acquire) != 0;
}

void PipeEnd::send_chunks(FrameKind kind, std::span<const FramePart> parts, std::size_t bytes) {
  Parts source(parts);
  for (std::size_t sent = 0; sent < bytes;) {
    const std::size_t count = std::min(bytes - sent, Direction::kChunkBytes);
    std::byte* const place = room_for(count + sizeof(FrameHead));
    const FrameHead head(static_cast<std::uint32_t>(kind), sent == 0, sent + count == bytes, bytes);
    std::memcpy(place, &head, sizeof head);
    source.copy(place + sizeof head, count);
    out().producer().commit(count + sizeof head);
    sent += count;
    out().items.notify_all();
    if (sent == count && bell_out_.armed()) announce();  // the first one makes it readable
  }
}

void PipeEnd::announce() {
  if (!bell_out_.wants_ring()) return;
  const std::lock_guard guard(bell_mutex());
  bell_out_.ring();
}

void PipeEnd::published() {
  const std::lock_guard guard(bell_mutex());
  bell_out_.add_unit();
}

std::byte* PipeEnd::room_for(std::size_t bytes) {
  std::byte* const place = out().producer().try_reserve(bytes);
  return place != nullptr ? place : wait_for_room(bytes);
}

// What readers have released is given back late, by their own choice: a writer without room does it
// for them.
void PipeEnd::take_back() {
  Direction& to = out();
  const shm::SharedLock::Result got = to.recv_lock.try_acquire(shm::this_caller());
  if (got.got == shm::Got::no) return;  // who holds it looks for this sleeper when done
  if (got.got == shm::Got::abandoned) {
    to.consumer().resume();
    bell_out_.settle();
    if (bell_out_.armed()) published();
  }
  to.consumer().give_back();
  to.recv_lock.free();
  to.items.notify_all();  // who found the lock taken went to sleep
}

std::byte* PipeEnd::wait_for_room(std::size_t bytes) {
  Direction& to = out();
  std::byte* place = nullptr;
  const auto reserved = [&] { return (place = to.producer().try_reserve(bytes)) != nullptr; };
  if (may_spin_ && shm::spin_until(reserved, kSpin)) return place;
  shm::Pace pace(Timeout::Clock::time_point::max());
  for (;;) {
    [[maybe_unused]] const auto sleep = pace.sleep(to.room);
    const auto key = to.room.prepare();
    if (reserved()) return place;
    take_back();
    if (reserved()) return place;
    check_open();
    // GONE end: pipe_end.cpp sets it; acquire, behind prepare(), who sets it wakes the spot
    if (peer().gone.load(std::memory_order_acquire) != 0) throw_broken_pipe();
    pace.check();
    const int outcome = to.room.wait(key, pace.until(kFirstLook));
    pace.tick();
    if (outcome == ETIMEDOUT && peer_gone_for_certain()) throw_broken_pipe();
  }
}

}  // namespace millrace::runtime
