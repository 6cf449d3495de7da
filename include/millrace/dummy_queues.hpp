// mp::dummy's queues, pipes and listeners: queue.Queue between threads, D13-D15, D20-21, with the
// calls of mp's own. Handles: a copy refers to the same object. Items are handed over as they are,
// of any type, never encoded. What blocks is ended by SIGINT after install_sigint().
#pragma once

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <deque>
#include <memory>
#include <millrace/bytes.hpp>
#include <millrace/errors.hpp>
#include <millrace/monitor.hpp>
#include <millrace/serialize.hpp>
#include <millrace/timeout.hpp>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <typeinfo>
#include <utility>

namespace millrace::dummy {

/// First in, first out. maxsize <= 0: unbounded. Python: queue.Queue, which has task_done and join.
template <class T>
class Queue {
 public:
  explicit Queue(int maxsize = 0) : state_(std::make_shared<State>()) {
    state_->limit = maxsize <= 0 ? static_cast<std::size_t>(-1) : static_cast<std::size_t>(maxsize);
  }

  /// Appends v; waits for room. queue::Full when there was none in time, ValueError when closed.
  void put(T v, Timeout timeout = {}) const {
    if (!offer(v, timeout.deadline())) throw queue::Full("the queue is full");
  }
  void put_nowait(T v) const { put(std::move(v), kNow); }
  [[nodiscard]] bool try_put(T v, Timeout timeout = kNow) const {
    return offer(v, timeout.deadline());
  }
  /// Takes the first item; waits for one. queue::Empty when none came in time.
  [[nodiscard]] T get(Timeout timeout = {}) const {
    std::optional<T> item = try_get(timeout);
    if (!item) throw queue::Empty("the queue is empty");
    return *std::move(item);
  }
  [[nodiscard]] T get_nowait() const { return get(kNow); }
  [[nodiscard]] std::optional<T> try_get(Timeout timeout = kNow) const {
    const std::unique_lock guard(state_->monitor);
    const auto ready = [this] { return state_->closed || !state_->items.empty(); };
    const bool found = state_->monitor.wait_for(ready, timeout.deadline());
    check_open();
    if (!found) return std::nullopt;
    std::optional<T> item(std::move(state_->items.front()));
    state_->items.pop_front();
    state_->monitor.changed();
    return item;
  }

  /// True when there is an item; waits so long for one. **beyond** Python.
  [[nodiscard]] bool poll(Timeout timeout = kNow) const {
    const std::unique_lock guard(state_->monitor);
    return state_->monitor.wait_for([this] { return !state_->items.empty(); }, timeout.deadline());
  }
  [[nodiscard]] std::size_t qsize() const {
    const std::unique_lock guard(state_->monitor);
    return state_->items.size();
  }
  [[nodiscard]] bool empty() const { return qsize() == 0; }
  [[nodiscard]] bool full() const { return qsize() >= state_->limit; }

  /// An item that was got has been dealt with. ValueError when there was none.
  void task_done() const {
    const std::unique_lock guard(state_->monitor);
    if (state_->unfinished == 0) throw ValueError("task_done() called too many times");
    if (--state_->unfinished == 0) state_->monitor.changed();
  }
  /// Waits until every item that was put has been dealt with.
  void join() const {
    const std::unique_lock guard(state_->monitor);
    state_->monitor.wait_for([this] { return state_->unfinished == 0; },
                             Timeout::Clock::time_point::max());
  }

  /// put and get, blocked ones too, throw ValueError from now on.
  void close() const {
    const std::unique_lock guard(state_->monitor);
    state_->closed = true;
    state_->monitor.changed();
  }
  /// As mp::Queue's; there is nothing to wait for. AssertionError before close().
  void join_thread() const {
    const std::unique_lock guard(state_->monitor);
    if (!state_->closed) throw AssertionError("the queue is not closed");
  }
  void cancel_join_thread() const noexcept {}

  friend bool operator==(const Queue&, const Queue&) noexcept = default;

 private:
  static constexpr std::chrono::seconds kNow{0};
  struct State {
    runtime::Monitor monitor;
    std::deque<T> items;
    std::size_t limit = 0;
    std::size_t unfinished = 0;
    bool closed = false;
  };

  void check_open() const {
    if (state_->closed) throw ValueError("the queue is closed");
  }
  bool offer(T& v, Timeout::Clock::time_point deadline) const {
    const std::unique_lock guard(state_->monitor);
    const auto room = [this] { return state_->closed || state_->items.size() < state_->limit; };
    const bool found = state_->monitor.wait_for(room, deadline);
    check_open();
    if (!found) return false;
    state_->items.push_back(std::move(v));
    ++state_->unfinished;
    state_->monitor.changed();
    return true;
  }

  std::shared_ptr<State> state_;
};

/// The same class. Python: multiprocessing.dummy.JoinableQueue is queue.Queue.
template <class T>
using JoinableQueue = Queue<T>;

/// A queue without limits. After close() std::system_error. Python: queue.SimpleQueue.
template <class T>
class SimpleQueue {
 public:
  void put(T v) const {
    try {
      queue_.put(std::move(v));
    } catch (const ValueError&) {
      refuse();
    }
  }
  [[nodiscard]] T get() const {
    try {
      return queue_.get();
    } catch (const ValueError&) {
      refuse();
    }
  }
  [[nodiscard]] bool empty() const { return queue_.empty(); }
  void close() const { queue_.close(); }
  friend bool operator==(const SimpleQueue&, const SimpleQueue&) noexcept = default;

 private:
  [[noreturn]] static void refuse() {
    throw std::system_error(EBADF, std::generic_category(), "handle is closed");
  }
  Queue<T> queue_;
};

/// One end of a Pipe. What is sent arrives as it is: values of any type, moved, not encoded.
/// Python: multiprocessing.dummy.connection.Connection; as there, the end of a pipe is never told.
class Connection {
 public:
  /// Sends a value, decayed, text as std::string. Does not block.
  template <class T>
  void send(T&& value) const {
    using V = wire::travel_t<T>;
    out_.put(Parcel{std::make_shared<V>(std::forward<T>(value)), &typeid(V)});
  }
  /// Waits for a value. TypeError for one that was not sent as T; it is gone then.
  template <class T>
  [[nodiscard]] T recv() const {
    Parcel parcel = in_.get();
    if (*parcel.type != typeid(T)) {
      throw TypeError(std::string("a value of another type was sent: ") + parcel.type->name());
    }
    return std::move(*std::static_pointer_cast<T>(parcel.value));
  }
  void send_bytes(const Bytes& bytes) const { send(bytes); }
  [[nodiscard]] Bytes recv_bytes() const { return recv<Bytes>(); }
  /// True when something can be received; waits so long for it.
  [[nodiscard]] bool poll(Timeout timeout = std::chrono::seconds(0)) const {
    return in_.poll(timeout);
  }
  void close() const noexcept {}

  friend bool operator==(const Connection&, const Connection&) noexcept = default;

 private:
  friend std::pair<Connection, Connection> make_pipe();
  struct Parcel {
    std::shared_ptr<void> value;
    const std::type_info* type;
  };
  Connection(Queue<Parcel> in, Queue<Parcel> out) : in_(std::move(in)), out_(std::move(out)) {}

  Queue<Parcel> in_;
  Queue<Parcel> out_;
};

/// Two connected ends.
[[nodiscard]] inline std::pair<Connection, Connection> make_pipe() {
  const Queue<Connection::Parcel> there;
  const Queue<Connection::Parcel> back;
  return {Connection(there, back), Connection(back, there)};
}

/// Two connected ends, two-way whatever is asked for. Python: multiprocessing.dummy.Pipe.
[[nodiscard]] inline std::pair<Connection, Connection> Pipe() { return make_pipe(); }
template <class Options>
[[nodiscard]] std::pair<Connection, Connection> Pipe(const Options&) {
  return make_pipe();
}

namespace connection {

using dummy::Connection;

/// Where a Listener takes its connections from: a queue, as in Python.
using Address = Queue<Connection>;

/// Accepts connections of Clients of this process. Python:
/// multiprocessing.dummy.connection.Listener.
class Listener {
 public:
  explicit Listener(int backlog = 1) : address_(backlog) {}
  Listener(Listener&&) noexcept = default;
  Listener& operator=(Listener&&) noexcept = default;
  /// Waits for a Client. TimeoutError when none came in time, ValueError when closed.
  [[nodiscard]] Connection accept(Timeout timeout = {}) const {
    std::optional<Connection> end = address_.try_get(timeout);
    if (!end) throw TimeoutError("no client came in time");
    return *std::move(end);
  }
  void close() const { address_.close(); }
  [[nodiscard]] const Address& address() const noexcept { return address_; }

 private:
  Address address_;
};

/// Connects to a Listener; waits while its backlog is full.
[[nodiscard]] inline Connection Client(const Address& address) {
  auto [here, there] = make_pipe();
  address.put(std::move(there));
  return here;
}

}  // namespace connection
}  // namespace millrace::dummy
