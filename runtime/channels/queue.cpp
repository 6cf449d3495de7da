#include "runtime/channels/queue.hpp"

#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <system_error>
#include <utility>

#include "runtime/base/fd_bag.hpp"
#include "runtime/channels/discarded_item.hpp"
#include "runtime/channels/queue_call.hpp"
#include "shm/arena.hpp"
#include "shm/object.hpp"

namespace millrace::runtime {
namespace {

using shm::QueueCell;
using shm::QueueSlot;

std::uint64_t next_id() {
  static std::atomic<std::uint64_t> count{0};
  // relaxed: a number. A process's id is not used again before 16,383 others have had its index.
  return std::uint64_t{shm::self()} << 38U |
         (count.fetch_add(1, std::memory_order_relaxed) + 1) % (std::uint64_t{1} << 38U);
}

void drop_item(std::uint64_t discard, std::byte* bytes, std::size_t size) noexcept {
  const DiscardedItem scope(bytes, size);
  try {
    const auto id = static_cast<FunctionId>(discard);
    if (id != 0) reinterpret_cast<ItemDiscard*>(resolve_function(id))(bytes, size);
  } catch (...) {  // what it referred to stays until the program ends
  }
}
constinit thread_local const DiscardedItem* g_discarded = nullptr;  // the innermost

[[maybe_unused]] const bool g_hooked = (shm::set_queue_discard(&drop_item), true);

// Empties the cell and frees the slot, however the reader ends.
struct Taken {
  Call& call;
  QueueCell& cell;
  ~Taken() {
    shm::queue_empty_cell(call.state.ring, cell);
    call.free();
  }
};

void read_cell(QueueCell& cell, std::uint64_t word, ItemReader read, void* to) {
  const std::span<const std::byte> item = shm::queue_item(cell, word);
  if (item.data() == nullptr) {
    throw Corrupt("queue is damaged: its cell at " +
                  std::to_string(reinterpret_cast<std::uintptr_t>(&cell)) + " holds no item");
  }
  const bool counted = (word & QueueCell::kReferences) != 0;
  wire::Reader in(item.data(), item.size(),
                  counted ? wire::References::borrow : wire::References::take);
  read(to, in);
}

}  // namespace

DiscardedItem::DiscardedItem(const std::byte* item, std::size_t bytes) noexcept
    : begin_(item), end_(item + bytes), outer_(std::exchange(g_discarded, this)) {}
DiscardedItem::~DiscardedItem() { g_discarded = outer_; }

bool DiscardedItem::is_read_by(wire::Reader& in) noexcept {
  if (in.references() != wire::References::take) return false;
  const std::byte* const place = in.skip(0);
  for (const DiscardedItem* each = g_discarded; each != nullptr; each = each->outer_) {
    if (!std::less<>()(place, each->begin_) && !std::less<>()(each->end_, place)) return true;
  }
  return false;
}

void throw_closed(const shm::ObjectRef& queue, const QueueState& state) {
  if (state.kind == QueueKind::simple) {
    throw std::system_error(EBADF, std::generic_category(), "handle is closed");
  }
  throw ValueError("Queue " + QueueCalls::repr(queue) + " is closed");
}

void QueueDeaths::abandon(QueueSlot& slot, std::uint64_t seen) {
  std::optional<CountingLock> lock;
  if (state_.kind == QueueKind::joinable) lock.emplace(state_.unfinished);
  if (state_.ring.cells == 0) {
    shm::queue_abandon(slot, seen);
    return;
  }
  const std::uint64_t lap = QueueSlot::lap_of(seen);
  // CLAIM slot: acq_rel, takes over from the dead; what its cell names is this process's to free.
  if (!slot.state.compare_exchange_strong(seen,
                                          QueueSlot::word(lap, shm::self(), QueueSlot::kWriting),
                                          std::memory_order_acq_rel, std::memory_order_relaxed)) {
    return;
  }
  shm::queue_empty_cell(state_.ring, cell_of(slot));
  // FREE slot: release; pairs with OBSERVE free.
  slot.state.store(QueueSlot::word(lap + 1, 0, QueueSlot::kFree), std::memory_order_release);
}

shm::ObjectRef make_queue(QueueKind kind, std::int64_t maxsize, const QueueItems& items,
                          std::uint64_t type) {
  if (items.plain_bytes == 0) need_fd_bag();  // anything may be an item
  const std::uint64_t bound = maxsize <= 0 ? 0 : static_cast<std::uint64_t>(maxsize);
  shm::QueueShape shape;
  shape.cells = items.plain_bytes == 0;
  if (!shape.cells) shape.slot_shift = shm::queue_slot_shift(items.plain_bytes);
  shape.bound = bound <= shm::kQueueMostSlots ? bound : 0;
  shape.discard = items.discard;
  constexpr std::size_t kExtra = sizeof(QueueState) - sizeof(shm::QueueHeader);
  shm::ObjectRef made(
      shm::ObjectRequest{shm::queue_bytes(shape, kExtra), type, 0, {}, shm::kQueueObject});
  auto& state = *static_cast<QueueState*>(made.payload());
  shm::queue_create(static_cast<std::byte*>(made.payload()), shape, kExtra);
  state.id = next_id();
  state.limit = shape.bound == 0 ? bound : 0;
  state.plain_bytes = items.plain_bytes;
  state.kind = kind;
  return made;
}

bool put_item(const shm::ObjectRef& queue, ItemWriter& writer, Timeout timeout) {
  Call call(queue);
  if (writer.size() > shm::kQueueCellBytes && writer.block() == nullptr) writer.move_to_block();
  if (!call.claim_room(timeout)) return false;
  QueueCell& cell = cell_of(*call.held.slot);
  const std::uint64_t references = writer.holds_references() ? QueueCell::kReferences : 0;
  cell.bytes = writer.size();
  if (writer.size() <= shm::kQueueCellBytes) {
    std::memcpy(cell.here(), writer.data(), writer.size());
    // TAKE cell: release; pairs with the exchange of who empties it
    cell.word.store(QueueCell::kHere | references, std::memory_order_release);
    shm::deallocate(writer.block());
  } else {
    shm::Arena::instance().give(writer.block(), shm::kNobody);
    // TAKE cell: release, as above; from here on the block is the cell's
    cell.word.store(reinterpret_cast<std::uint64_t>(writer.block()) | references,
                    std::memory_order_release);
  }
  writer.sent();
  call.publish();
  return true;
}

bool get_item(const shm::ObjectRef& queue, ItemReader read, void* to, Timeout timeout) {
  Call call(queue);
  for (;;) {
    if (!call.claim_item(timeout)) return false;
    QueueCell& cell = cell_of(*call.held.slot);
    // TAKE cell: acquire; a reader that died may have emptied it
    const std::uint64_t word = cell.word.load(std::memory_order_acquire);
    const Taken taken{call, cell};
    if (word == 0) continue;
    read_cell(cell, word, read, to);
    return true;
  }
}

void throw_full() { throw queue::Full("the queue is full"); }
void throw_empty() { throw queue::Empty("the queue is empty"); }

std::size_t QueueCalls::size(const shm::ObjectRef& queue) {
  return Call(queue).ring.count(std::numeric_limits<std::uint64_t>::max());
}

bool QueueCalls::is_empty(const shm::ObjectRef& queue) {
  const Call call(queue);
  if (call.state.kind == QueueKind::simple) call.check_open();
  return call.ring.count(1) == 0;
}

bool QueueCalls::is_full(const shm::ObjectRef& queue) {
  const Call call(queue);
  const std::uint64_t bound = call.ring.bound();
  return bound == 0 ? call.at_limit() : call.ring.count(bound) >= bound;
}

void QueueCalls::close(const shm::ObjectRef& queue) {
  const Call call(queue);
  note_closed(call.state, call.me);
  // CLOSE queue: seq_cst, before the sleepers are woken; pairs with queue_call.hpp
  call.state.closed.store(1, std::memory_order_seq_cst);
  call.state.ring.items.rouse();
  call.state.ring.room.rouse();
}

void QueueCalls::join_thread(const shm::ObjectRef& queue) {
  const Call call(queue);
  if (!has_closed(call.state, call.me)) {
    throw AssertionError("Queue " + repr(queue) + " not closed");
  }
}

std::string QueueCalls::repr(const shm::ObjectRef& queue) {
  static constexpr std::array<const char*, 3> kNames = {"Queue", "JoinableQueue", "SimpleQueue"};
  const auto kind = static_cast<std::size_t>(payload_of<QueueState>(queue, "Queue").kind);
  return std::string("<multiprocessing.queues.") + kNames.at(kind) + " object at " +
         address_text(queue) + ">";
}

}  // namespace millrace::runtime
