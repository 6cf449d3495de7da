#include "runtime/channels/queue.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>
#include <thread>

#include "runtime/sync/synchronize.hpp"
#include "shm/arena.hpp"
#include "shm/object.hpp"

namespace millrace::runtime {
namespace {

using shm::QueueCell;
using shm::QueueHeld;
using shm::QueueRing;
using shm::QueueScan;
using shm::QueueSlot;
using shm::RingResult;

// What this thread remembers of the queues it gets from, by their ids. One that was forgotten costs
// a longer walk.
QueueScan& scan_of(const QueueState& state) noexcept {
  struct Entry {
    std::uint64_t id = 0;
    QueueScan scan;
  };
  constexpr std::size_t kEntries = 32;
  static thread_local constinit std::array<Entry, kEntries> entries{};
  Entry& entry = entries[state.id % kEntries];
  if (entry.id != state.id) entry = {state.id, {}};
  return entry.scan;
}

// How long to spin before sleeping: longer where that has helped, shorter where it has not.
class Patience {
 public:
  Patience() noexcept : policy_(wait_policy()) {
    static const bool one_cpu = std::thread::hardware_concurrency() < 2;
    policy_.spin = std::chrono::microseconds(one_cpu ? 0 : budget_us_);
  }
  [[nodiscard]] shm::WaitPolicy& policy() noexcept { return policy_; }
  static void helped(bool yes) noexcept {
    budget_us_ = yes ? std::min(2 * budget_us_, kMost) : std::max(budget_us_ / 2, kLeast);
  }

 private:
  static constexpr int kMost = 64;  // about what a sleep and a wake cost
  static constexpr int kLeast = 2;
  static inline thread_local constinit int budget_us_ = kMost;
  shm::WaitPolicy policy_;
};

[[noreturn]] void throw_closed(const shm::ObjectRef& queue, const QueueState& state) {
  if (state.kind == QueueKind::simple) {
    throw std::system_error(EBADF, std::generic_category(), "handle is closed");
  }
  throw ValueError("Queue " + QueueCalls::repr(queue) + " is closed");
}

// One call of this process.
struct Call {
  explicit Call(const shm::ObjectRef& object)
      : queue(object),
        state(payload_of<QueueState>(object, "Queue")),
        ring(state.ring),
        deaths(state),
        me(shm::self()) {}

  void check_open() const {
    // CLOSE queue: acquire; whoever wrote a word of this process has written this
    if (state.closed.load(std::memory_order_acquire) != 0 && has_closed(state, me)) {
      throw_closed(queue, state);
    }
  }

  // Tries until `attempt` succeeds, sleeping on the spot. `blocker` is who may stand in the way.
  // False at the end of the timeout.
  template <class Attempt>
  bool insist(shm::ParkingSpot& spot, Attempt&& attempt, const std::uint32_t& blocker,
              Timeout timeout) {
    check_open();
    if (attempt()) return true;
    if (timeout.duration().count() == 0 && !timeout.infinite()) {
      // Nobody may have noticed yet that the one in the way is dead.
      if (blocker == 0 || blocker == me) return false;
      deaths.check_alive(blocker);
      return attempt();
    }
    const auto try_again = [&] {
      check_open();
      return attempt();
    };
    Patience patience;
    if (shm::spin_until(try_again, patience.policy().spin)) {
      Patience::helped(true);
      return true;
    }
    Patience::helped(false);
    return sleep(spot, try_again, blocker, timeout);
  }

  template <class Attempt>
  bool sleep(shm::ParkingSpot& spot, Attempt&& attempt, const std::uint32_t& blocker,
             Timeout timeout) {
    slept = true;
    struct Look {
      QueueDeaths& deaths;
      const std::uint32_t& blocker;
    } look{deaths, blocker};
    shm::WaitPolicy policy = wait_policy();
    policy.spin = {};
    policy.argument = &look;
    policy.on_long_wait = [](void* argument) {
      auto& [seen_by, who] = *static_cast<Look*>(argument);
      if (who != 0) seen_by.check_alive(who);
    };
    return shm::wait_until(spot, attempt, policy, timeout.deadline());
  }

  [[nodiscard]] bool at_limit() const noexcept {
    return state.limit != 0 && ring.count(state.limit) >= state.limit;
  }
  bool claim_room(Timeout timeout) {
    std::uint32_t blocker = 0;
    return insist(
        state.ring.room,
        [&] {
          return !at_limit() && ring.claim_room(deaths, me, held, blocker) == RingResult::done;
        },
        blocker, timeout);
  }
  bool claim_item(Timeout timeout) {
    QueueScan& scan = scan_of(state);
    return insist(
        state.ring.items,
        [&] { return ring.claim_item(deaths, me, scan, held) == RingResult::done; }, scan.blocker,
        timeout);
  }

  void publish() {
    if (state.kind == QueueKind::joinable) {
      publish_counted(state.unfinished, held, me);
    } else {
      QueueRing::publish(held, me);
    }
    state.ring.items.notify_one();
    if (slept && ring.maybe_room()) state.ring.room.notify_one();
  }
  // The item was taken out of its slot.
  void free() {
    QueueRing::free(held);
    if (state.ring.ring != 0 || state.limit != 0) state.ring.room.notify_one();
    if (slept && ring.maybe_item()) state.ring.items.notify_one();
  }

  const shm::ObjectRef& queue;
  QueueState& state;
  QueueRing ring;
  QueueDeaths deaths;
  shm::ProcessId me;
  QueueHeld held;
  bool slept = false;  // whoever was woken passes it on while there is more (mpmc_ring.hpp)
};

void copy_plain(std::byte* to, const void* from, std::size_t bytes) noexcept {
  if (bytes == 8) {
    std::memcpy(to, from, 8);
  } else {
    std::memcpy(to, from, bytes);
  }
}

std::uint64_t next_id() {
  static std::atomic<std::uint64_t> count{0};
  // relaxed: a number. A process's id is not used again before 16,383 others have had its index.
  return std::uint64_t{shm::self()} << 38U |
         (count.fetch_add(1, std::memory_order_relaxed) + 1) % (std::uint64_t{1} << 38U);
}

void drop_item(std::uint64_t discard, std::byte* bytes, std::size_t size) noexcept {
  try {
    const auto id = static_cast<FunctionId>(discard);
    if (id != 0) reinterpret_cast<ItemDiscard*>(resolve_function(id))(bytes, size);
  } catch (...) {  // what it referred to stays until the program ends
  }
}
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
  const bool here = (word & QueueCell::kHere) != 0;
  const std::byte* bytes = here ? cell.here() : QueueCell::block(word);
  const std::uint64_t size = cell.bytes;
  const bool fits =
      here ? size <= shm::kQueueCellBytes
           : shm::Arena::contains(bytes) && size != 0 && shm::Arena::contains(bytes + size - 1);
  if (!fits) {
    throw Corrupt("queue is damaged: an item of " + std::to_string(size) + " bytes at " +
                  std::to_string(reinterpret_cast<std::uintptr_t>(bytes)));
  }
  const bool counted = (word & QueueCell::kReferences) != 0;
  wire::Reader in(bytes, size, counted ? wire::References::borrow : wire::References::take);
  read(to, in);
}

}  // namespace

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

bool put_plain(const shm::ObjectRef& queue, const void* item, Timeout timeout) {
  Call call(queue);
  if (!call.claim_room(timeout)) return false;
  copy_plain(call.held.slot->value(), item, call.state.plain_bytes);
  call.publish();
  return true;
}

bool get_plain(const shm::ObjectRef& queue, void* item, Timeout timeout) {
  Call call(queue);
  if (!call.claim_item(timeout)) return false;
  copy_plain(static_cast<std::byte*>(item), call.held.slot->value(), call.state.plain_bytes);
  call.free();
  return true;
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
  if (call.state.ring.ring == 0) return call.at_limit();
  const std::uint64_t bound =
      // NOLINTNEXTLINE(performance-no-int-to-ptr): an address in the arena
      reinterpret_cast<const shm::QueueSegment*>(call.state.ring.ring)->slots;
  return call.ring.count(bound) >= bound;
}

void QueueCalls::close(const shm::ObjectRef& queue) {
  const Call call(queue);
  note_closed(call.state, call.me);
  // CLOSE queue: seq_cst, before the sleepers are woken
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
