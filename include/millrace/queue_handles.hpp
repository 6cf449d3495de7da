// The queues of <millrace/queues.hpp>, without the values that they carry by default.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <millrace/errors.hpp>
#include <millrace/function.hpp>
#include <millrace/serialize.hpp>
#include <millrace/shared_handle.hpp>
#include <millrace/timeout.hpp>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

namespace millrace {

class Object;

namespace runtime {

/// An item on its way into a queue: encoded on the stack while it is small, else in a block of the
/// arena, which the queue takes over.
class ItemWriter final : public wire::Writer {
 public:
  ItemWriter() noexcept { rebase(here_, here_, here_ + sizeof here_); }
  ~ItemWriter() override { drop(); }

  /// The block that holds the item, if one does; for the queue.
  [[nodiscard]] std::byte* block() const noexcept { return block_; }
  /// Moves the item into a block of its own size.
  void move_to_block();
  /// The item is the queue's now, with what it refers to.
  void sent() noexcept;

 protected:
  void grow(std::size_t more) override;

 private:
  void drop() noexcept;
  void move_to(std::size_t bytes);

  std::byte* block_ = nullptr;
  std::byte here_[512];
};

enum class QueueKind : std::uint32_t { queue, joinable, simple };

/// How the items of a queue lie in it.
struct QueueItems {
  std::uint32_t plain_bytes = 0;  // of each, all there is to it; 0: any size, encoded
  FunctionId discard = 0;         // a discard_item<T>, for encoded ones
};
/// \param maxsize at most so many items; 0 and below: as many as memory holds.
shm::ObjectRef make_queue(QueueKind kind, std::int64_t maxsize, const QueueItems& items,
                          std::uint64_t type);

/// These throw what put() and get() do, but for Full and Empty: then they return false. Plain ones
/// copy the item's bytes; the others take what `writer` holds, or hand the message to `read`, once.
bool put_plain(const shm::ObjectRef& queue, const void* item, Timeout timeout);
bool put_item(const shm::ObjectRef& queue, ItemWriter& writer, Timeout timeout);
bool get_plain(const shm::ObjectRef& queue, void* item, Timeout timeout);
using ItemReader = void (*)(void* to, wire::Reader& in);
bool get_item(const shm::ObjectRef& queue, ItemReader read, void* to, Timeout timeout);

[[noreturn]] void throw_full();
[[noreturn]] void throw_empty();

/// Takes over, and gives back, what an item refers to.
using ItemDiscard = void(const std::byte* item, std::size_t bytes);
template <class T>
void discard_item(const std::byte* item, std::size_t bytes) {
  wire::Reader in(item, bytes);
  static_cast<void>(wire::decode<T>(in));
}
template <class T>
void read_item(void* to, wire::Reader& in) {
  static_cast<std::optional<T>*>(to)->emplace(wire::decode<T>(in));
}

/// What all queues have in common: their items.
template <class T>
class ItemQueue : public shm::SharedHandle {
  static_assert(std::is_same_v<T, std::decay_t<T>>, "items are values");

 protected:
  ItemQueue(shm::ObjectRef object) noexcept : SharedHandle(std::move(object)) {}
  ItemQueue(QueueKind kind, std::int64_t maxsize, std::uint64_t type)
      : SharedHandle(make_queue(kind, maxsize, items(), type)) {}

  bool put_in(const T& item, Timeout timeout) const {
    if constexpr (plain()) {
      return put_plain(object(), std::addressof(item), timeout);
    } else {
      ItemWriter writer;
      wire::encode(writer, item);
      return put_item(object(), writer, timeout);
    }
  }
  std::optional<T> take_out(Timeout timeout) const {
    if constexpr (plain()) {
      struct Bits {
        std::byte bytes[sizeof(T)];
      } bits;
      if (!get_plain(object(), &bits, timeout)) return std::nullopt;
      return __builtin_bit_cast(T, bits);
    } else {
      std::optional<T> item;
      get_item(object(), &read_item<T>, &item, timeout);
      return item;
    }
  }

 private:
  static constexpr std::size_t kMostPlainBytes = 120;

  static consteval bool plain() {
    wire::check_serializable<T>();
    return wire::kKind<T> == wire::Kind::bytes && sizeof(T) <= kMostPlainBytes;
  }
  static QueueItems items() {
    if constexpr (plain()) {
      return {static_cast<std::uint32_t>(sizeof(T)), 0};
    } else {
      return {0, id_of<&discard_item<T>>()};
    }
  }
};

/// What Queue and JoinableQueue have in common, but for their items.
struct QueueCalls {
  static std::size_t size(const shm::ObjectRef& queue);
  static bool is_empty(const shm::ObjectRef& queue);
  static bool is_full(const shm::ObjectRef& queue);
  static void close(const shm::ObjectRef& queue);
  static void join_thread(const shm::ObjectRef& queue);
  static void task_done(const shm::ObjectRef& queue);
  static void join(const shm::ObjectRef& queue);
  static std::string repr(const shm::ObjectRef& queue);
};

}  // namespace runtime

/// First in, first out between any threads of any processes of the program; a handle. The items of
/// each producer arrive in the order they were put; threads of one process are one producer.
///
/// T is anything Serializable; items are copied, or encoded, into the arena, and are there for
/// others when put() returns. A process killed inside put() or get() loses no item whose put() had
/// returned, and harms and blocks nobody. Handles inside items keep their objects until they are
/// got. Blocked calls end with KeyboardInterrupt after mp::install_sigint().
///
/// A bounded queue has memory (address space, used as it fills) for all its items from the start;
/// an unbounded one grows until std::system_error (ENOMEM) and keeps its slots, 128 bytes at most
/// for each item it held at once, for later items.
/// **Beyond Python**: no feeder thread, so nothing is put late, get() may come after the producer
/// has ended, and an item whose serialiser throws does so in put(), which changes nothing; qsize()
/// is exact. Python: multiprocessing.Queue, Q02-Q12, Q23-Q24.
template <class T = Object>
class Queue : public runtime::ItemQueue<T> {
  using Base = runtime::ItemQueue<T>;

 public:
  using SharedType = Queue;
  using value_type = T;
  /// At most `maxsize` items; 0 or less: without limit.
  explicit Queue(std::int64_t maxsize = 0)
      : Queue(runtime::QueueKind::queue, maxsize, shm::object_type<Queue>()) {}
  /// For the library: an object that exists.
  Queue(shm::Existing, shm::ObjectRef object) noexcept : Base(std::move(object)) {}

  /// Appends an item; waits for room at most `timeout`, then throws queue::Full. Throws ValueError
  /// when this process has closed the queue, also while it waits, and what encoding the item
  /// throws. Memory ordering: get() of the item sees what came before put().
  void put(const T& item, Timeout timeout = {}) const {
    if (!this->put_in(item, timeout)) runtime::throw_full();
  }
  /// put() without waiting.
  void put_nowait(const T& item) const { put(item, kNow); }
  /// put() that says false instead of throwing queue::Full.
  [[nodiscard]] bool try_put(const T& item, Timeout timeout = kNow) const {
    return this->put_in(item, timeout);
  }
  /// Takes the first item; waits for one at most `timeout`, then throws queue::Empty. Throws
  /// ValueError as put() does, and what decoding throws: the item is gone then.
  T get(Timeout timeout = {}) const {  // NOLINT(modernize-use-nodiscard): Python's form
    std::optional<T> item = this->take_out(timeout);
    if (!item) runtime::throw_empty();
    return *std::move(item);
  }
  /// get() without waiting.
  T get_nowait() const { return get(kNow); }  // NOLINT(modernize-use-nodiscard): Python's form
  /// get() that gives nothing instead of throwing queue::Empty.
  [[nodiscard]] std::optional<T> try_get(Timeout timeout = kNow) const {
    return this->take_out(timeout);
  }

  /// How many items there are: exact, if nobody puts or gets at the time. Python: Q03.
  [[nodiscard]] std::size_t qsize() const { return runtime::QueueCalls::size(this->object()); }
  [[nodiscard]] bool empty() const { return runtime::QueueCalls::is_empty(this->object()); }
  [[nodiscard]] bool full() const { return runtime::QueueCalls::is_full(this->object()); }
  /// put and get of this process, blocked ones too, throw ValueError from now on; other processes
  /// go on. Python: Q10.
  void close() const { runtime::QueueCalls::close(this->object()); }
  /// As there is no feeder thread, nothing but AssertionError before close(). Python: Q11-12.
  void join_thread() const { runtime::QueueCalls::join_thread(this->object()); }
  void cancel_join_thread() const noexcept {}
  /// "<multiprocessing.queues.Queue object at 0x...>".
  [[nodiscard]] std::string repr() const { return runtime::QueueCalls::repr(this->object()); }

 protected:
  static constexpr std::chrono::seconds kNow{0};
  Queue(runtime::QueueKind kind, std::int64_t maxsize, std::uint64_t type)
      : Base(kind, maxsize, type) {}
};

/// A Queue that counts the items that are not dealt with yet. Python:
/// multiprocessing.JoinableQueue, Q20-Q22.
template <class T = Object>
class JoinableQueue : public Queue<T> {
 public:
  using SharedType = JoinableQueue;
  explicit JoinableQueue(std::int64_t maxsize = 0)
      : Queue<T>(runtime::QueueKind::joinable, maxsize, shm::object_type<JoinableQueue>()) {}
  /// For the library: an object that exists.
  JoinableQueue(shm::Existing, shm::ObjectRef object) noexcept
      : Queue<T>(shm::Existing{}, std::move(object)) {}

  /// An item that was got is dealt with. ValueError when all that were put are.
  void task_done() const { runtime::QueueCalls::task_done(this->object()); }
  /// Waits until every item that was put is dealt with.
  void join() const { runtime::QueueCalls::join(this->object()); }
};

/// A queue without limit and time limits. **Beyond Python**: put() does not wait for a reader.
/// After close() all calls of this process throw std::system_error (EBADF, "handle is closed").
/// Python: multiprocessing.SimpleQueue, Q15-Q19.
template <class T = Object>
class SimpleQueue : public runtime::ItemQueue<T> {
  using Base = runtime::ItemQueue<T>;

 public:
  using SharedType = SimpleQueue;
  using value_type = T;
  SimpleQueue() : Base(runtime::QueueKind::simple, 0, shm::object_type<SimpleQueue>()) {}
  /// For the library: an object that exists.
  SimpleQueue(shm::Existing, shm::ObjectRef object) noexcept : Base(std::move(object)) {}

  /// Appends an item. Does not block.
  void put(const T& item) const { this->put_in(item, {}); }
  /// Takes the first item; waits for one.
  T get() const { return *this->take_out({}); }  // NOLINT(modernize-use-nodiscard): Python's form
  [[nodiscard]] bool empty() const { return runtime::QueueCalls::is_empty(this->object()); }
  void close() const { runtime::QueueCalls::close(this->object()); }
  /// "<multiprocessing.queues.SimpleQueue object at 0x...>".
  [[nodiscard]] std::string repr() const { return runtime::QueueCalls::repr(this->object()); }
};

}  // namespace millrace
