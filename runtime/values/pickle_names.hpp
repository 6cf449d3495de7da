// The names that a pickle may refer to.
#pragma once

#include <string_view>

namespace millrace::runtime {

/// What becomes of a call of a name.
enum class Callable : unsigned char {
  refused,
  slice,
  list,
  set,
  frozenset,
  range,
  complex,
  bytes,
  bytearray,
  encode,  // _codecs.encode: how protocols before 3 write bytes
  array,
  exception,
  opaque  // kept as it is, and written again unchanged
};

struct PickleName {
  std::string_view module;  // as CPython 3 spells it
  std::string_view name;
  Callable callable;
};

/// Knows the names of CPython 2 too, which protocols 0 to 2 use.
PickleName find_name(std::string_view module, std::string_view name) noexcept;

}  // namespace millrace::runtime
