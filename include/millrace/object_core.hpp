// mp::Object: one value of Python's, whichever type it has. Python: any object that pickle accepts.
//
// 16 bytes: None, bool, int, float and short text lie inside, all else in a node of the process's
// heap. Values: a copy never changes with its original. Inside, copies share their node until one
// of them changes; a node whose elements have been handed out for writing is not shared any more.
// Two threads may read one Object, as with standard containers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <iterator>
#include <millrace/object_form.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace millrace {

namespace runtime {

struct Node;
struct Access;  // the implementation's way in

template <class T>
Object make_object(T&& value);
template <class T>
T convert(const Object& from);
template <class T>
bool holds(const Object& value);

/// Text of up to this many bytes needs no node.
inline constexpr std::size_t kShortText = 14;

}  // namespace runtime

/// One value of Python's: None, bool, int of 64 bits, float, str, bytes, bytearray, list, tuple,
/// dict, set, frozenset, slice, range, complex, an exception or a handle. Implicit from these and
/// from ordinary containers of such. Equality, hash and repr are Python's. Python: object.
class Object {
 public:
  class Iterator;
  using value_type = Object;

  /// None.
  Object() noexcept = default;
  Object(const Object& other) { copy_from(other); }
  Object(Object&& other) noexcept { steal(other); }
  /// To a temporary nothing is assigned: in `o["k"] = 5` it would be lost, as o["k"] is a value.
  Object& operator=(const Object& other) & {
    if (this != &other) *this = Object(other);
    return *this;
  }
  Object& operator=(Object&& other) & noexcept {
    if (this != &other) {
      const Object old(std::move(*this));  // `other` may lie in it
      steal(other);
    }
    return *this;
  }
  ~Object() { reset(); }

  /// The value of anything that Python has a type for. Throws OverflowError for integers beyond 64
  /// bits, with sign.
  template <ObjectValue T>
  requires(!std::is_same_v<std::remove_cvref_t<T>, Object>)
      Object(T&& value)  // NOLINT(google-explicit-constructor): values become Objects
      : Object(runtime::make_object(std::forward<T>(value))) {}

  /// The value as a T. Throws TypeError when it is none, ValueError where a T would lose the value:
  /// 300 as a signed char, 2.5 as an int, a sequence of another length as a tuple.
  template <class T>
  T as() const {
    static_assert(ObjectValue<T>, "millrace: an mp::Object never holds a value of this type");
    static_assert(!std::is_pointer_v<T> && !std::is_same_v<T, std::string_view>,
                  "millrace: text comes out of an mp::Object as std::string");
    return runtime::convert<T>(*this);
  }
  /// True when the value has the type that a T has in Python: an int is a long and a short, but no
  /// double; containers are looked into.
  template <class T>
  [[nodiscard]] bool is() const {
    static_assert(ObjectValue<T>, "millrace: an mp::Object never holds a value of this type");
    return runtime::holds<T>(*this);
  }
  [[nodiscard]] bool is_none() const noexcept { return kind() == runtime::ValueKind::none; }

  /// An element: of a dict by key, of a list, tuple, str, bytes or range by index, negative from
  /// the end, or by mp::Slice. Throws KeyError, IndexError, TypeError. Python: o[key].
  Object operator[](const Object& key) const;
  /// How many elements or code points there are. Throws TypeError where there are none to count.
  /// Python: len(o).
  std::size_t size() const;
  /// Python: element in o.
  bool contains(const Object& element) const;
  /// Over what Python iterates over: a dict's keys, a str's code points. Throws TypeError.
  Iterator begin() const;
  Iterator end() const;

  /// Python: repr(o).
  [[nodiscard]] std::string repr() const;
  /// Python: str(o).
  [[nodiscard]] std::string str() const;
  /// The name of its type in Python; of an exception and a handle their class's.
  [[nodiscard]] std::string type_name() const;
  /// Equal values have equal hashes. Throws TypeError for what Python calls unhashable.
  std::size_t hash() const;
  /// 1 == 1.0 == true; a NaN equals nothing, but inside containers itself. Python: a == b.
  friend bool operator==(const Object& a, const Object& b) { return a.equals(b); }
  /// Throws TypeError for what Python does not order. Python: a < b.
  friend bool operator<(const Object& a, const Object& b) { return a.less(b); }
  friend bool operator>(const Object& a, const Object& b) { return b.less(a); }
  /// Writes str(). Python: print(o).
  friend std::ostream& operator<<(std::ostream& out, const Object& value) {
    return value.write(out);
  }

 private:
  friend struct runtime::Access;

  [[nodiscard]] runtime::ValueKind kind() const noexcept { return runtime::ValueKind(raw_[0]); }
  [[nodiscard]] bool has_node() const noexcept { return kind() > runtime::ValueKind::deferred; }
  template <class T>
  [[nodiscard]] T payload() const noexcept {
    T value;
    __builtin_memcpy(&value, raw_ + 8, sizeof value);
    return value;
  }
  void steal(Object& other) noexcept {
    __builtin_memcpy(raw_, other.raw_, sizeof raw_);
    other.raw_[0] = 0;
  }
  void copy_from(const Object& other) {
    if (other.has_node()) {
      share(other);
    } else {
      __builtin_memcpy(raw_, other.raw_, sizeof raw_);
    }
  }
  void reset() noexcept {
    if (has_node()) release();
    raw_[0] = 0;
  }
  void share(const Object& other);
  void release() noexcept;
  [[nodiscard]] bool equals(const Object& other) const;
  [[nodiscard]] bool less(const Object& other) const;
  std::ostream& write(std::ostream& out) const;

  // Kind; length of a short text; the text from byte 2 on, or 8 bytes of payload from byte 8 on.
  alignas(8) unsigned char raw_[16] = {};
};
static_assert(sizeof(Object) == 16);

/// Goes over what an Object contains. Elements that are no Objects themselves, such as code points,
/// are made as it goes: references last until the next step.
class Object::Iterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = Object;
  using difference_type = std::ptrdiff_t;
  using pointer = const Object*;
  using reference = const Object&;

  Iterator() noexcept = default;
  Iterator(const Object& container, std::size_t at) : container_(&container), at_(at) { settle(); }
  reference operator*() const noexcept { return *element_; }
  pointer operator->() const noexcept { return element_; }
  Iterator& operator++() {
    at_ += step_;
    settle();
    return *this;
  }
  void operator++(int) { ++*this; }
  friend bool operator==(const Iterator& a, const Iterator& b) noexcept { return a.at_ == b.at_; }
  Iterator(const Iterator& other) : container_(other.container_), at_(other.at_) { settle(); }
  Iterator& operator=(const Iterator& other) {
    container_ = other.container_;
    at_ = other.at_;
    settle();
    return *this;
  }
  ~Iterator() = default;

 private:
  void settle();  // finds the element at at_, or the end

  const Object* container_ = nullptr;
  std::size_t at_ = 0;    // place in the container; of a str in bytes
  std::size_t step_ = 1;  // to the next one
  const Object* element_ = nullptr;
  Object made_;
};

}  // namespace millrace

template <>
struct std::hash<millrace::Object> {
  std::size_t operator()(const millrace::Object& value) const { return value.hash(); }
};
