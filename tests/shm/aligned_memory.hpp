// Memory for a ring in a test, aligned as the arena's is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

namespace millrace::shm {

class AlignedMemory {
 public:
  explicit AlignedMemory(std::size_t bytes)
      : memory_(static_cast<std::byte*>(::operator new (bytes, std::align_val_t{64}))),
        bytes_(bytes) {
    std::memset(memory_, 0xa5, bytes);  // recycled memory: contents unspecified
  }
  ~AlignedMemory() { ::operator delete (memory_, std::align_val_t{64}); }
  AlignedMemory(const AlignedMemory&) = delete;
  AlignedMemory& operator=(const AlignedMemory&) = delete;

  [[nodiscard]] std::byte* get() const { return memory_; }
  [[nodiscard]] std::size_t size() const { return bytes_; }
  /// The 64-bit word at a byte offset, to look at or to damage.
  [[nodiscard]] std::uint64_t& word(std::size_t offset) const {
    return *reinterpret_cast<std::uint64_t*>(memory_ + offset);
  }

 private:
  std::byte* memory_;
  std::size_t bytes_;
};

}  // namespace millrace::shm
