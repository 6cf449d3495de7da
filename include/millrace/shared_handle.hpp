// What handles to objects in shared memory have in common: one counted pointer, identity, how they
// travel, and the calls of everything that can be locked.
#pragma once

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iosfwd>
#include <millrace/handle.hpp>
#include <millrace/timeout.hpp>
#include <millrace/wire/buffer.hpp>
#include <string>
#include <utility>

namespace millrace {

namespace wire {
template <class T>
struct Custom;
}  // namespace wire

namespace shm {

/// Writes text to a stream; <ostream> is the caller's.
void write_text(std::ostream& out, const std::string& text);

/// Says that a handle is made for an object that exists: the library's own constructors.
struct Existing {
  explicit Existing() = default;
};

/// Base of handles. One that was moved from refers to nothing; calls on it throw ValueError.
class SharedHandle {
 public:
  /// For the library: the counted pointer.
  [[nodiscard]] const ObjectRef& object() const noexcept { return object_; }

 protected:
  explicit SharedHandle(ObjectRef object) noexcept : object_(std::move(object)) {}

 private:
  ObjectRef object_;
};

/// A class of handles: made from an arrived reference, and naming the type of its objects.
template <class H>
concept Handle = std::derived_from<H, SharedHandle> && requires {
  typename H::SharedType;
};

/// Identity: the same object.
template <Handle H>
[[nodiscard]] bool operator==(const H& a, const H& b) noexcept {
  return a.object().payload() == b.object().payload();
}

/// The handle's repr().
template <Handle H>
requires requires(const H& handle) { handle.repr(); }
std::ostream& operator<<(std::ostream& out, const H& handle) {
  write_text(out, handle.repr());
  return out;
}

}  // namespace shm

namespace wire {

/// A handle travels as its object's address; the message holds a reference.
template <shm::Handle H>
struct Custom<H> {
  static void encode(Writer& out, const H& value) {
    void* payload = value.object().payload();
    const std::size_t offset = out.size();
    out.put(reinterpret_cast<std::uint64_t>(payload));
    if (payload == nullptr) return;
    shm::depart_object(payload);
    try {
      out.keep(offset, drop);
    } catch (...) {
      shm::drop_departed_object(payload);
      throw;
    }
  }
  static H decode(Reader& in) {
    const auto address = in.template take<std::uint64_t>();
    if (address == 0) return H(shm::Existing{}, shm::ObjectRef());
    return H(shm::Existing{}, shm::ObjectRef(address, shm::object_type<typename H::SharedType>(),
                                             in.references() == References::take));
  }

 private:
  static void drop(std::byte* place) noexcept {
    void* payload = nullptr;
    std::memcpy(&payload, place, sizeof payload);
    shm::drop_departed_object(payload);
  }
};

}  // namespace wire

/// Python's and the standard library's calls of whatever can be acquired, from `take(Timeout)` and
/// `release()` of D.
template <class D>
class LockCalls {
 public:
  /// Waits until it is acquired; true. Python: acquire(), S01.
  bool acquire() const { return self().take(Timeout()); }
  /// Waits at most `timeout`; a negative one counts as zero. False when it was not acquired.
  /// Python: acquire(True, timeout), S02.
  [[nodiscard]] bool acquire(Timeout timeout) const { return self().take(timeout); }
  /// Does not wait. Python: acquire(False), S01.
  [[nodiscard]] bool try_acquire() const { return self().take(std::chrono::nanoseconds(0)); }

  /// Lockable and TimedLockable of the standard library.
  void lock() const { self().take(Timeout()); }
  [[nodiscard]] bool try_lock() const { return try_acquire(); }
  template <class Rep, class Period>
  [[nodiscard]] bool try_lock_for(std::chrono::duration<Rep, Period> timeout) const {
    return self().take(timeout);
  }
  template <class Clock, class Duration>
  [[nodiscard]] bool try_lock_until(std::chrono::time_point<Clock, Duration> deadline) const {
    return self().take(deadline - Clock::now());
  }
  void unlock() const { self().release(); }

 protected:
  LockCalls() = default;

 private:
  [[nodiscard]] const D& self() const noexcept { return static_cast<const D&>(*this); }
};

}  // namespace millrace
