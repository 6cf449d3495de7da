// Python's None: the value of a call that returns nothing.
#pragma once

namespace millrace {

/// The type of None. Stands for `void` where a value is needed: in imap and in Outcome.
struct NoneType {
  friend constexpr bool operator==(NoneType, NoneType) noexcept { return true; }
};

/// Python: None.
inline constexpr NoneType None{};

}  // namespace millrace
