// Which addresses mean nothing in another process, and the check of callables whose bytes travel.

#include <cstring>
#include <millrace/errors.hpp>
#include <millrace/function.hpp>
#include <string>
#include <system_error>

#include "runtime/base/memory_map.hpp"
#include "shm/arena.hpp"
#include "shm/message_scope.hpp"

namespace millrace::runtime {
namespace {

// No process maps anything below; user space ends below the other.
constexpr std::uintptr_t kLowest = 0x10000;
constexpr std::uintptr_t kHighest = std::uintptr_t{1} << 48;
// Programs that are linked at a fixed address have code and heap below this, among the values that
// ordinary numbers take.
constexpr std::uintptr_t kAmongNumbers = std::uintptr_t{1} << 32;
constexpr std::uintptr_t kAllocationAlignment = 16;

std::string hexadecimal(std::uintptr_t value) {
  std::string text;
  for (; value != 0; value /= 16) text.insert(text.begin(), "0123456789abcdef"[value % 16]);
  return "0x" + text;
}

[[noreturn]] void refuse(std::size_t word, std::uintptr_t value, bool in_itself,
                         std::string_view type) {
  throw TypeError(
      "the callable " + std::string(type) + " cannot travel to another process: its word " +
      std::to_string(word) + " holds " + hexadecimal(value) + ", an address " +
      (in_itself ? "inside the object itself" : "in this process's private memory") +
      " (a capture by reference, a pointer, a std::string or a container, or what an optional left "
      "unset); capture plain values, handles or arena memory only, or pass the values as "
      "arguments with mp::partial(f, values...)");
}

}  // namespace

bool is_private_address(const void* address) noexcept {
  const auto value = reinterpret_cast<std::uintptr_t>(address);
  if (value < kLowest || value >= kHighest) return false;
  if (shm::Arena::contains(address)) return false;
  if (!is_mapped(address)) return false;
  try {
    const auto mapping = find_mapping(address);
    return !mapping || (mapping->accessible && !mapping->shared);
  } catch (const std::bad_alloc&) {
    return true;
  }
}

void check_captures(const void* object, std::size_t bytes, const char* type_name,
                    std::size_t type_name_bytes) {
  constexpr std::size_t kWord = sizeof(std::uintptr_t);
  const auto begin = reinterpret_cast<std::uintptr_t>(object);
  const auto* const data = static_cast<const unsigned char*>(object);
  for (std::size_t at = (kWord - begin % kWord) % kWord; at + kWord <= bytes; at += kWord) {
    std::uintptr_t value = 0;
    std::memcpy(&value, data + at, kWord);
    const bool in_itself = value - begin < bytes;
    if (!in_itself) {
      if (value < kAmongNumbers && value % kAllocationAlignment != 0) continue;
      if (!is_private_address(reinterpret_cast<const void*>(value))) continue;
    }
    refuse(at / kWord, value, in_itself, {type_name, type_name_bytes});
  }
}

void* arena_allocate(std::size_t bytes) {
  shm::InMessage::expect_block();
  void* const block = shm::Arena::instance().allocate(bytes);
  shm::InMessage::add_block({block, bytes});
  return block;
}

void arena_deallocate(void* block) noexcept {
  shm::InMessage::remove_block(block);
  shm::Arena::instance().deallocate(block);
}

}  // namespace millrace::runtime
