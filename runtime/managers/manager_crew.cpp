#include "runtime/managers/manager_crew.hpp"

#include <algorithm>
#include <exception>
#include <thread>
#include <utility>

#include "runtime/managers/manager_talk.hpp"

namespace millrace::runtime {

void ManagerCrew::give(Task task) {
  const std::scoped_lock guard(mutex_);
  if (!idle_.empty()) {
    Worker& worker = *idle_.back();
    idle_.pop_back();
    worker.task = std::move(task);
    worker.wake.notify_one();  // under the lock: it does not end meanwhile
    return;
  }
  queue_.push_back(std::move(task));
  crowded_.store(true, std::memory_order_relaxed);  // a hint
  if (may_start()) start();
}

bool ManagerCrew::may_start() const noexcept {
  // relaxed: a number that changes at any time; look() comes by when it was too large
  return threads_ < kAtWork + idle_.size() + aside_.load(std::memory_order_relaxed);
}

ManagerCrew::Task ManagerCrew::take() noexcept {
  Task task = std::move(queue_.front());
  queue_.pop_front();
  crowded_.store(!queue_.empty(), std::memory_order_relaxed);  // a hint
  return task;
}

// Without a thread the queue stays as it is, for look() or for the next one that ends its turn.
void ManagerCrew::start() noexcept {
  try {
    // What the thread was made with lives as long as it does: the task is moved out of there.
    std::thread([this, task = queue_.front()]() mutable { work(std::move(task)); }).detach();
    ++threads_;
    static_cast<void>(take());
  } catch (const std::exception&) {
    static_cast<void>(0);  // no thread, or no memory for one
  }
}

void ManagerCrew::stand_aside(bool on) noexcept {
  // relaxed: as in may_start()
  aside_.fetch_add(on ? std::size_t{1} : ~std::size_t{0}, std::memory_order_relaxed);
  if (!on || !crowded()) return;
  const std::scoped_lock guard(mutex_);
  if (!queue_.empty() && may_start()) start();
}

void ManagerCrew::look() noexcept {
  const std::scoped_lock guard(mutex_);
  if (!queue_.empty() && (may_start() || turns_ == looked_)) start();
  looked_ = turns_;
}

void ManagerCrew::work(Task task) {
  Worker me;
  std::unique_lock guard(mutex_, std::defer_lock);
  while (task != nullptr) {
    const bool again = turn_(task);
    if (!again) task.reset();  // may be the last one who knows it
    guard.lock();
    ++turns_;
    if (again) queue_.push_back(std::move(task));
    task = next(me, guard);
    if (task == nullptr) break;
    guard.unlock();
  }
  --threads_;
  if (threads_ == 0) ended_.notify_all();  // under the lock: who waits may destroy all this
}

ManagerCrew::Task ManagerCrew::next(Worker& me, std::unique_lock<std::mutex>& guard) {
  if (!queue_.empty()) return take();
  if (dismissed_) return nullptr;
  idle_.push_back(&me);
  const auto called = [&] { return me.task != nullptr || dismissed_; };
  while (!called()) {
    if (idle_.size() <= kKept) {
      me.wake.wait(guard, called);
    } else if (!me.wake.wait_for(guard, kIdle, called) && idle_.size() > kKept) {
      break;
    }
  }
  if (me.task == nullptr) std::erase(idle_, &me);
  return std::move(me.task);
}

void ManagerCrew::dismiss() {
  std::unique_lock guard(mutex_);
  dismissed_ = true;
  for (Worker* const each : idle_) each->wake.notify_one();
  ended_.wait(guard, [this] { return threads_ == 0; });
}

}  // namespace millrace::runtime
