// A small ring with both its ends in one thread, and messages for it.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <vector>

#include "shm/spsc_ring.hpp"
#include "tests/shm/aligned_memory.hpp"

namespace millrace::shm {

inline constexpr std::size_t kHeader = 256;  // bytes before the first line

class SpscRingTest : public ::testing::Test {
 protected:
  explicit SpscRingTest(SpscGeometry geometry = {4, 1024})
      : memory(SpscRing::bytes_for(geometry)), ring(SpscRing::create(memory.get(), geometry)) {}

  std::uint64_t& control(std::size_t line) { return memory.word(kHeader + 128 * line); }

  AlignedMemory memory;
  SpscRing ring;
  SpscRing::Producer producer{ring};
  SpscRing::Consumer consumer{ring};
};

inline std::vector<std::uint8_t> pattern(std::size_t bytes, unsigned seed) {
  std::vector<std::uint8_t> data(bytes);
  std::iota(data.begin(), data.end(), static_cast<std::uint8_t>(seed));
  return data;
}

template <class T>
bool push_value(SpscRing::Producer& producer, T value, Publish when = Publish::now) {
  return producer.try_push(&value, sizeof value, when);
}

}  // namespace millrace::shm
