// Python's pickles, of values only: what an Object holds becomes the bytes that CPython's pickle
// module writes, and back. Nothing is ever called: a name in a pickle is looked up in a list of
// types that hold data (pickle_names.hpp), and what is not on it is refused.
//
// Written: protocol 4, without memo and frames. Read: protocols 0 to 5. A value that occurs twice
// in a pickle is shared until it is changed; one that contains itself is refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <millrace/object.hpp>
#include <millrace/wire/buffer.hpp>
#include <string_view>

namespace millrace::runtime {

/// What a pickle may ask of the process that reads it. Memory is at most about 100 bytes for each
/// of its own, and no length in it is believed before the bytes are there.
struct PickleLimits {
  std::size_t bytes = ~std::size_t{0};            ///< of the pickle
  std::size_t memo = std::size_t{1} << 26;        ///< entries
  std::uint64_t values = std::uint64_t{1} << 26;  ///< shared ones counted wherever they occur
  unsigned depth = 2000;                          ///< of nesting
  bool handles = false;                           ///< make them of what stands for them: may dial
};

/// Appends the pickle of a value. Strong guarantee. Throws TypeError for a handle for which nothing
/// can stand in a pickle (pickle_handles.hpp), ValueError for text that is not UTF-8 and for values
/// nested too deeply.
void pickle(wire::Writer& out, const Object& value);

/// The value of a pickle; bytes behind its end are ignored. Throws UnpicklingError for anything
/// malformed, beyond a limit or not on the list, OverflowError for an int beyond 64 bits.
Object unpickle(std::string_view bytes, const PickleLimits& limits = {});

/// The elements of an array.array of this code, of which `bytes` are the machine's values. Throws
/// UnpicklingError for what ends within one, is no code point, or has a code that none has.
List array_numbers(char typecode, std::string_view bytes);

}  // namespace millrace::runtime
