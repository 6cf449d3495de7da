// What the tests of Process share: memory that children tell results in, a gate that they wait at.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <new>

#include "tests/leak_check.hpp"

namespace millrace::test {

// Memory that parent and children share, for what children tell.
template <class T>
class Shared {
 public:
  Shared()
      : at_(new (::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                        0)) T()) {}
  ~Shared() { ::munmap(at_, sizeof(T)); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  T* operator->() const { return at_; }
  T& operator*() const { return *at_; }

 private:
  T* at_;
};

// A gate that a child waits at: the read end of a pipe, readable when the parent opens it.
class Gate {
 public:
  Gate() { EXPECT_EQ(::pipe(ends_), 0); }
  ~Gate() {
    ::close(ends_[0]);
    ::close(ends_[1]);
  }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;
  void wait() const {
    char byte = 0;
    while (::read(ends_[0], &byte, 1) < 0) {
    }
  }
  void open(int times = 1) const {
    for (int i = 0; i < times; ++i) EXPECT_EQ(::write(ends_[1], "x", 1), 1);
  }

 private:
  int ends_[2];
};

inline Shared<std::atomic<int>>& told() {
  static Shared<std::atomic<int>> value;
  return value;
}

inline bool readable(int fd) {
  pollfd p{fd, POLLIN, 0};
  return ::poll(&p, 1, 0) == 1;
}

class ProcessTest : public LeakCheck {
 protected:
  void SetUp() override {
    told()->store(0);
    LeakCheck::SetUp();
  }
};

}  // namespace millrace::test
