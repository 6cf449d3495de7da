// What is behind a Connection in this process: one end of a channel of frames.
//
// A Connection (include/millrace/connection.hpp) is a handle; whatever moves its data implements
// ConnectionEnd: PipeEnd over rings in the arena, SocketEnd over a socket. An end lives while this
// process has handles that were not closed. All calls may come from several threads at once, and
// close() in the middle of others.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <millrace/connection.hpp>
#include <millrace/timeout.hpp>
#include <new>
#include <optional>
#include <span>
#include <string>

namespace millrace::runtime {

/// What a frame holds. On an end that speaks Python's wire all are `bytes`.
enum class FrameKind : std::uint32_t {
  bytes,  ///< send_bytes()
  value   ///< a ValueHead and an encoded value
};

/// A frame is sent as the concatenation of parts.
using FramePart = std::span<const std::byte>;

/// Memory for one frame that is received; small ones lie inside. What a frame is said to take is
/// only reserved: who announces 2 GiB and sends nothing has taken no memory.
class FrameBuffer {
 public:
  static constexpr std::size_t kInside = 256;
  static constexpr std::size_t kMost = std::size_t{1} << 52U;  // no processor has more addresses

  FrameBuffer() noexcept = default;
  /// Frames lie in `bytes`, which can be moved from once one is whole.
  explicit FrameBuffer(std::string& bytes) noexcept : bytes_(&bytes) {}
  FrameBuffer(const FrameBuffer&) = delete;
  FrameBuffer& operator=(const FrameBuffer&) = delete;

  /// An empty frame with room for `bytes`; what it held is lost. Throws std::bad_alloc.
  void expect(std::size_t bytes) {
    size_ = 0;
    if (bytes > kMost) throw std::bad_alloc();
    if (bytes_ != nullptr) {
      bytes_->clear();
      bytes_->reserve(bytes);
      at_ = reinterpret_cast<std::byte*>(bytes_->data());
      return;
    }
    if (bytes > kInside && bytes > capacity_) {
      heap_.reset();
      heap_.reset(new std::byte[bytes]);
      capacity_ = bytes;
    }
    at_ = bytes > kInside ? heap_.get() : inside_;
  }
  /// The same in memory of the caller's.
  void expect_in(std::byte* room) noexcept {
    size_ = 0;
    bytes_ = nullptr;
    at_ = room;
  }
  /// The next `bytes` of what was expected, to be written. Not initialised, but in a string zero.
  std::byte* extend(std::size_t bytes) {
    if (bytes_ != nullptr) bytes_->resize(size_ + bytes);
    size_ += bytes;
    return at_ + (size_ - bytes);
  }
  void append(FramePart part) {
    if (bytes_ != nullptr) {
      bytes_->append(reinterpret_cast<const char*>(part.data()), part.size());
    } else if (!part.empty()) {
      std::memcpy(at_ + size_, part.data(), part.size());
    }
    size_ += part.size();
  }
  /// A frame of `bytes`, to be written.
  std::byte* resize(std::size_t bytes) {
    expect(bytes);
    return extend(bytes);
  }
  [[nodiscard]] std::byte* data() noexcept { return at_; }
  [[nodiscard]] const std::byte* data() const noexcept { return at_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

 private:
  std::byte* at_ = inside_;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
  std::string* bytes_ = nullptr;
  std::unique_ptr<std::byte[]> heap_;
  alignas(16) std::byte inside_[kInside];
};

// std::system_error (EBADF)
[[noreturn]] void throw_handle_closed();
[[noreturn]] void throw_wrong_direction(const char* text);

class ConnectionEnd {
 public:
  ConnectionEnd(bool readable, bool writable, bool python_wire) noexcept
      : readable_(readable), writable_(writable), python_wire_(python_wire) {}
  ConnectionEnd(const ConnectionEnd&) = delete;
  ConnectionEnd& operator=(const ConnectionEnd&) = delete;
  /// Implementations call close() in their own destructor.
  virtual ~ConnectionEnd() = default;

  /// Values travel as pickles, in frames of kind `bytes`: the peer may be CPython.
  [[nodiscard]] bool python_wire() const noexcept { return python_wire_; }

  /// Sends one frame, whole or not at all as far as the peer can tell. Blocks while there is no
  /// room. Throws std::system_error (EPIPE) when the peer is gone, KeyboardInterrupt.
  virtual void send(FrameKind kind, std::span<const FramePart> parts) = 0;
  /// Waits for a frame and takes it. Throws EOFError when the peer is gone and nothing is left,
  /// std::system_error when it ended inside a frame, or when the frame is longer than `maxlength`
  /// ("bad message length"; call refuse_rest() first), KeyboardInterrupt. A frame of kind `value`
  /// is never too long: its caller knows what it amounts to.
  virtual FrameKind receive(FrameBuffer& frame, std::size_t maxlength) = 0;
  /// Takes a frame into `room` and returns its size; one that does not fit goes to `rest`, whole.
  virtual std::size_t receive_into(std::span<std::byte> room, FrameBuffer& rest);
  /// True when a frame, or the end, is there within `timeout`.
  virtual bool poll(Timeout timeout) = 0;
  /// For the user's own poll: readable while receive() would find something.
  virtual int fileno() = 0;
  /// The same without waiting: -1 while another process must do something first.
  virtual int try_fileno() { return fileno(); }
  /// From now on one thread at a time receives and polls, of this process alone, nobody else looks
  /// at the descriptor, and the end does not travel: it may have read what was not received yet.
  /// Only a socket's does. `limit`: of something_there(). Throws std::system_error.
  virtual void read_ahead(Timeout limit) { static_cast<void>(limit); }
  enum class Waits : bool { no, yes };
  /// Of such an end: true when some of a message, or the end, is there. It waits for as long as
  /// `limit` says; a signal may end that.
  virtual bool something_there(Waits waits);
  /// What a copy of the handle that leaves this process keeps, so that the end stays open and can
  /// be opened elsewhere: a number for EndOps. Throws TypeError where that is impossible.
  virtual std::uint64_t depart();
  /// The peer has proved a key, or is a process of this user on this machine: what it sends may
  /// make this process dial.
  [[nodiscard]] virtual bool peer_is_known() const noexcept { return false; }
  /// A new descriptor by which another program has the end, too. Throws TypeError where there is
  /// none, std::system_error (EMFILE).
  virtual int duplicate();

  /// Once: no call works from here on, blocked ones end.
  void close() noexcept {
    // relaxed: the flag alone; what shut() does has its own order
    if (!closed_.exchange(true, std::memory_order_relaxed)) shut();
  }
  [[nodiscard]] bool closed() const noexcept { return closed_.load(std::memory_order_relaxed); }
  [[nodiscard]] bool readable() const noexcept { return readable_.load(std::memory_order_relaxed); }
  [[nodiscard]] bool writable() const noexcept { return writable_; }

  /// After a frame that was too long: the reading side is over; one that could only read is closed.
  void refuse_rest() noexcept;

  // Each throws std::system_error (EBADF) with Python's text.
  void check_open() const {
    if (closed()) [[unlikely]] throw_handle_closed();
  }
  void check_readable() const {
    check_open();
    if (!readable()) [[unlikely]] throw_wrong_direction("connection is write-only");
  }
  void check_writable() const {
    check_open();
    if (!writable()) [[unlikely]] throw_wrong_direction("connection is read-only");
  }

 protected:
  /// What close() does, once; other calls may be under way.
  virtual void shut() noexcept = 0;

 private:
  std::atomic<bool> closed_{false};   // only ever set
  std::atomic<bool> readable_{true};  // only ever cleared
  const bool writable_;
  const bool python_wire_;
};

// Python's other errors of an end.
[[noreturn]] void throw_end_of_file();         // EOFError
[[noreturn]] void throw_end_inside_message();  // std::system_error
[[noreturn]] void throw_bad_message_length();  // std::system_error
[[noreturn]] void throw_broken_pipe();         // EPIPE

/// Which implementation an end has, in every process.
enum class EndKind : std::uint32_t {
  local,  ///< stays in its process
  pipe,
  socket
};

/// A Connection's object in the arena, which all its copies refer to. Written when it is made.
struct ConnectionObject {
  std::uint64_t body;  ///< a reference to what the kind needs (ObjectRequest::links), or 0
  EndKind kind;
  std::uint32_t side;
  bool readable;
  bool writable;
};

/// How ends of one kind come to other processes. `kept` is what depart() gave; it stays valid, and
/// may be used again, until drop().
struct EndOps {
  std::unique_ptr<ConnectionEnd> (*open)(const ConnectionObject& object, std::uint64_t kept);
  std::uint64_t (*duplicate)(const ConnectionObject& object, std::uint64_t kept);
  void (*drop)(const ConnectionObject& object, std::uint64_t kept) noexcept;
};
/// The first handle to an end.
Connection make_connection(std::unique_ptr<ConnectionEnd> end, EndKind kind = EndKind::local);
/// The same for an object that exists.
Connection make_connection(std::unique_ptr<ConnectionEnd> end, shm::ObjectRef object);
/// The end behind a handle; std::system_error (EBADF) once it is closed.
ConnectionEnd& end_of(const Connection& connection);

/// Closes all connections of this process, which is about to end.
void close_connections() noexcept;

}  // namespace millrace::runtime
