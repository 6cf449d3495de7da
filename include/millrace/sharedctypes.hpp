// Values and arrays in shared memory, with a lock or without. Python: multiprocessing.sharedctypes.
//
// RawValue and RawArray are plain memory. Value and Array refer to such memory and to a lock, which
// each of their calls takes; several may share either. All are handles. Elements are trivially
// copyable: every process sees the same bytes.
//
// Calls of Value and Array wait for the lock, and throw what it throws: AbandonedLock when a
// process died holding it. Making one throws std::system_error (ENOMEM) when the arena is full.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <millrace/errors.hpp>
#include <millrace/raw_types.hpp>
#include <millrace/shared_handle.hpp>
#include <millrace/synchronize.hpp>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace millrace {

/// The keyword argument of Value and Array: the lock to use, a new RLock by default.
struct ValueOptions {
  std::optional<AnyLock> lock{};
};

template <class T>
class Array;
template <class T>
class Value;

namespace sharedctypes {

/// What a Value or an Array refers to. Both are links of its object.
struct Synchronized {
  AnyLock lock;
  shm::ObjectRef memory;
};
static_assert(sizeof(Synchronized) == 2 * sizeof(void*));

shm::ObjectRef make_synchronized(const std::optional<AnyLock>& lock, const shm::ObjectRef& memory,
                                 std::uint64_t type);
/// Holds a lock for the length of a block.
using Holding = std::lock_guard<const AnyLock>;

/// Says that a constructor goes over memory that exists.
struct Over {};

template <class T>
Value<T> synchronized(const RawValue<T>& raw, std::optional<AnyLock> lock = {});
template <class T>
Array<T> synchronized(const RawArray<T>& raw, std::optional<AnyLock> lock = {});

/// What Value and Array share: the lock, and the memory that it guards.
template <class D>
class Guarded : public shm::SharedHandle, public LockCalls<D> {
 public:
  /// The lock, to hold it over several calls: `std::scoped_lock k(n.get_lock());`. It lives as long
  /// as this object. Python: T09.
  [[nodiscard]] const AnyLock& get_lock() const { return state().lock; }
  void release() const { get_lock().release(); }

 protected:
  using SharedHandle::SharedHandle;
  [[nodiscard]] const Synchronized& state() const {
    if (object().payload() == nullptr) throw_moved_from("Value or Array");
    return *static_cast<const Synchronized*>(object().payload());
  }

 private:
  friend class LockCalls<D>;
  bool take(Timeout timeout) const {
    return timeout.infinite() ? get_lock().acquire() : get_lock().acquire(timeout);
  }
};

}  // namespace sharedctypes

/// A T in shared memory that each call locks. `set(get() + 1)` is two calls: use update(), or hold
/// the lock. Python: multiprocessing.Value, T01, T07-T12.
template <class T>
class Value : public sharedctypes::Guarded<Value<T>> {
  using Base = sharedctypes::Guarded<Value<T>>;

 public:
  using SharedType = Value;
  using value_type = T;
  /// All bytes zero.
  Value() : Value(sharedctypes::Over{}, RawValue<T>(), ValueOptions{}) {}
  explicit Value(const T& value, const ValueOptions& options = {})
      : Value(sharedctypes::Over{}, RawValue<T>(value), options) {}
  /// For the library: an object that exists.
  Value(shm::Existing, shm::ObjectRef object) noexcept : Base(std::move(object)) {}

  [[nodiscard]] T get() const {
    const sharedctypes::Holding held(this->get_lock());
    return get_obj();
  }
  void set(const T& value) const {
    const sharedctypes::Holding held(this->get_lock());
    get_obj() = value;
  }
  /// Calls `change(T&)` with the lock held; what it returns. **Beyond Python**.
  template <std::invocable<T&> Change>
  decltype(auto) update(Change&& change) const {
    const sharedctypes::Holding held(this->get_lock());
    return change(get_obj());
  }
  /// The value itself, for who holds the lock. Python: T08.
  [[nodiscard]] T& get_obj() const { return *static_cast<T*>(this->state().memory.payload()); }
  /// "<Synchronized wrapper for c_int(3)>".
  [[nodiscard]] std::string repr() const {
    return "<Synchronized wrapper for " + sharedctypes::ctypes_repr(get()) + ">";
  }

 private:
  friend Value<T> sharedctypes::synchronized<T>(const RawValue<T>&, std::optional<AnyLock>);
  Value(sharedctypes::Over, const RawValue<T>& raw, const ValueOptions& options)
      : Base(sharedctypes::make_synchronized(options.lock, raw.object(),
                                             shm::object_type<Value>())) {}
};

template <class T>
Value(T) -> Value<T>;
template <class T>
Value(T, ValueOptions) -> Value<T>;

/// Elements in shared memory; each access locks. Python: multiprocessing.Array, T02, T13-T15.
template <class T>
class Array : public sharedctypes::Guarded<Array<T>> {
  using Base = sharedctypes::Guarded<Array<T>>;

 public:
  using SharedType = Array;
  using value_type = T;

  /// One element of an Array: reading and writing it take the lock. Refers to the Array it is of.
  class Element {
   public:
    Element(const Element&) = default;
    operator T() const {  // NOLINT(google-explicit-constructor): it stands for the value
      const sharedctypes::Holding held(*lock_);
      return *place_;
    }
    const Element& operator=(const T& value) const {
      const sharedctypes::Holding held(*lock_);
      *place_ = value;
      return *this;
    }
    // NOLINTNEXTLINE(bugprone-unhandled-self-assignment): a value is copied
    Element& operator=(const Element& other) {
      std::as_const(*this) = static_cast<T>(other);
      return *this;
    }
    const Element& operator=(const Element& other) const { return *this = static_cast<T>(other); }
    /// Reads and writes under one lock. **Beyond Python**.
    template <class U>
    requires requires(T& a, const U& b) { a += b; }
    const Element& operator+=(const U& b) const {
      const sharedctypes::Holding held(*lock_);
      *place_ = static_cast<T>(*place_ + b);
      return *this;
    }
    template <class U>
    requires requires(T& a, const U& b) { a -= b; }
    const Element& operator-=(const U& b) const {
      const sharedctypes::Holding held(*lock_);
      *place_ = static_cast<T>(*place_ - b);
      return *this;
    }

   private:
    friend class Array;
    Element(const AnyLock& lock, T& place) : lock_(&lock), place_(&place) {}
    const AnyLock* lock_;
    T* place_;
  };

  /// `n` elements, all bytes zero. ValueError for a negative number.
  template <std::integral N>
  explicit Array(N n, const ValueOptions& options = {})
      : Array(sharedctypes::Over{}, RawArray<T>(n), options) {}
  Array(std::initializer_list<T> elements, const ValueOptions& options = {})
      : Array(sharedctypes::Over{}, RawArray<T>(elements), options) {}
  /// Copies of a range's elements.
  template <sharedctypes::ElementsOf<T> R>
  requires(!std::derived_from<std::remove_cvref_t<R>, Base>) explicit Array(
      R&& range, const ValueOptions& options = {})
      : Array(sharedctypes::Over{}, RawArray<T>(std::forward<R>(range)), options) {}
  /// The text, without a terminating NUL.
  explicit Array(std::string_view text,
                 const ValueOptions& options = {}) requires std::same_as<T, char>
      : Array(sharedctypes::Over{}, RawArray<char>(text), options) {}
  /// For the library: an object that exists.
  Array(shm::Existing, shm::ObjectRef object) noexcept : Base(std::move(object)) {}

  [[nodiscard]] std::size_t size() const { return get_obj().size(); }
  /// Negative indexes count from the end. IndexError out of range.
  [[nodiscard]] Element operator[](std::ptrdiff_t i) const { return at(i); }
  [[nodiscard]] Element at(std::ptrdiff_t i) const {
    const std::span<T> all = get_obj();
    return Element(this->get_lock(), all[sharedctypes::checked_index(i, all.size())]);
  }
  /// The elements [i, j) as Python's slice: negative indexes count from the end, what is beyond it
  /// is left out.
  [[nodiscard]] std::vector<T> slice(std::ptrdiff_t i, std::ptrdiff_t j) const {
    const sharedctypes::Holding held(this->get_lock());
    const auto part = sharedctypes::part_of(i, j, size());
    const std::span<T> from = get_obj().subspan(part.first, part.count);
    return {from.begin(), from.end()};
  }
  /// Writes them. ValueError when the range has another length.
  template <sharedctypes::ElementsOf<T> R>
  void slice(std::ptrdiff_t i, std::ptrdiff_t j, R&& range) const {
    const std::vector<T> elements = sharedctypes::collect<T>(range);
    const sharedctypes::Holding held(this->get_lock());
    const auto part = sharedctypes::part_of(i, j, size());
    sharedctypes::check_length(elements.size(), part.count);
    std::copy(elements.begin(), elements.end(),
              get_obj().begin() + static_cast<std::ptrdiff_t>(part.first));
  }
  /// A copy of all elements, made under the lock. Python: list(a).
  [[nodiscard]] std::vector<T> to_vector() const {
    const sharedctypes::Holding held(this->get_lock());
    return {get_obj().begin(), get_obj().end()};
  }
  /// The elements themselves, for who holds the lock.
  [[nodiscard]] std::span<T> get_obj() const {
    T* data = static_cast<T*>(this->state().memory.payload());
    return {data, static_cast<std::size_t>(shm::prefix_of(data).elements)};
  }

  /// As RawArray's, under the lock.
  [[nodiscard]] std::string value() const requires std::same_as<T, char> {
    const sharedctypes::Holding held(this->get_lock());
    return memory().value();
  }
  void value(std::string_view text) const requires std::same_as<T, char> {
    const sharedctypes::Holding held(this->get_lock());
    memory().value(text);
  }
  [[nodiscard]] std::string raw() const requires std::same_as<T, char> {
    const sharedctypes::Holding held(this->get_lock());
    return memory().raw();
  }
  /// "<SynchronizedArray wrapper for 3 elements at 0x...>".
  [[nodiscard]] std::string repr() const;

 private:
  friend Array<T> sharedctypes::synchronized<T>(const RawArray<T>&, std::optional<AnyLock>);
  [[nodiscard]] RawArray<T> memory() const {
    return RawArray<T>(shm::Existing{}, this->state().memory);
  }
  Array(sharedctypes::Over, const RawArray<T>& raw, const ValueOptions& options)
      : Base(sharedctypes::make_synchronized(options.lock, raw.object(),
                                             shm::object_type<Array>())) {}
};

namespace sharedctypes {

/// A new value in shared memory, with the same content. Python: sharedctypes.copy, T05.
template <class T>
[[nodiscard]] RawValue<T> copy(const RawValue<T>& raw) {
  return RawValue<T>(raw.get_obj());
}
template <class T>
[[nodiscard]] RawArray<T> copy(const RawArray<T>& raw) {
  return RawArray<T>(raw.span());
}

/// A Value or Array over the same memory, with a lock; a new RLock by default. One that has a lock
/// already: AssertionError. Python: sharedctypes.synchronized, T06.
template <class T>
Value<T> synchronized(const RawValue<T>& raw, std::optional<AnyLock> lock) {
  return Value<T>(Over{}, raw, ValueOptions{std::move(lock)});
}
template <class T>
Array<T> synchronized(const RawArray<T>& raw, std::optional<AnyLock> lock) {
  return Array<T>(Over{}, raw, ValueOptions{std::move(lock)});
}
template <class D>
[[noreturn]] D synchronized(const Guarded<D>&, const std::optional<AnyLock>& = {}) {
  throw AssertionError("object already synchronized");
}

}  // namespace sharedctypes

template <class T>
std::string Array<T>::repr() const {
  constexpr const char* kind = std::same_as<T, char> ? "String" : "Array";
  return std::string("<Synchronized") + kind + " wrapper for " +
         sharedctypes::array_repr_of<T>(size(), this->state().memory) + ">";
}

}  // namespace millrace
