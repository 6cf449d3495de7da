// The bytes of one message: Writer appends to them, Reader takes them apart again, bounds checked.
//
// Handles and other things that are counted may be inside. A message owns one reference to each:
// encode adds it, and decode either takes it (a message that is read once) or leaves it with the
// message (one that several processes read, or that is read again after a worker died). A Writer
// remembers what it added, so that an encoding that fails half-way can be undone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace millrace::wire {

/// What an extension keeps while one value is written or read (which pointers it has seen).
class Session {
 public:
  Session() = default;
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  virtual ~Session() = default;
};

/// Nesting deeper than this is refused (a list of a million unique_ptr would overflow the stack).
inline constexpr int kMaxDepth = 2000;

[[noreturn]] void throw_short_message(std::size_t wanted, std::size_t left);
[[noreturn]] void throw_corrupt(const char* what);
[[noreturn]] void throw_too_deep();

/// Appends to a growing block of bytes: on the heap, or wherever a subclass lets it grow.
/// Used by one thread.
class Writer {
 public:
  /// Gives back the reference whose representation is at `bits`.
  using Drop = void (*)(std::byte* bits) noexcept;

  Writer() noexcept = default;
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  virtual ~Writer();

  /// Makes room for `bytes` more and returns where they go; valid until the next append.
  std::byte* extend(std::size_t bytes) {
    if (bytes > static_cast<std::size_t>(end_ - cursor_)) grow(bytes);
    std::byte* const place = cursor_;
    cursor_ += bytes;
    return place;
  }
  /// Appends `bytes` bytes.
  void write(const void* from, std::size_t bytes) {
    std::byte* const to = extend(bytes);
    if (bytes != 0) std::memcpy(to, from, bytes);
  }
  /// Appends one value's own bytes.
  template <class T>
  void put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    write(&value, sizeof value);
  }

  [[nodiscard]] std::byte* data() noexcept { return begin_; }
  [[nodiscard]] const std::byte* data() const noexcept { return begin_; }
  [[nodiscard]] std::size_t size() const noexcept {
    return static_cast<std::size_t>(cursor_ - begin_);
  }
  /// Moves the content of `other`, with the references inside, to the end of this message.
  void append(Writer& other);
  /// Forgets the content but keeps the memory. The references inside are not given back: they
  /// belong to the message, which has been sent.
  void clear() noexcept;
  /// Cuts the content back to its first `size` bytes and gives the references after them back.
  void revert(std::size_t size) noexcept;

  /// What a reference is: counted somewhere, or the address of a block of the arena, which its
  /// maker owns until the message is somebody else's.
  enum class Holds : unsigned char { reference, block };

  /// Notes that the bytes from `offset` on are a reference which the message owns.
  void keep(std::size_t offset, Drop drop, Holds holds = Holds::reference) {
    kept_.push_back({offset, drop, holds});
  }
  /// True when the message owns references: whoever discards it unread has to drop them.
  [[nodiscard]] bool holds_references() const noexcept { return !kept_.empty(); }
  /// How many it owns.
  [[nodiscard]] std::size_t kept_count() const noexcept { return kept_.size(); }
  /// Calls see(offset, drop, holds) for each, in the order of their offsets.
  template <class See>
  void each_kept(See&& see) const {
    for (const Kept& one : kept_) see(one.offset, one.drop, one.holds);
  }

  /// The one session of type S of the value being written, made on first use.
  template <class S>
  S& session() {
    if (session_ == nullptr) session_ = new S(*this);
    return static_cast<S&>(*session_);
  }
  /// Ends a value: sessions are per value.
  void end_session() noexcept {
    delete session_;
    session_ = nullptr;
  }
  void enter() {
    if (++depth_ > kMaxDepth) throw_too_deep();
  }
  void leave() noexcept { --depth_; }

 protected:
  /// Called when fewer than `more` bytes are free: must rebase() to at least that many, or throw.
  virtual void grow(std::size_t more);
  /// Moves to another block which already holds the content: [begin, cursor) used, [cursor, end)
  /// free. Memory that a subclass brings stays its own.
  void rebase(std::byte* begin, std::byte* cursor, std::byte* end) noexcept {
    begin_ = begin;
    cursor_ = cursor;
    end_ = end;
  }

 private:
  struct Kept {
    std::size_t offset;
    Drop drop;
    Holds holds;
  };

  std::byte* begin_ = nullptr;
  std::byte* cursor_ = nullptr;
  std::byte* end_ = nullptr;
  std::byte* heap_ = nullptr;  // the default grow()'s block
  Session* session_ = nullptr;
  std::vector<Kept> kept_;
  int depth_ = 0;
};

/// What decoding does with the references that a message owns.
enum class References {
  take,   ///< they pass to the decoded values: the message may be decoded once
  borrow  ///< decoded values add their own: it may be decoded again, by other processes too
};

/// Takes a message apart. Throws Corrupt rather than read past its end. Used by one thread.
class Reader {
 public:
  Reader(const void* data, std::size_t bytes, References references = References::take) noexcept
      : cursor_(static_cast<const std::byte*>(data)),
        end_(cursor_ + bytes),
        references_(references) {}
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() { delete session_; }

  /// Steps over `bytes` bytes and returns where they are, unaligned.
  const std::byte* skip(std::size_t bytes) {
    if (bytes > remaining()) throw_short_message(bytes, remaining());
    const std::byte* const place = cursor_;
    cursor_ += bytes;
    return place;
  }
  void read(void* to, std::size_t bytes) {
    const std::byte* const from = skip(bytes);
    if (bytes != 0) std::memcpy(to, from, bytes);
  }
  /// Takes one value that was put().
  template <class T>
  T take() {
    static_assert(std::is_trivially_copyable_v<T>);
    struct Bits {
      std::byte bytes[sizeof(T)];
    } bits;
    read(&bits, sizeof bits);
    return __builtin_bit_cast(T, bits);
  }
  [[nodiscard]] std::size_t remaining() const noexcept {
    return static_cast<std::size_t>(end_ - cursor_);
  }

  [[nodiscard]] References references() const noexcept { return references_; }
  void set_references(References references) noexcept { references_ = references; }

  template <class S>
  S& session() {
    if (session_ == nullptr) session_ = new S(*this);
    return static_cast<S&>(*session_);
  }
  void end_session() noexcept {
    delete session_;
    session_ = nullptr;
  }
  void enter() {
    if (++depth_ > kMaxDepth) throw_too_deep();
  }
  void leave() noexcept { --depth_; }

 private:
  const std::byte* cursor_;
  const std::byte* end_;
  References references_;
  Session* session_ = nullptr;
  int depth_ = 0;
};

/// One level of nesting of a Writer or Reader.
template <class Buffer>
class Nesting {
 public:
  explicit Nesting(Buffer& buffer) : buffer_(buffer) { buffer_.enter(); }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;
  ~Nesting() { buffer_.leave(); }

 private:
  Buffer& buffer_;
};

}  // namespace millrace::wire
