// Connections: the two ends of pipes and sockets. Python: multiprocessing.connection.
// A Connection is a handle: a copy refers to the same end, calls are const, and it may be an
// argument, a capture, an item or a message. An end is open in a process until close() there or
// until the process's last handle is gone; the peer sees the end of the data when no process has it
// open any more, also when they were killed. Copies that are on the way count as open.
// Threads and processes that share an end take turns by whole messages. Over a socket a socket's
// end can be sent, also to CPython: it is fetched from its sender, who must live until then and
// have the same current_process().authkey(), by peers that have proved a key or are of one user and
// machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iosfwd>
#include <millrace/bytes.hpp>
#include <millrace/errors.hpp>
#include <millrace/fd.hpp>
#include <millrace/function.hpp>
#include <millrace/handle.hpp>
#include <millrace/object.hpp>
#include <millrace/serialize.hpp>
#include <millrace/timeout.hpp>
#include <millrace/type_key.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace {

class Connection;

namespace runtime {

class ConnectionEnd;
class ValueMessage;
struct ConnectionObject;

/// Bytes of the caller's, as the calls take them: text without its NUL, or any contiguous range of
/// trivially copyable elements.
class ByteView {
 public:
  ByteView(const char* text) : ByteView(std::string_view(text)) {}         // NOLINT: call form
  ByteView(const std::string& text) : ByteView(std::string_view(text)) {}  // NOLINT: call form
  ByteView(std::string_view text)                                          // NOLINT: call form
      : data_(reinterpret_cast<const std::byte*>(text.data())), size_(text.size()) {}
  ByteView(const Bytes& bytes) : data_(bytes.data()), size_(bytes.size()) {}  // NOLINT: call form
  template <ByteSource R>
  ByteView(const R& range)  // NOLINT(google-explicit-constructor): call form
      : data_(reinterpret_cast<const std::byte*>(std::data(range))),
        size_(std::size(range) * sizeof(element_t<R>)) {}

  [[nodiscard]] const std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

 private:
  const std::byte* data_;
  std::size_t size_;
};

/// A contiguous range whose elements may be overwritten bytewise.
template <class R>
concept ByteSink = requires(R&& range) {
  {std::data(range) + std::size(range)};
  requires !std::is_const_v<std::remove_pointer_t<decltype(std::data(range))>>;
  requires std::is_trivially_copyable_v<std::remove_pointer_t<decltype(std::data(range))>>;
};

/// In front of a value that is sent inside one program.
struct ValueHead {
  std::uint64_t type;    // its type_hash
  FunctionId to_object;  // an Object (*)(wire::Reader&), 0: no value of Python's
  FunctionId discard;    // a void (*)(wire::Reader&), 0: there are no references in it
};

template <class T>
Object value_as_object(wire::Reader& in) {
  return Object(wire::decode<T>(in));
}
template <class T>
void discard_value(wire::Reader& in) {
  (void)wire::decode<T>(in);
}

/// A value on its way out. Small ones need no memory.
class OutgoingValue : public wire::Writer {
 public:
  explicit OutgoingValue(std::uint64_t type) {
    rebase(inside_, inside_, inside_ + sizeof inside_);
    put(ValueHead{type, 0, 0});
  }
  ~OutgoingValue() override { revert(0); }

  void set_functions(FunctionId to_object, FunctionId discard) noexcept;
  /// Sends it; what it refers to belongs to the message then.
  void send(ConnectionEnd& end);

 private:
  alignas(16) std::byte inside_[256];
};

/// A value that has arrived. Unless it is taken, what it refers to is given back.
class ValueMessage {
 public:
  /// Waits for it. Throws what ConnectionEnd::receive() throws, TypeError for a message of
  /// send_bytes().
  explicit ValueMessage(ConnectionEnd& end);
  ValueMessage(const ValueMessage&) = delete;
  ValueMessage& operator=(const ValueMessage&) = delete;
  ~ValueMessage();

  [[nodiscard]] bool is(std::uint64_t type) const noexcept;
  /// The value's bytes, to be decoded once.
  wire::Reader take() noexcept;
  /// As a value of Python's; TypeError, naming `wanted`, if it is none.
  Object object(std::string_view wanted);
  [[noreturn]] void refuse(std::string_view wanted) const;

 private:
  struct State;
  static constexpr std::size_t kStateBytes = 384;

  [[nodiscard]] State& state() noexcept;
  [[nodiscard]] const State& state() const noexcept;

  alignas(16) std::byte state_[kStateBytes];  // a State: no allocation a message
};

ConnectionEnd& end_of(const Connection& connection);
bool speaks_python(const ConnectionEnd& end) noexcept;
void send_pickled(ConnectionEnd& end, const Object& value);
[[noreturn]] void throw_not_pythons(std::string_view type);
/// For a value that does not fit: TypeError, whatever it was.
[[noreturn]] void throw_as_type_error();

template <class T>
T value_of(const Object& object) {
  try {
    return object.as<T>();
  } catch (const std::exception&) {
    throw_as_type_error();
  }
}

}  // namespace runtime

/// One end of a channel of messages. Python: multiprocessing.connection.Connection.
///
/// Every call throws std::system_error (EBADF): "handle is closed" after close(), "connection is
/// read-only" or "write-only" in the wrong direction. Blocked calls throw KeyboardInterrupt after
/// mp::install_sigint().
class Connection {
 public:
  Connection(const Connection& other);
  Connection(Connection&& other) noexcept;
  Connection& operator=(const Connection& other);
  Connection& operator=(Connection&& other) noexcept;
  ~Connection();

  /// Sends a value: anything Serializable, arguments decay and text travels as std::string. Over a
  /// socket what an mp::Object holds, of handles proxies and sockets' Connections. Blocks while it
  /// is full; the message is there for the peer when it returns. Throws std::system_error (EPIPE)
  /// when nobody has the other end, TypeError for what cannot travel (a Pipe's end). Python: N01.
  template <class T>
  void send(const T& value) const;
  /// Waits for a message: what was sent as T, or whose value becomes a T without loss (int to long,
  /// a list of ints to vector<int>). Throws EOFError at the end; TypeError for any other message,
  /// gone then; std::system_error, AuthenticationError for a Connection that cannot be had. N02.
  template <class T>
  T recv() const;
  /// Waits for any value that an mp::Object holds.
  Object recv() const;

  /// Sends bytes: `size` of them, or all, from `offset` on. Throws ValueError for offsets and sizes
  /// out of range. Python: N06.
  void send_bytes(const runtime::ByteView& bytes, std::ptrdiff_t offset = 0,
                  std::optional<std::ptrdiff_t> size = {}) const;
  /// Waits for bytes. A message longer than `maxlength` is std::system_error ("bad message
  /// length"), and nothing can be received from then on. Throws ValueError for a negative one,
  /// EOFError as recv(). Of a value that was sent, its pickle. Python: N07.
  Bytes recv_bytes(std::optional<std::ptrdiff_t> maxlength = {}) const;
  /// Waits for bytes, copies them into `buffer` from byte `offset` on, and returns how many there
  /// were. Throws BufferTooShort with the message, which is gone then, when they do not fit;
  /// ValueError for an offset out of range. Python: N08.
  template <class R>
  requires runtime::ByteSink<R> std::size_t recv_bytes_into(R&& buffer, std::ptrdiff_t offset = 0)
  const {
    return receive_into(reinterpret_cast<std::byte*>(std::data(buffer)),
                        std::size(buffer) * sizeof(*std::data(buffer)), offset);
  }
  /// True when a message, or the end, is there within `timeout` (default: now). Takes nothing.
  /// Python: N05.
  [[nodiscard]] bool poll(Timeout timeout = std::chrono::seconds(0)) const;

  /// A descriptor for the caller's own poll or epoll: readable while there is something to receive,
  /// at worst once too often; never writable. It is the connection's, and constant in a process.
  /// From the first call on messages cost a few system calls. Python: N03.
  [[nodiscard]] int fileno() const;
  /// Closes the end for all copies in this process. Blocked calls end with "handle is closed".
  /// Idempotent. Python: N04.
  void close() const noexcept;
  [[nodiscard]] bool closed() const noexcept;    ///< Python: N09
  [[nodiscard]] bool readable() const noexcept;  ///< Python: N10
  [[nodiscard]] bool writable() const noexcept;  ///< Python: N11

  /// "<multiprocessing.connection.Connection object at 0x...>".
  [[nodiscard]] std::string repr() const;
  /// Identity: the same end.
  friend bool operator==(const Connection& a, const Connection& b) noexcept {
    return a.object_.payload() == b.object_.payload();
  }
  friend std::ostream& operator<<(std::ostream& out, const Connection& connection);

 private:
  friend struct ConnectionAccess;
  explicit Connection(shm::ObjectRef object) noexcept : object_(std::move(object)) {}

  std::size_t receive_into(std::byte* buffer, std::size_t bytes, std::ptrdiff_t offset) const;

  // A handle in a process's own memory has a place in its table of ends; one in shared memory keeps
  // the end open by itself.
  shm::ObjectRef object_;
  std::uint64_t kept_ = 0;
  std::uint32_t place_ = 0;  // + 1; 0: closed, or moved from
};

namespace wire {

/// A Connection travels as its object's address and what keeps it open.
template <>
struct Custom<Connection> {
  static void encode(Writer& out, const Connection& value);
  static Connection decode(Reader& in);
};

}  // namespace wire

template <class T>
void Connection::send(const T& value) const {
  if constexpr (wire::check_serializable<T>()) {
    using Value = wire::travel_t<T>;
    runtime::ConnectionEnd& end = runtime::end_of(*this);
    if (runtime::speaks_python(end)) [[unlikely]] {
      if constexpr (ObjectValue<Value>) {
        runtime::send_pickled(end, Object(value));
      } else {
        runtime::throw_not_pythons(wire::type_name<Value>());
      }
      return;
    }
    runtime::OutgoingValue out(wire::type_hash<Value>());
    wire::encode_argument(out, value);
    runtime::FunctionId to_object = 0;
    if constexpr (ObjectValue<Value>)
      to_object = runtime::id_of<&runtime::value_as_object<Value>>();
    out.set_functions(to_object, out.holds_references()
                                     ? runtime::id_of<&runtime::discard_value<Value>>()
                                     : runtime::FunctionId{0});
    out.send(end);
  }
}

template <class T>
T Connection::recv() const {
  if constexpr (wire::check_serializable<T>()) {
    runtime::ValueMessage message(runtime::end_of(*this));
    if (message.is(wire::type_hash<T>())) {
      wire::Reader in = message.take();
      return wire::decode<T>(in);
    }
    if constexpr (ObjectValue<T>) {
      return runtime::value_of<T>(message.object(wire::type_name<T>()));
    } else {
      message.refuse(wire::type_name<T>());
    }
  }
}

/// The keyword argument of Pipe.
struct PipeOptions {
  bool duplex = true;  ///< both ends send and receive; else the first receives, the second sends
};

/// Two connected ends. Messages of any size; about a mebibyte is kept before send() blocks. Costs
/// no descriptor. Throws std::system_error when the arena is full. Python: Q01.
std::pair<Connection, Connection> Pipe(const PipeOptions& options = {});

namespace connection {

/// What wait() waits for: a Connection, or a descriptor that becomes readable.
class Waitable {
 public:
  Waitable(const Connection& connection)  // NOLINT(google-explicit-constructor): call form
      : connection_(connection) {}
  Waitable(int fd) noexcept : fd_(fd) {}  // NOLINT(google-explicit-constructor): call form

  /// The Connection; TypeError when it is a descriptor.
  [[nodiscard]] const Connection& connection() const;
  /// The descriptor, or the Connection's.
  [[nodiscard]] int fileno() const { return connection_ ? connection_->fileno() : fd_; }
  [[nodiscard]] bool is_connection() const noexcept { return connection_.has_value(); }

  friend bool operator==(const Waitable& a, const Waitable& b) noexcept {
    return a.connection_ == b.connection_ && a.fd_ == b.fd_;
  }
  friend bool operator==(const Waitable& a, const Connection& b) noexcept {
    return a.connection_ && *a.connection_ == b;
  }
  friend bool operator==(const Waitable& a, int fd) noexcept {
    return !a.connection_ && a.fd_ == fd;
  }

 private:
  std::optional<Connection> connection_;
  int fd_ = -1;
};

/// Waits until at least one is ready (a message or the end is there, the descriptor is readable,
/// the process of a sentinel has ended) and returns those that are, in their order; none when the
/// timeout passed. Throws std::system_error for a closed one, KeyError for one given twice, and
/// KeyboardInterrupt. Python: multiprocessing.connection.wait, L08.
std::vector<Waitable> wait(std::initializer_list<Waitable> objects, Timeout timeout = {});
std::vector<Waitable> wait(const std::vector<Waitable>& objects, Timeout timeout = {});

/// The same for a range of Connections or descriptors: gives its own elements.
template <class R>
requires(!std::is_same_v<std::remove_cvref_t<R>, std::vector<Waitable>> && requires(const R& r) {
  r.begin();
  r.end();
  Waitable(*r.begin());
}) auto wait(const R& range, Timeout timeout = {}) {
  using Element = std::remove_cvref_t<decltype(*range.begin())>;
  const std::vector<Waitable> all(range.begin(), range.end());
  std::vector<Element> ready;
  for (const Waitable& each : wait(all, timeout)) {
    if constexpr (std::is_convertible_v<Element, int>) {
      ready.push_back(static_cast<Element>(each.fileno()));
    } else if constexpr (std::is_same_v<Element, Waitable>) {
      ready.push_back(each);
    } else {
      ready.push_back(each.connection());
    }
  }
  return ready;
}

}  // namespace connection
}  // namespace millrace

#include <millrace/listener.hpp>
