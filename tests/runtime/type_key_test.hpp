// What another file of the program thinks of types.
#pragma once

#include <compare>
#include <cstdint>
#include <string_view>

namespace millrace {
class Object;
}

namespace millrace::test {

struct TypeNumbers {
  std::string_view key;
  std::uint64_t hash;
  std::uint64_t object;
  bool operator==(const TypeNumbers&) const = default;
};

TypeNumbers queue_numbers_elsewhere();
TypeNumbers vector_numbers_elsewhere();
bool holds_queue_elsewhere(const Object& value);

}  // namespace millrace::test
