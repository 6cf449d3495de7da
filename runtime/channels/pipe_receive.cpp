// The receiving half of PipeEnd: frames out of the ring, under the recv lock.
//
// A sleeper looks at the ring by itself if it gets the lock. If not, it relies on the holder: one
// who takes a message, or leaves one where it is, wakes the sleepers after giving the lock back.
#include <cerrno>
#include <chrono>
#include <cstring>
#include <limits>
#include <millrace/errors.hpp>
#include <millrace/function.hpp>

#include "runtime/channels/pipe_turn.hpp"
#include "shm/process_table.hpp"

namespace millrace::runtime {
namespace {

constexpr std::chrono::microseconds kSpin{50};  // about what a wake-up costs
constexpr std::chrono::microseconds kShortSpin{5};
constexpr std::uint32_t kPatientSpins = 3;  // in vain, before most are left out
constexpr std::uint32_t kSpinAgain = 16;

FrameHead head_of(const shm::SpscMessage& message) {
  FrameHead head;
  if (message.size < sizeof head) throw Corrupt("a pipe's message without its head");
  std::memcpy(&head, message.data, sizeof head);
  return head;
}

}  // namespace

FrameKind PipeEnd::receive(FrameBuffer& frame, std::size_t maxlength) {
  check_readable();
  RecvTurn turn(*this);
  turn.take();
  for (;;) {
    shm::SpscMessage message = spin(turn);
    if (!message) {
      turn.release();
      shm::Pace pace(Timeout::Clock::time_point::max());
      if (wait_for_message(turn, pace) == Look::end) throw_end_of_file();
      message = in().consumer().try_peek();
    }
    check_open();
    FrameKind kind{};
    if (!take_frame(turn, message, frame, maxlength, kind)) continue;
    heard_.store(true, std::memory_order_relaxed);  // see nobody_will_read()
    if (bell_in_.armed() && !turn.attended() && !in().consumer().try_peek()) quiet();
    turn.release();
    after_turn();
    return kind;
  }
}

bool PipeEnd::poll(Timeout timeout) {
  RecvTurn turn(*this);
  Look found = look_patiently(turn);
  if (found == Look::nothing && (timeout.infinite() || timeout.duration().count() != 0)) {
    shm::Pace pace(timeout.deadline());
    found = wait_for_message(turn, pace);
    if (found == Look::nothing) found = look_patiently(turn);
  } else if (found == Look::nothing && peer_gone()) {
    found = look_patiently(turn);
  }
  turn.release();
  if (found == Look::message && in().items.maybe_asleep()) in().items.notify_all();
  return found != Look::nothing;
}

// ---- waiting

// A message: the turn is held.
PipeEnd::Look PipeEnd::look(RecvTurn& turn) {
  if (!turn.try_take()) return Look::nothing;
  // GONE end: pipe_end.cpp sets it; acquire, before the look at the ring: all that was sent is seen
  const bool gone = peer().gone.load(std::memory_order_acquire) != 0;
  if (in().consumer().try_peek()) return Look::message;
  if (!gone) quiet();
  turn.release();
  return gone ? Look::end : Look::nothing;
}

// The same where the answer counts: who holds the lock and only looks gives it back soon. One who
// does not is stopped, and what is there is looked at past it: then the turn is not held.
PipeEnd::Look PipeEnd::look_patiently(RecvTurn& turn) {
  // relaxed: advice; the holder may be about to take the lock's message either way
  if (!turn.try_take() && in().in_frame.load(std::memory_order_relaxed) == 0 &&
      !turn.try_take_for_a_slice()) {
    check_open();
    return look_past();
  }
  return look(turn);
}

PipeEnd::Look PipeEnd::look_past() noexcept {
  // GONE end: acquire, as in look()
  const bool gone = peer().gone.load(std::memory_order_acquire) != 0;
  if (in().consumer().has_message()) return Look::message;
  return gone ? Look::end : Look::nothing;
}

PipeEnd::Look PipeEnd::wait_for_message(RecvTurn& turn, shm::Pace& pace) {
  Direction& from = in();
  for (;;) {
    [[maybe_unused]] const auto sleep = pace.sleep(from.items);
    const auto key = from.items.prepare();
    if (const Look found = look(turn); found != Look::nothing) return found;
    check_open();
    if (pace.over()) return Look::nothing;
    pace.check();
    const int outcome = from.items.wait(key, pace.until(kFirstLook));
    pace.tick();
    if (outcome == ETIMEDOUT) peer_gone_for_certain();
  }
}

// The next message, looked for as long as that pays; none if it did not come. With the turn.
shm::SpscMessage PipeEnd::spin(RecvTurn& turn) {
  turn.take();
  Direction::Consumer& ring = in().consumer();
  shm::SpscMessage message;
  const auto there = [&] { return static_cast<bool>(message = ring.try_peek()); };
  if (there()) return message;
  // relaxed: a guess about the peer's habits
  const std::uint32_t idle = idle_spins_.load(std::memory_order_relaxed);
  const bool worth_it = idle < kPatientSpins || idle % kSpinAgain == 0;
  if (may_spin_) turn.attend();
  if (may_spin_ && shm::spin_until(there, worth_it ? kSpin : kShortSpin)) {
    idle_spins_.store(0, std::memory_order_relaxed);
    return message;
  }
  for (int i = 0; i < 2; ++i) {
    ::sched_yield();
    if (there()) return message;
  }
  idle_spins_.store(idle + 1, std::memory_order_relaxed);
  return message;
}

// ---- taking

// The frame that begins with `message`, the next one, and its kind; false when that was the rest of
// another, or the frame broke off.
bool PipeEnd::take_frame(RecvTurn& turn, const shm::SpscMessage& message, FrameBuffer& frame,
                         std::size_t maxlength, FrameKind& kind) {
  Direction::Consumer& ring = in().consumer();
  const FrameHead head = head_of(message);
  if (!head.first()) {
    ring.release();
    return false;
  }
  const std::size_t bytes = head.frame_bytes();
  const std::size_t here = message.size - sizeof head;
  if (here > bytes || (head.last() && here != bytes)) throw Corrupt("a pipe's frame: its length");
  if (head.kind() != static_cast<std::uint32_t>(FrameKind::value) && bytes > maxlength) {
    ring.release();
    turn.release();
    refuse_rest();
    throw_bad_message_length();
  }
  frame.expect(bytes);
  frame.append({message.data + sizeof head, here});
  ring.release();
  if (!head.last() && !take_chunks(frame, bytes)) {
    if (peer_gone() && !ring.try_peek()) throw_end_inside_message();
    return false;
  }
  kind = static_cast<FrameKind>(head.kind());
  return true;
}

// The rest of a frame of `bytes`; false when it will never come.
bool PipeEnd::take_chunks(FrameBuffer& frame, std::size_t bytes) {
  struct Inside {
    std::atomic<std::uint32_t>& flag;
    explicit Inside(std::atomic<std::uint32_t>& f) noexcept : flag(f) {
      flag.store(1, std::memory_order_relaxed);  // advice
    }
    ~Inside() { flag.store(0, std::memory_order_relaxed); }
  } const inside(in().in_frame);
  for (;;) {
    give_back();
    if (frame.size() == bytes) return true;
    const shm::SpscMessage message = next_chunk();
    if (!message) return false;
    const FrameHead head = head_of(message);
    if (head.first()) return false;
    const std::size_t here = message.size - sizeof head;
    if (here > bytes - frame.size()) throw Corrupt("a pipe's frame: its length");
    frame.append({message.data + sizeof head, here});
    in().consumer().release();
  }
}

// Waits for the next message inside a frame; none when nobody sends it. Not for SIGINT: what is
// half received would be lost.
shm::SpscMessage PipeEnd::next_chunk() {
  Direction& from = in();
  shm::SpscMessage message;
  const auto there = [&] { return static_cast<bool>(message = from.consumer().try_peek()); };
  if (there() || (may_spin_ && shm::spin_until(there, kSpin))) return message;
  shm::Pace pace(Timeout::Clock::time_point::max(), shm::Interrupts::ignored);
  for (bool long_wait = false;;) {
    const auto key = from.items.prepare();
    if (there()) return message;
    check_open();
    const shm::ProcessId sender = from.send_lock.owner();
    const bool stopped =
        sender == 0 || (long_wait && !shm::ProcessTable::instance().check_alive(sender));
    if (stopped) {
      shm::store_load_barrier();  // what it published before it let go is looked for behind this
      there();
      return message;
    }
    long_wait = from.items.wait(key, pace.until()) == ETIMEDOUT;
    pace.tick();
  }
}

void PipeEnd::give_back() {
  in().consumer().give_back();
  in().room.notify_all();
}

// For those who went to sleep because this one had the lock, and for a writer without room.
void PipeEnd::after_turn() {
  Direction& from = in();
  shm::TurnPlatform::barrier_after_rmw();
  if (from.items.maybe_asleep()) from.items.notify_all();
  if (!from.room.maybe_asleep()) return;
  if (RecvTurn turn(*this); turn.try_take()) give_back();
  if (from.items.maybe_asleep()) from.items.notify_all();
}

// Nobody will read what is left: what it refers to is given back.
void PipeEnd::discard_unread() noexcept {
  try {
    RecvTurn turn(*this);
    if (!turn.try_take()) return;
    Direction::Consumer& ring = in().consumer();
    while (const shm::SpscMessage message = ring.try_peek()) {
      const FrameHead head = head_of(message);
      const std::size_t bytes = message.size - sizeof head;
      ValueHead value{};
      if (head.first() && head.last() && bytes >= sizeof value &&
          head.kind() == static_cast<std::uint32_t>(FrameKind::value)) {
        std::memcpy(&value, message.data + sizeof head, sizeof value);
        if (value.discard != 0) {
          wire::Reader content(message.data + sizeof head + sizeof value, bytes - sizeof value);
          reinterpret_cast<void (*)(wire::Reader&)>(resolve_function(value.discard))(content);
        }
      }
      ring.release();
    }
  } catch (...) {
    // What cannot be decoded cannot be given back: it stays until the program ends.
  }
}

}  // namespace millrace::runtime
