// Python's containers as values: List, Tuple, Dict, Set, FrozenSet, and the small ones: ByteArray,
// Slice, Range. Elements are mp::Objects. A copy never changes with its original.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iosfwd>
#include <iterator>
#include <millrace/object_core.hpp>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace {

namespace runtime {

/// One entry of a Dict or set.
struct TableEntry {
  static constexpr std::uint64_t kHole = ~std::uint64_t{0};  // where one was erased

  std::uint64_t hash;
  Object key;
  Object value;
};

/// A range whose elements become Objects; no Object itself, and none of the library's values.
template <class R>
concept RangeOfObjects = !std::is_same_v<std::remove_cvref_t<R>, Object> &&
                         kOwnKind<std::remove_cvref_t<R>> == ValueKind::none &&
                         !std::is_convertible_v<R, std::string_view> && requires(R && range) {
  std::begin(range) != std::end(range);
  requires ObjectValue<decltype(*std::begin(range))>;
};

}  // namespace runtime

/// A growing sequence. Python: list.
class List {
 public:
  using value_type = Object;
  using iterator = Object*;
  using const_iterator = const Object*;

  List();
  List(std::initializer_list<Object> elements);
  /// The elements of any range, views and generators too. With parentheses: List(range).
  template <runtime::RangeOfObjects R>
  explicit List(R&& range) : List() {
    for (auto&& each : range) append(Object(std::forward<decltype(each)>(each)));
  }

  [[nodiscard]] std::size_t size() const noexcept;
  [[nodiscard]] bool empty() const noexcept { return size() == 0; }
  /// The element at `i`, from the end if negative. Throws IndexError.
  const Object& operator[](std::ptrdiff_t i) const;
  Object& operator[](std::ptrdiff_t i);
  [[nodiscard]] const Object* begin() const noexcept;
  [[nodiscard]] const Object* end() const noexcept { return begin() + size(); }
  Object* begin();
  Object* end() { return begin() + size(); }

  void reserve(std::size_t count);
  void append(Object value);
  void push_back(Object value) { append(std::move(value)); }
  /// Appends what iterating over `values` gives. Throws TypeError for what cannot be iterated over.
  void extend(const Object& values);
  /// Inserts before `i`; a place beyond an end is that end, as in Python.
  void insert(std::ptrdiff_t i, Object value);
  /// Removes and returns the element at `i`. Throws IndexError.
  Object pop(std::ptrdiff_t i = -1);
  /// Removes the first that equals `value`. Throws ValueError.
  void remove(const Object& value);
  /// The place of the first that equals `value`. Throws ValueError.
  std::size_t index(const Object& value) const;
  std::size_t count(const Object& value) const;
  bool contains(const Object& value) const { return count(value) != 0; }
  /// Python: list[first:last].
  [[nodiscard]] List slice(std::ptrdiff_t first, std::ptrdiff_t last) const;
  void reverse();
  /// Stable, ascending. Throws TypeError for elements that are not ordered.
  void sort();
  void clear();

  [[nodiscard]] std::string repr() const { return value_.repr(); }
  friend bool operator==(const List& a, const List& b) { return a.value_ == b.value_; }
  friend std::ostream& operator<<(std::ostream& out, const List& list) {
    return out << list.value_;
  }

 private:
  friend struct runtime::Access;
  Object value_;
};

/// A sequence that does not change. Python: tuple.
class Tuple {
 public:
  using value_type = Object;
  using const_iterator = const Object*;

  Tuple() : Tuple(std::span<Object>()) {}
  Tuple(std::initializer_list<Object> elements);
  /// The elements of any range, with parentheses: Tuple(range).
  template <runtime::RangeOfObjects R>
  explicit Tuple(R&& range) : Tuple(List(std::forward<R>(range))) {}
  explicit Tuple(const List& list);
  /// Takes the elements out of their places.
  explicit Tuple(std::span<Object> elements);

  [[nodiscard]] std::size_t size() const noexcept;
  [[nodiscard]] bool empty() const noexcept { return size() == 0; }
  /// The element at `i`, from the end if negative. Throws IndexError.
  const Object& operator[](std::ptrdiff_t i) const;
  [[nodiscard]] const Object* begin() const noexcept;
  [[nodiscard]] const Object* end() const noexcept { return begin() + size(); }

  [[nodiscard]] std::string repr() const { return value_.repr(); }
  friend bool operator==(const Tuple& a, const Tuple& b) { return a.value_ == b.value_; }
  friend std::ostream& operator<<(std::ostream& out, const Tuple& tuple) {
    return out << tuple.value_;
  }

 private:
  friend struct runtime::Access;
  Object value_;
};

/// Keys and values in the order of their insertion. Keys are hashable: no lists, dicts or sets.
/// Python: dict.
class Dict {
 public:
  using Item = std::pair<Object, Object>;
  class Place;

  Dict();
  Dict(std::initializer_list<Item> items);
  /// The keys and values of any map, with parentheses: Dict(map).
  template <runtime::KeyedPairs M>
  requires(ObjectValue<M>) explicit Dict(const M& map) : Dict() {
    for (const auto& [key, value] : map) set(key, value);
  }

  [[nodiscard]] std::size_t size() const noexcept;
  [[nodiscard]] bool empty() const noexcept { return size() == 0; }
  /// The value of a key. Throws KeyError, TypeError for an unhashable key.
  const Object& operator[](const Object& key) const { return at(key); }
  /// Reads or writes: d["k"] = 1; int i = d["k"].as<int>(); a missing key is KeyError when read.
  Place operator[](Object key);
  const Object& at(const Object& key) const;
  /// Null when there is no such key.
  [[nodiscard]] const Object* find(const Object& key) const;
  bool contains(const Object& key) const { return find(key) != nullptr; }
  Object get(const Object& key, Object otherwise = {}) const;
  void set(Object key, Object value);
  /// The value of a key, which gets `value` if it is not there. Python: setdefault.
  Object setdefault(const Object& key, Object value = {});
  void update(const Dict& other);
  /// Removes a key. Throws KeyError. Python: del d[key].
  void erase(const Object& key);
  /// Removes a key and returns its value. Throws KeyError.
  Object pop(const Object& key);
  void clear();
  /// Copies, in the order of insertion.
  [[nodiscard]] List keys() const;
  [[nodiscard]] List values() const;
  [[nodiscard]] std::vector<Item> items() const;
  /// Over the keys, as in Python.
  Object::Iterator begin() const { return {value_, 0}; }
  Object::Iterator end() const { return value_.end(); }

  [[nodiscard]] std::string repr() const { return value_.repr(); }
  friend bool operator==(const Dict& a, const Dict& b) { return a.value_ == b.value_; }
  friend std::ostream& operator<<(std::ostream& out, const Dict& dict) {
    return out << dict.value_;
  }

 private:
  friend struct runtime::Access;
  Object value_;
};

/// A key's place in a Dict, for the length of an expression.
class Dict::Place {
 public:
  Place(Dict& dict, Object key) : dict_(dict), key_(std::move(key)) {}
  Place(const Place&) = delete;
  ~Place() = default;
  template <ObjectValue T>
  const Place& operator=(T&& value) const {
    dict_.set(key_, Object(std::forward<T>(value)));
    return *this;
  }
  const Place& operator=(const Place& other) const {
    dict_.set(key_, other.get());
    return *this;
  }
  operator Object() const { return get(); }  // NOLINT(google-explicit-constructor)
  const Object& get() const { return std::as_const(dict_).at(key_); }
  template <class T>
  T as() const {
    return get().template as<T>();
  }
  template <class T>
  [[nodiscard]] bool is() const {
    return get().template is<T>();
  }
  Object operator[](const Object& key) const { return get()[key]; }
  std::size_t size() const { return get().size(); }
  Object::Iterator begin() const { return get().begin(); }
  Object::Iterator end() const { return get().end(); }
  std::string repr() const { return get().repr(); }
  friend bool operator==(const Place& place, const Object& value) { return place.get() == value; }
  friend std::ostream& operator<<(std::ostream& out, const Place& place) {
    return out << place.get();
  }

 private:
  Dict& dict_;
  Object key_;
};

inline Dict::Place Dict::operator[](Object key) { return {*this, std::move(key)}; }

/// Distinct hashable elements, iterated over in the order of their insertion. Python: set.
class Set {
 public:
  using value_type = Object;

  Set();
  Set(std::initializer_list<Object> elements);
  /// The elements of any range, with parentheses: Set(range).
  template <runtime::RangeOfObjects R>
  explicit Set(R&& range) : Set() {
    for (auto&& each : range) add(Object(std::forward<decltype(each)>(each)));
  }

  [[nodiscard]] std::size_t size() const noexcept;
  [[nodiscard]] bool empty() const noexcept { return size() == 0; }
  bool contains(const Object& element) const;
  void add(Object element);
  /// True if it was there.
  bool discard(const Object& element);
  void clear();
  Object::Iterator begin() const { return {value_, 0}; }
  Object::Iterator end() const { return value_.end(); }

  [[nodiscard]] std::string repr() const { return value_.repr(); }
  friend bool operator==(const Set& a, const Set& b) { return a.value_ == b.value_; }
  friend std::ostream& operator<<(std::ostream& out, const Set& set) { return out << set.value_; }

 private:
  friend struct runtime::Access;
  Object value_;
};

/// A set that does not change and is hashable. Python: frozenset.
class FrozenSet {
 public:
  using value_type = Object;

  FrozenSet() : FrozenSet(Set()) {}
  FrozenSet(std::initializer_list<Object> elements) : FrozenSet(Set(elements)) {}
  /// The elements of any range, with parentheses: FrozenSet(range).
  template <runtime::RangeOfObjects R>
  explicit FrozenSet(R&& range) : FrozenSet(Set(std::forward<R>(range))) {}
  explicit FrozenSet(Set elements);

  [[nodiscard]] std::size_t size() const noexcept;
  [[nodiscard]] bool empty() const noexcept { return size() == 0; }
  bool contains(const Object& element) const;
  Object::Iterator begin() const { return {value_, 0}; }
  Object::Iterator end() const { return value_.end(); }

  [[nodiscard]] std::string repr() const { return value_.repr(); }
  friend bool operator==(const FrozenSet& a, const FrozenSet& b) { return a.value_ == b.value_; }
  friend std::ostream& operator<<(std::ostream& out, const FrozenSet& set) {
    return out << set.value_;
  }

 private:
  friend struct runtime::Access;
  Object value_;
};

/// Bytes that may be changed. Python: bytearray.
class ByteArray {
 public:
  ByteArray() noexcept = default;
  /// From whatever Bytes are made from.
  template <class T>
  requires(std::is_constructible_v<Bytes, T> && !std::is_same_v<std::remove_cvref_t<T>, ByteArray>)
      ByteArray(T&& bytes)  // NOLINT
      : bytes_(std::forward<T>(bytes)) {}

  [[nodiscard]] std::byte* data() noexcept { return bytes_.data(); }
  [[nodiscard]] const std::byte* data() const noexcept { return bytes_.data(); }
  [[nodiscard]] std::size_t size() const noexcept { return bytes_.size(); }
  [[nodiscard]] bool empty() const noexcept { return bytes_.empty(); }
  [[nodiscard]] std::string_view view() const noexcept { return bytes_.view(); }
  void resize(std::size_t byte_count) { bytes_.resize(byte_count); }
  [[nodiscard]] std::byte& operator[](std::size_t i) noexcept { return bytes_.data()[i]; }
  [[nodiscard]] const Bytes& bytes() const noexcept { return bytes_; }

  [[nodiscard]] std::string repr() const;
  friend bool operator==(const ByteArray&, const ByteArray&) noexcept = default;

 private:
  Bytes bytes_;
};

/// Three values, None where one is left out. Python: slice.
class Slice {
 public:
  explicit Slice(Object stop) : stop_(std::move(stop)) {}
  Slice(Object start, Object stop, Object step = {})
      : start_(std::move(start)), stop_(std::move(stop)), step_(std::move(step)) {}
  [[nodiscard]] const Object& start() const noexcept { return start_; }
  [[nodiscard]] const Object& stop() const noexcept { return stop_; }
  [[nodiscard]] const Object& step() const noexcept { return step_; }
  friend bool operator==(const Slice&, const Slice&) = default;

 private:
  Object start_;
  Object stop_;
  Object step_;
};

/// Integers from start to before stop. Python: range.
class Range {
 public:
  explicit Range(std::int64_t stop) : stop_(stop) {}
  /// Throws ValueError for a step of 0.
  Range(std::int64_t start, std::int64_t stop, std::int64_t step = 1);
  [[nodiscard]] std::int64_t start() const noexcept { return start_; }
  [[nodiscard]] std::int64_t stop() const noexcept { return stop_; }
  [[nodiscard]] std::int64_t step() const noexcept { return step_; }
  [[nodiscard]] std::uint64_t size() const noexcept;
  /// The number at `i`, from the end if negative. Throws IndexError.
  std::int64_t operator[](std::ptrdiff_t i) const;
  /// As sequences: range(0) == range(2, 1).
  friend bool operator==(const Range& a, const Range& b) noexcept {
    return a.size() == b.size() &&
           (a.size() == 0 || (a.start_ == b.start_ && (a.size() == 1 || a.step_ == b.step_)));
  }

 private:
  std::int64_t start_ = 0;
  std::int64_t stop_;
  std::int64_t step_ = 1;
};

}  // namespace millrace
