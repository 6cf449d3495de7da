// mp::dummy's manager: what a manager makes, here for the threads of this process. Its locks,
// queues and values are dummy's own; dicts, lists, sets and namespaces have the calls of the
// proxies that mp::Manager gives, without a server between. Python: multiprocessing.dummy.Manager,
// D12, D19.
#pragma once

#include <functional>
#include <initializer_list>
#include <millrace/dummy_queues.hpp>
#include <millrace/dummy_sync.hpp>
#include <millrace/dummy_values.hpp>
#include <millrace/object.hpp>
#include <millrace/proxies.hpp>
#include <millrace/thread_pool.hpp>
#include <string>
#include <utility>
#include <vector>

namespace millrace {

namespace runtime {

/// Makes an object of one of Python's types that only threads of this process may use: to send a
/// proxy to another process is TypeError, to call it in a forked child ForkedError.
ProxyRef make_thread_object(const std::string& type_id, std::vector<Object> arguments);

}  // namespace runtime

namespace dummy {

/// Attributes that threads share: `ns["x"] = 10`. A copy refers to the same ones; printed as Python
/// does, without those that begin with an underscore. Python: multiprocessing.dummy.Namespace.
class Namespace : public NamespaceProxy {
 public:
  Namespace() : NamespaceProxy(runtime::make_thread_object("Namespace", {})) {}
  Namespace(std::initializer_list<Dict::Item> attributes)
      : NamespaceProxy(runtime::make_thread_object("Namespace", {Object(Dict(attributes))})) {}
};

/// Python: multiprocessing.dummy.Manager, which gives the module itself. Nothing to start or stop.
class Manager {
 public:
  [[nodiscard]] DictProxy dict() const { return make<DictProxy>("dict", Dict()); }
  [[nodiscard]] DictProxy dict(std::initializer_list<Dict::Item> items) const {
    return make<DictProxy>("dict", Dict(items));
  }
  [[nodiscard]] DictProxy dict(const Object& items) const { return make<DictProxy>("dict", items); }
  [[nodiscard]] ListProxy list() const { return make<ListProxy>("list", List()); }
  [[nodiscard]] ListProxy list(std::initializer_list<Object> items) const {
    return make<ListProxy>("list", List(items));
  }
  /// The elements of any range.
  template <runtime::RangeOfObjects R>
  [[nodiscard]] ListProxy list(R&& range) const {
    return make<ListProxy>("list", List(std::forward<R>(range)));
  }
  [[nodiscard]] ListProxy list(const Object& items) const { return make<ListProxy>("list", items); }
  [[nodiscard]] SetProxy set() const { return make<SetProxy>("set", List()); }
  [[nodiscard]] SetProxy set(std::initializer_list<Object> items) const {
    return make<SetProxy>("set", List(items));
  }
  [[nodiscard]] SetProxy set(const Object& items) const { return make<SetProxy>("set", items); }
  [[nodiscard]] dummy::Namespace Namespace() const { return {}; }
  [[nodiscard]] dummy::Namespace Namespace(std::initializer_list<Dict::Item> attributes) const {
    return {attributes};
  }

  [[nodiscard]] dummy::Lock Lock() const { return {}; }
  [[nodiscard]] dummy::RLock RLock() const { return {}; }
  [[nodiscard]] dummy::Semaphore Semaphore(long value = 1) const { return dummy::Semaphore(value); }
  [[nodiscard]] dummy::BoundedSemaphore BoundedSemaphore(long value = 1) const {
    return dummy::BoundedSemaphore(value);
  }
  [[nodiscard]] dummy::Condition Condition() const { return {}; }
  template <class L>
  [[nodiscard]] dummy::Condition Condition(const L& lock) const {
    return dummy::Condition(lock);
  }
  [[nodiscard]] dummy::Event Event() const { return {}; }
  [[nodiscard]] dummy::Barrier Barrier(int parties, std::function<void()> action = {},
                                       Timeout timeout = {}) const {
    return dummy::Barrier(parties, std::move(action), timeout);
  }
  template <class T>
  [[nodiscard]] dummy::Queue<T> Queue(int maxsize = 0) const {
    return dummy::Queue<T>(maxsize);
  }
  template <class T>
  [[nodiscard]] dummy::JoinableQueue<T> JoinableQueue(int maxsize = 0) const {
    return dummy::Queue<T>(maxsize);
  }
  template <class T>
  [[nodiscard]] dummy::Value<T> Value(T value) const {
    return dummy::Value<T>(std::move(value));
  }
  template <class T, class R>
  [[nodiscard]] dummy::Array<T> Array(R&& items) const {
    return dummy::Array<T>(std::forward<R>(items));
  }
  [[nodiscard]] ThreadPool Pool(int processes) const { return ThreadPool(processes); }
  void shutdown() const noexcept {}

 private:
  template <class P>
  static P make(const char* type_id, Object items) {
    return P(runtime::make_thread_object(type_id, {std::move(items)}));
  }
};

}  // namespace dummy
}  // namespace millrace
