// What the tests share that end the user of a ring at every instruction.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstddef>
#include <new>

#include "tests/stress/step_kill.hpp"

namespace millrace::stress {

// Memory that the victim shares.
class SharedMemory {
 public:
  explicit SharedMemory(std::size_t bytes)
      : bytes_(bytes),
        memory_(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
  }
  ~SharedMemory() { ::munmap(memory_, bytes_); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  [[nodiscard]] void* get() const { return memory_; }

 private:
  std::size_t bytes_;
  void* memory_;
};

// Every case covers at least this many kills, or it tested something else than it says.
inline constexpr long kFewest = 10;

inline void expect_unbroken(const StepKillResult& result) {
  EXPECT_EQ(result.broken, 0);
  EXPECT_GE(result.kills, kFewest);
  EXPECT_GT(result.instructions, 0) << "the operation did not come to its end";
  ::testing::Test::RecordProperty("kills", static_cast<int>(result.kills));
}

}  // namespace millrace::stress
