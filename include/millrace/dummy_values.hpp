// mp::dummy's Value and Array: memory of this process behind a lock, with the calls of mp's own,
// D17-18. Handles: a copy refers to the same value. Elements may be of any type. Unlike Python's,
// which rest on its interpreter's lock, they have one.
#pragma once

#include <concepts>
#include <cstddef>
#include <memory>
#include <millrace/dummy_sync.hpp>
#include <millrace/errors.hpp>
#include <mutex>
#include <optional>
#include <ranges>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace::dummy {

/// The keyword arguments of Value and Array.
struct ValueOptions {
  std::optional<RLock> lock = {};  ///< else one of its own
};

/// What Value and Array have in common: their lock.
class Locked {
 public:
  void acquire() const { lock_.acquire(); }
  [[nodiscard]] bool acquire(Timeout timeout) const { return lock_.acquire(timeout); }
  [[nodiscard]] bool try_acquire() const { return lock_.try_acquire(); }
  void release() const { lock_.release(); }
  void lock() const { lock_.acquire(); }
  [[nodiscard]] bool try_lock() const { return lock_.try_acquire(); }
  void unlock() const { lock_.release(); }
  [[nodiscard]] const RLock& get_lock() const noexcept { return lock_; }

 protected:
  explicit Locked(const ValueOptions& options) : lock_(options.lock.value_or(RLock())) {}

 private:
  RLock lock_;
};

/// One value. Python: multiprocessing.dummy.Value.
template <class T>
class Value : public Locked {
 public:
  explicit Value(T value = T(), const ValueOptions& options = {})
      : Locked(options), value_(std::make_shared<T>(std::move(value))) {}
  [[nodiscard]] T get() const {
    const std::scoped_lock guard(*this);
    return *value_;
  }
  void set(T value) const {
    const std::scoped_lock guard(*this);
    *value_ = std::move(value);
  }
  /// Calls f(T&) with the lock; gives what it returns.
  template <std::invocable<T&> F>
  decltype(auto) update(F&& f) const {
    const std::scoped_lock guard(*this);
    return std::forward<F>(f)(*value_);
  }
  /// The value itself; the lock is the caller's business.
  [[nodiscard]] T& get_obj() const noexcept { return *value_; }
  friend bool operator==(const Value& a, const Value& b) noexcept { return a.value_ == b.value_; }

 private:
  std::shared_ptr<T> value_;
};

/// A number of values. Each access takes the lock; negative indices count from the end; IndexError
/// out of range. Python: multiprocessing.dummy.Array.
template <class T>
class Array : public Locked {
 public:
  /// An element as `a[i]` names it: reads and writes take the lock.
  class Element {
   public:
    operator T() const { return of_.get(i_); }  // NOLINT(google-explicit-constructor): a reference
    const Element& operator=(T value) const {
      of_.put(i_, std::move(value));
      return *this;
    }
    const Element& operator=(const Element& other) const { return *this = T(other); }

   private:
    friend class Array;
    Element(const Array& of, std::size_t i) : of_(of), i_(i) {}
    const Array& of_;
    std::size_t i_;
  };

  /// `size` values T(). ValueError for a negative size.
  explicit Array(std::integral auto size, const ValueOptions& options = {})
      : Locked(options), items_(std::make_shared<std::vector<T>>(checked(size))) {}
  template <std::ranges::input_range R>
  explicit Array(R&& items, const ValueOptions& options = {})
      : Locked(options), items_(std::make_shared<std::vector<T>>()) {
    for (auto&& item : items) items_->emplace_back(std::forward<decltype(item)>(item));
  }
  Array(std::initializer_list<T> items, const ValueOptions& options = {})
      : Locked(options), items_(std::make_shared<std::vector<T>>(items)) {}

  [[nodiscard]] std::size_t size() const noexcept { return items_->size(); }
  [[nodiscard]] Element operator[](std::ptrdiff_t i) const { return Element(*this, index(i)); }
  [[nodiscard]] Element at(std::ptrdiff_t i) const { return (*this)[i]; }
  /// A copy of items [first, last), as Python's slices.
  [[nodiscard]] std::vector<T> slice(std::ptrdiff_t first, std::ptrdiff_t last) const {
    const std::scoped_lock guard(*this);
    const auto [a, b] = bounds(first, last);
    return std::vector<T>(items_->begin() + a, items_->begin() + b);
  }
  /// Writes a range over a slice; ValueError when it has another length.
  template <std::ranges::sized_range R>
  void slice(std::ptrdiff_t first, std::ptrdiff_t last, R&& with) const {
    const std::scoped_lock guard(*this);
    const auto [a, b] = bounds(first, last);
    if (static_cast<std::size_t>(std::ranges::size(with)) != static_cast<std::size_t>(b - a)) {
      throw ValueError("Can only assign a sequence of the same size: the slice has " +
                       std::to_string(b - a) + " items, the range " +
                       std::to_string(std::ranges::size(with)));
    }
    auto to = items_->begin() + a;
    for (auto&& item : with) *to++ = std::forward<decltype(item)>(item);
  }
  [[nodiscard]] std::vector<T> to_vector() const {
    const std::scoped_lock guard(*this);
    return *items_;
  }
  /// The values themselves; the lock is the caller's business.
  [[nodiscard]] std::span<T> get_obj() const noexcept { return *items_; }
  friend bool operator==(const Array& a, const Array& b) noexcept { return a.items_ == b.items_; }

 private:
  static_assert(!std::same_as<T, bool>, "millrace: bits of a vector have no address; use char");

  static std::size_t checked(std::integral auto size) {
    if (std::cmp_less(size, 0)) throw ValueError("an Array's size must not be negative");
    return static_cast<std::size_t>(size);
  }
  [[nodiscard]] std::size_t index(std::ptrdiff_t i) const {
    const auto count = static_cast<std::ptrdiff_t>(items_->size());
    if (i < -count || i >= count) {
      throw IndexError("index " + std::to_string(i) + " is out of range of " +
                       std::to_string(count) + " items");
    }
    return static_cast<std::size_t>(i < 0 ? i + count : i);
  }
  [[nodiscard]] std::pair<std::ptrdiff_t, std::ptrdiff_t> bounds(std::ptrdiff_t first,
                                                                 std::ptrdiff_t last) const {
    const auto count = static_cast<std::ptrdiff_t>(items_->size());
    const auto clip = [count](std::ptrdiff_t i) {
      if (i < 0) i += count;
      return i < 0 ? 0 : (i > count ? count : i);
    };
    const std::ptrdiff_t a = clip(first);
    const std::ptrdiff_t b = clip(last);
    return {a, b < a ? a : b};
  }
  [[nodiscard]] T get(std::size_t i) const {
    const std::scoped_lock guard(*this);
    return (*items_)[i];
  }
  void put(std::size_t i, T value) const {
    const std::scoped_lock guard(*this);
    (*items_)[i] = std::move(value);
  }

  std::shared_ptr<std::vector<T>> items_;
};

template <std::ranges::input_range R>
explicit Array(R&&) -> Array<std::ranges::range_value_t<R>>;

}  // namespace millrace::dummy
