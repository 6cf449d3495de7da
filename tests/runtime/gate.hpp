// A place where threads of a test wait until they are all let through.
#pragma once

#include <condition_variable>
#include <mutex>

namespace millrace::test {

// Where calls of user code wait, unseen by the server.
class Gate {
 public:
  void pass() {
    std::unique_lock guard(mutex_);
    ++inside_;
    changed_.notify_all();
    changed_.wait(guard, [this] { return open_; });
  }
  void open() {
    const std::scoped_lock guard(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void await(int count) {
    std::unique_lock guard(mutex_);
    changed_.wait(guard, [&] { return inside_ >= count; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  int inside_ = 0;
};

}  // namespace millrace::test
