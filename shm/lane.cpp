#include "shm/lane.hpp"

#include <algorithm>
#include <millrace/errors.hpp>
#include <new>

#include "shm/arena.hpp"

namespace millrace::shm {

struct alignas(16) Lane::MessageHead {
  std::atomic<std::uint32_t> state;
  std::uint32_t units;
};

namespace {

constexpr std::uint32_t kTaken = 0x6e616c01;
constexpr std::uint32_t kFree = 0x6e616c00;
constexpr std::size_t kHeadBytes = 16;

}  // namespace

Lane* Lane::create(std::size_t capacity_bytes, const Placement& placement) {
  static_assert(sizeof(MessageHead) == kHeadBytes && sizeof(Lane) % kCacheLine == 0);
  const std::size_t units =
      std::clamp<std::size_t>((capacity_bytes + kCacheLine - 1) / kCacheLine, 2, UINT32_MAX);
  void* block = Arena::instance().allocate(sizeof(Lane) + units * kCacheLine, placement);
  return new (block) Lane(units);
}

void Lane::destroy(Lane* lane) noexcept { Arena::instance().deallocate(lane); }

std::size_t Lane::largest_message() const noexcept { return capacity() - kHeadBytes; }

Lane::MessageHead& Lane::at(std::uint64_t position) noexcept {
  std::byte* units = reinterpret_cast<std::byte*>(this) + sizeof(Lane);
  return *reinterpret_cast<MessageHead*>(units + position % units_ * kCacheLine);
}

// Length of the message at `position`, which lies in memory that others may damage.
std::uint64_t Lane::units_at(std::uint64_t position) {
  const std::uint64_t units = at(position).units;
  if (units == 0 || units > units_ - position % units_) {
    throw Corrupt("lane: the length of a message was overwritten");
  }
  return units;
}

// Moves tail over the messages that were given back.
void Lane::reclaim() {
  // relaxed, head_ and tail_ here and below: the owner's own. Whoever takes the lane over has
  // learnt of the owner's death, which orders them (process_table.hpp).
  const std::uint64_t head = head_.load(std::memory_order_relaxed);
  std::uint64_t tail = tail_.load(std::memory_order_relaxed);
  while (tail < head) {
    // OBSERVE message: acquire pairs with release(), the reader is done before we write again
    if (at(tail).state.load(std::memory_order_acquire) != kFree) break;
    tail += units_at(tail);
  }
  tail_.store(std::min(tail, head), std::memory_order_relaxed);
}

void Lane::append(std::uint64_t units, std::uint32_t state) noexcept {
  const std::uint64_t head = head_.load(std::memory_order_relaxed);
  MessageHead& message = at(head);
  message.units = static_cast<std::uint32_t>(units);
  message.state.store(state, std::memory_order_relaxed);
  // relaxed for other processes, which get the message by other means; but the compiler must not
  // reorder: APPEND message: its head is whole before head_ passes it, so a kill in between leaves
  // no half of one (invariant 1 of lane.hpp)
  std::atomic_signal_fence(std::memory_order_release);
  head_.store(head + units, std::memory_order_relaxed);
}

void* Lane::try_allocate(std::size_t bytes) {
  if (bytes > largest_message()) return nullptr;
  const std::uint64_t units = (bytes + kHeadBytes + kCacheLine - 1) / kCacheLine;
  reclaim();
  std::uint64_t head = head_.load(std::memory_order_relaxed);
  std::uint64_t tail = tail_.load(std::memory_order_relaxed);
  if (tail == head && head % units_ != 0) {
    // Empty: back to the first unit, which is still in this cpu's cache. Head first: in between
    // there is a stretch that a filler would cover; append() makes it one.
    append(units_ - head % units_, kFree);
    reclaim();
    head = head_.load(std::memory_order_relaxed);
    tail = tail_.load(std::memory_order_relaxed);
  }
  const std::uint64_t to_end = units_ - head % units_;
  const std::uint64_t filler = units <= to_end ? 0 : to_end;
  if (head - tail + filler + units > units_) return nullptr;
  if (filler != 0) append(filler, kFree);
  MessageHead& message = at(head + filler);
  append(units, kTaken);
  return reinterpret_cast<std::byte*>(&message) + kHeadBytes;
}

bool Lane::release(void* message) noexcept {
  auto* head = static_cast<std::byte*>(message) - kHeadBytes;
  if (reinterpret_cast<std::uintptr_t>(head) % kCacheLine != 0 || !Arena::contains(head)) {
    return false;
  }
  std::uint32_t expected = kTaken;
  // PUBLISH message: release pairs with the acquire in reclaim()
  return reinterpret_cast<MessageHead*>(head)->state.compare_exchange_strong(
      expected, kFree, std::memory_order_release, std::memory_order_relaxed);
}

// The first taken message from `position` on.
void* Lane::taken_from(std::uint64_t position) {
  const std::uint64_t head = head_.load(std::memory_order_relaxed);
  for (; position < head; position += units_at(position)) {
    MessageHead& message = at(position);
    if (message.state.load(std::memory_order_relaxed) == kTaken) {
      return reinterpret_cast<std::byte*>(&message) + kHeadBytes;
    }
  }
  return nullptr;
}

void* Lane::first_taken() { return taken_from(tail_.load(std::memory_order_relaxed)); }

void* Lane::next_taken(void* message) {
  const std::uint64_t tail = tail_.load(std::memory_order_relaxed);
  const auto offset = static_cast<std::uint64_t>(static_cast<std::byte*>(message) - kHeadBytes -
                                                 reinterpret_cast<std::byte*>(&at(0))) /
                      kCacheLine;
  const std::uint64_t behind = (offset + units_ - tail % units_) % units_;
  return taken_from(tail + behind + units_at(tail + behind));
}

std::size_t Lane::messages_in_use() {
  std::size_t count = 0;
  for (void* m = first_taken(); m != nullptr; m = next_taken(m)) ++count;
  return count;
}

}  // namespace millrace::shm
