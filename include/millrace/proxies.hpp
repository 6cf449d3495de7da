// Proxies of SyncManager's types: the referents' methods as Python's proxies have them, with the
// errors of Python's referents (threading's, for locks). X11, G13-G28.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <millrace/lock_proxies.hpp>
#include <millrace/proxy.hpp>
#include <millrace/timeout.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace millrace {

namespace runtime {

/// Iterates over a copy.
class CopyIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = Object;
  using difference_type = std::ptrdiff_t;
  using pointer = const Object*;
  using reference = const Object&;

  CopyIterator() = default;
  explicit CopyIterator(List items) : items_(std::move(items)) {}
  reference operator*() const { return items_[static_cast<std::ptrdiff_t>(at_)]; }
  pointer operator->() const { return &**this; }
  CopyIterator& operator++() {
    ++at_;
    return *this;
  }
  void operator++(int) { ++at_; }
  friend bool operator==(const CopyIterator& a, const CopyIterator& b) noexcept {
    return a.left() == b.left();
  }

 private:
  [[nodiscard]] std::size_t left() const noexcept { return items_.size() - at_; }
  List items_;
  std::size_t at_ = 0;
};

}  // namespace runtime

/// Goes on in the server. Python: IteratorProxy.
class IteratorProxy : public BaseProxy {
 public:
  using BaseProxy::BaseProxy;
  /// The next element; none at the end. std::runtime_error when the dict has changed its size.
  [[nodiscard]] std::optional<Object> next() const;
};

/// Python: ListProxy. Indices count from the end if negative; IndexError out of range.
class ListProxy : public BaseProxy {
 public:
  using BaseProxy::BaseProxy;
  using value_type = Object;

  [[nodiscard]] ProxyItem operator[](std::ptrdiff_t i) const {
    return {*this, Object(i), {"__getitem__", "__setitem__"}};
  }
  [[nodiscard]] Object at(std::ptrdiff_t i) const { return call("__getitem__", i); }
  [[nodiscard]] std::size_t size() const { return call<std::size_t>("__len__"); }
  [[nodiscard]] bool empty() const { return size() == 0; }
  [[nodiscard]] bool contains(const Object& value) const {
    return call<bool>("__contains__", value);
  }
  /// Python: l[first:last], and assigning to it.
  [[nodiscard]] List slice(const Object& first, const Object& last) const {
    return call<List>("__getitem__", Slice(first, last));
  }
  void slice(const Object& first, const Object& last, std::initializer_list<Object> values) const {
    call("__setitem__", Slice(first, last), List(values));
  }
  void slice(const Object& first, const Object& last, const Object& values) const {
    call("__setitem__", Slice(first, last), values);
  }
  /// Python: del l[i].
  void erase(std::ptrdiff_t i) const { call("__delitem__", i); }
  void erase(const Object& first, const Object& last) const {
    call("__delitem__", Slice(first, last));
  }
  template <class T>
  void append(T&& value) const {
    call("append", std::forward<T>(value));
  }
  void extend(std::initializer_list<Object> values) const { call("extend", List(values)); }
  void extend(const Object& values) const { call("extend", values); }
  template <class T>
  void insert(std::ptrdiff_t i, T&& value) const {
    call("insert", i, std::forward<T>(value));
  }
  Object pop(std::ptrdiff_t i = -1) const { return call("pop", i); }
  /// ValueError when there is none.
  void remove(const Object& value) const { call("remove", value); }
  [[nodiscard]] std::size_t index(const Object& value) const {
    return call<std::size_t>("index", value);
  }
  [[nodiscard]] std::size_t count(const Object& value) const {
    return call<std::size_t>("count", value);
  }
  void reverse() const { call("reverse"); }
  void sort() const { call("sort"); }
  /// Without its elements. Not of CPython's servers before 3.14, as copy().
  void clear() const { call("clear"); }
  [[nodiscard]] List copy() const { return call<List>("copy"); }
  /// Python: l + values, l * n, l *= n.
  friend List operator+(const ListProxy& list, const Object& values) {
    return list.call<List>("__add__", values);
  }
  friend List operator*(const ListProxy& list, std::int64_t n) {
    return list.call<List>("__mul__", n);
  }
  friend List operator*(std::int64_t n, const ListProxy& list) {
    return list.call<List>("__rmul__", n);
  }
  const ListProxy& operator+=(const Object& values) const {
    extend(values);
    return *this;
  }
  const ListProxy& operator*=(std::int64_t n) const {
    call("__imul__", n);
    return *this;
  }
  /// Python: list(reversed(l)).
  [[nodiscard]] List reversed() const;
  /// Over a copy.
  [[nodiscard]] runtime::CopyIterator begin() const {
    return runtime::CopyIterator(slice(None, None));
  }
  [[nodiscard]] runtime::CopyIterator end() const { return {}; }
};

/// Python: DictProxy. KeyError for missing keys, TypeError for unhashable ones.
class DictProxy : public BaseProxy {
 public:
  using BaseProxy::BaseProxy;
  using value_type = Object;

  template <class K>
  requires std::constructible_from<Object, K>
  [[nodiscard]] ProxyItem operator[](K&& key) const {
    return {*this, Object(std::forward<K>(key)), {"__getitem__", "__setitem__"}};
  }
  [[nodiscard]] Object at(const Object& key) const { return call("__getitem__", key); }
  [[nodiscard]] std::size_t size() const { return call<std::size_t>("__len__"); }
  [[nodiscard]] bool empty() const { return size() == 0; }
  [[nodiscard]] bool contains(const Object& key) const { return call<bool>("__contains__", key); }
  Object get(const Object& key, const Object& otherwise = {}) const {
    return call("get", key, otherwise);
  }
  Object setdefault(const Object& key, const Object& value = {}) const {
    return call("setdefault", key, value);
  }
  void update(std::initializer_list<Dict::Item> items) const { call("update", Dict(items)); }
  void update(const Object& items) const { call("update", items); }
  /// Python: del d[key].
  void erase(const Object& key) const { call("__delitem__", key); }
  Object pop(const Object& key) const { return call("pop", key); }
  Object pop(const Object& key, const Object& otherwise) const {
    return call("pop", key, otherwise);
  }
  /// The newest key and its value.
  std::pair<Object, Object> popitem() const { return call<std::pair<Object, Object>>("popitem"); }
  void clear() const { call("clear"); }
  [[nodiscard]] Dict copy() const { return call<Dict>("copy"); }
  [[nodiscard]] List keys() const { return call<List>("keys"); }
  [[nodiscard]] List values() const { return call<List>("values"); }
  [[nodiscard]] std::vector<Dict::Item> items() const {
    return call<std::vector<Dict::Item>>("items");
  }
  /// An iterator in the server. Python: iter(d).
  [[nodiscard]] IteratorProxy iter() const { return call<IteratorProxy>("__iter__"); }
  /// Over a copy of the keys.
  [[nodiscard]] runtime::CopyIterator begin() const { return runtime::CopyIterator(keys()); }
  [[nodiscard]] runtime::CopyIterator end() const { return {}; }
};

/// Python: SetProxy, of 3.14.
class SetProxy : public BaseProxy {
 public:
  using BaseProxy::BaseProxy;
  using value_type = Object;

  [[nodiscard]] std::size_t size() const { return call<std::size_t>("__len__"); }
  [[nodiscard]] bool empty() const { return size() == 0; }
  [[nodiscard]] bool contains(const Object& value) const {
    return call<bool>("__contains__", value);
  }
  void add(const Object& value) const { call("add", value); }
  void discard(const Object& value) const { call("discard", value); }
  /// KeyError when it is not there.
  void remove(const Object& value) const { call("remove", value); }
  void erase(const Object& value) const { discard(value); }
  /// KeyError when it is empty.
  Object pop() const { return call("pop"); }
  void clear() const { call("clear"); }
  [[nodiscard]] Set copy() const { return call<Set>("copy"); }
  void update(const Object& values) const { call("update", values); }
  [[nodiscard]] Set unite(const Object& values) const { return call<Set>("union", values); }
  [[nodiscard]] Set intersection(const Object& values) const {
    return call<Set>("intersection", values);
  }
  [[nodiscard]] Set difference(const Object& values) const {
    return call<Set>("difference", values);
  }
  [[nodiscard]] Set symmetric_difference(const Object& values) const {
    return call<Set>("symmetric_difference", values);
  }
  [[nodiscard]] bool issubset(const Object& values) const { return call<bool>("issubset", values); }
  [[nodiscard]] bool issuperset(const Object& values) const {
    return call<bool>("issuperset", values);
  }
  [[nodiscard]] bool isdisjoint(const Object& values) const {
    return call<bool>("isdisjoint", values);
  }
};

/// ns["x"] = 1. AttributeError for missing names. Python: NamespaceProxy.
class NamespaceProxy : public BaseProxy {
 public:
  using BaseProxy::BaseProxy;
  [[nodiscard]] ProxyItem operator[](const std::string& name) const {
    return {*this, Object(name), {"__getattribute__", "__setattr__"}};
  }
  /// Python: del ns.name.
  void erase(const std::string& name) const { call("__delattr__", name); }
};

/// Python: ValueProxy.
class ValueProxy : public BaseProxy {
 public:
  using BaseProxy::BaseProxy;
  template <class T = Object>
  [[nodiscard]] T get() const {
    return call<T>("get");
  }
  template <class T>
  void set(T&& value) const {
    call("set", std::forward<T>(value));
  }
};

/// Python: ArrayProxy. IndexError out of range; TypeError and ValueError for elements of another
/// type.
class ArrayProxy : public BaseProxy {
 public:
  using BaseProxy::BaseProxy;
  using value_type = Object;

  [[nodiscard]] ProxyItem operator[](std::ptrdiff_t i) const {
    return {*this, Object(i), {"__getitem__", "__setitem__"}};
  }
  [[nodiscard]] std::size_t size() const { return call<std::size_t>("__len__"); }
  [[nodiscard]] List slice(const Object& first, const Object& last) const {
    return call<List>("__getitem__", Slice(first, last));
  }
  void slice(const Object& first, const Object& last, const Object& values) const {
    call("__setitem__", Slice(first, last), values);
  }
  [[nodiscard]] runtime::CopyIterator begin() const {
    return runtime::CopyIterator(slice(None, None));
  }
  [[nodiscard]] runtime::CopyIterator end() const { return {}; }
};

/// Of Queue and JoinableQueue, which are Python's queue.Queue: an item is there when put returns.
/// Python: the proxy of SyncManager.Queue.
class QueueProxy : public BaseProxy {
 public:
  using BaseProxy::BaseProxy;
  /// queue::Full when there was no room in time.
  template <class T>
  void put(T&& item, Timeout timeout = {}) const {
    call("put", std::forward<T>(item), true, runtime::seconds_of(timeout));
  }
  template <class T>
  void put_nowait(T&& item) const {
    call("put_nowait", std::forward<T>(item));
  }
  /// queue::Empty when nothing came in time.
  template <class T = Object>
  T get(Timeout timeout = {}) const {
    return call<T>("get", true, runtime::seconds_of(timeout));
  }
  template <class T = Object>
  T get_nowait() const {
    return call<T>("get_nowait");
  }
  [[nodiscard]] std::size_t qsize() const { return call<std::size_t>("qsize"); }
  [[nodiscard]] bool empty() const { return call<bool>("empty"); }
  [[nodiscard]] bool full() const { return call<bool>("full"); }
  /// ValueError when called too often.
  void task_done() const { call("task_done"); }
  void join() const { call("join"); }
};

namespace runtime {

template <>
inline constexpr const char* kProxyClass<IteratorProxy> = "IteratorProxy";
template <>
inline constexpr const char* kProxyClass<ListProxy> = "ListProxy";
template <>
inline constexpr const char* kProxyClass<DictProxy> = "DictProxy";
template <>
inline constexpr const char* kProxyClass<SetProxy> = "SetProxy";
template <>
inline constexpr const char* kProxyClass<NamespaceProxy> = "NamespaceProxy";
template <>
inline constexpr const char* kProxyClass<ValueProxy> = "ValueProxy";
template <>
inline constexpr const char* kProxyClass<ArrayProxy> = "ArrayProxy";

}  // namespace runtime
}  // namespace millrace
