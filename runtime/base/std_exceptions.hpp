// The exception types that need no declaration.
#pragma once

namespace millrace::runtime {

/// Adds the carriers of errors.hpp's and the standard library's exceptions; true.
bool declare_known_exceptions();

}  // namespace millrace::runtime
