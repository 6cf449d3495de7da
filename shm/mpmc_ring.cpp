#include "shm/mpmc_ring.hpp"

#include <millrace/errors.hpp>
#include <string>

namespace millrace::shm {
namespace {

constexpr std::uint64_t kMagic = 0x32676e69726d706dULL;
constexpr std::uint64_t kMostSlots = std::uint64_t{1} << 32;

}  // namespace

void mpmc_corrupt(const void* where, std::uint64_t state) {
  throw Corrupt("MPMC ring is damaged: the slot at " +
                std::to_string(reinterpret_cast<std::uintptr_t>(where)) + " has state " +
                std::to_string(state) + ", owner " + std::to_string(state >> 2 & ((1U << 26) - 1)));
}

std::uint64_t mpmc_slot_count(std::size_t wanted) {
  if (wanted > kMostSlots) {
    throw ValueError("a ring of " + std::to_string(wanted) + " slots is too large");
  }
  return std::bit_ceil(wanted < 2 ? std::size_t{2} : wanted);
}

void mpmc_create(void* memory, std::uint64_t slot_count, std::uint64_t slot_bytes) {
  auto* header = new (memory) MpmcHeader{};
  header->slot_count = slot_count;
  header->slot_bytes = slot_bytes;
  header->magic = kMagic;
}

std::uint64_t mpmc_attach(const void* memory, std::size_t bytes, std::uint64_t slot_bytes) {
  const auto* header = static_cast<const MpmcHeader*>(memory);
  if (bytes < sizeof(MpmcHeader) || header->magic != kMagic) throw Corrupt("no MPMC ring is there");
  const std::uint64_t count = header->slot_count;
  const std::uint64_t stride = header->slot_bytes;
  if (stride != slot_bytes || !std::has_single_bit(count) || count < 2 ||
      count > (bytes - sizeof(MpmcHeader)) / (slot_bytes * mpmc_spread(slot_bytes))) {
    throw Corrupt("MPMC ring: " + std::to_string(count) + " slots of " + std::to_string(stride) +
                  " bytes do not fit " + std::to_string(bytes) + " bytes or this program's values");
  }
  return count;
}

}  // namespace millrace::shm
