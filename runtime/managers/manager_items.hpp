// What list, dict and set of a manager have in common: items under a lock.
#pragma once

#include <mutex>
#include <string>
#include <utility>

#include "runtime/managers/manager_referent.hpp"

namespace millrace::runtime {

/// A referent that keeps one container of Python's values. What it gives back shares nodes with it.
template <class Self, class Items>
class ItemsReferent : public TableReferent<Self> {
 public:
  explicit ItemsReferent(Items items) : items_(std::move(items)) {}
  std::string repr() override { return copy().repr(); }
  Object value(const ManagerCaller&) override { return Object(copy()); }
  std::size_t size() {
    const std::scoped_lock guard(mutex_);
    return items_.size();
  }

  ManagerAnswer len(ManagerCall& call) {
    call.bind({});
    return size();
  }
  ManagerAnswer clear(ManagerCall& call) {
    call.bind({});
    Items old;  // destroyed without the lock
    const std::scoped_lock guard(mutex_);
    std::swap(old, items_);
    return {};
  }
  ManagerAnswer copied(ManagerCall& call) {
    call.bind({});
    return Object(copy());
  }

 protected:
  Items copy() {
    const std::scoped_lock guard(mutex_);
    return items_;
  }

  std::mutex mutex_;
  Items items_;
};

}  // namespace millrace::runtime
