// Items that are plain bytes: they lie in their slots.
#include <cstring>
#include <type_traits>

#include "runtime/channels/queue_call.hpp"
#include "shm/arena_header.hpp"

namespace millrace::runtime {
namespace {

using shm::QueueHeld;
using shm::QueueRing;

// Without a call for the usual sizes: by two copies that may overlap.
void copy_plain(std::byte* to, const void* from, std::size_t bytes) noexcept {
  const auto* source = static_cast<const std::byte*>(from);
  const auto both_ends = [&](auto width) {
    std::memcpy(to, source, width);
    std::memcpy(to + bytes - width, source + bytes - width, width);
  };
  if (bytes == 8) {
    std::memcpy(to, source, 8);
  } else if (bytes >= 16 && bytes <= 32) {
    both_ends(std::integral_constant<std::size_t, 16>());
  } else if (bytes > 32 && bytes <= 64) {
    both_ends(std::integral_constant<std::size_t, 32>());
  } else {
    std::memcpy(to, source, bytes);
  }
}

QueueRing ring_of(QueueState& state) noexcept {
  return {state.ring, shm::Arena::instance().size()};
}

// Not closed, and neither counted nor bounded by more than its slots.
bool is_usual(const QueueState& state) noexcept {
  // CLOSE queue: acquire, as in check_open() of queue_call.hpp
  return state.closed.load(std::memory_order_acquire) == 0 && state.limit == 0 &&
         state.kind != QueueKind::joinable;
}

[[gnu::noinline]] bool put_plain_slowly(const shm::ObjectRef& queue, const void* item,
                                        Timeout timeout) {
  Call call(queue);
  if (!call.claim_room(timeout)) return false;
  copy_plain(call.held.slot->value(), item, call.state.plain_bytes);
  call.publish();
  return true;
}

[[gnu::noinline]] bool get_plain_slowly(const shm::ObjectRef& queue, void* item, Timeout timeout) {
  Call call(queue);
  if (!call.claim_item(timeout)) return false;
  copy_plain(static_cast<std::byte*>(item), call.held.slot->value(), call.state.plain_bytes);
  call.free();
  return true;
}

}  // namespace

bool put_plain(const shm::ObjectRef& queue, const void* item, Timeout timeout) {
  auto& state = payload_of<QueueState>(queue, "Queue");
  const shm::ProcessId me = shm::self();
  if (QueueHeld held; is_usual(state) && ring_of(state).claim_hinted_room(me, held)) {
    copy_plain(held.slot->value(), item, state.plain_bytes);
    QueueRing::publish(held, me);
    state.ring.items.notify_one();
    return true;
  }
  return put_plain_slowly(queue, item, timeout);
}

bool get_plain(const shm::ObjectRef& queue, void* item, Timeout timeout) {
  auto& state = payload_of<QueueState>(queue, "Queue");
  const shm::ProcessId me = shm::self();
  // OBSERVE deaths: acquire, as in begin() of queue_walk.hpp.
  const std::uint64_t deaths = shm::process_table_there().deaths().load(std::memory_order_acquire);
  if (QueueHeld held; is_usual(state) &&
                      ring_of(state).claim_hinted_item(deaths, me, scan_of(state), held)) {
    copy_plain(static_cast<std::byte*>(item), held.slot->value(), state.plain_bytes);
    QueueRing::free(held);
    if (state.ring.ring != 0) state.ring.room.notify_one();
    return true;
  }
  return get_plain_slowly(queue, item, timeout);
}

}  // namespace millrace::runtime
