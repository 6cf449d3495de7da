// Exceptions on the wire: what a worker or child sends instead of a result.
#pragma once

#include <exception>
#include <millrace/exceptions.hpp>
#include <string>
#include <typeinfo>

namespace millrace::runtime {

/// Writes an exception so that decode_exception() rebuilds it in any process of the program: its
/// own type if that is the library's, a standard one or declared by MILLRACE_EXCEPTION, RemoteError
/// otherwise, also for things that are no std::exception. With it go the stack of the throw, where
/// throw_trace is linked, and any trace it already had. A payload that fails to encode becomes
/// MaybeEncodingError. Throws only what the writer throws when it cannot grow.
void encode_exception(wire::Writer& out, const std::exception_ptr& error);

/// Rebuilds what encode_exception() wrote; never null. A message that cannot be understood becomes
/// a RemoteError that says so.
std::exception_ptr decode_exception(wire::Reader& in);

/// The type's name as written in C++.
std::string demangle(const char* mangled);
inline std::string demangle(const std::type_info& type) { return demangle(type.name()); }

/// The exception as an uncaught one is reported: "type: what", its causes, each on a line.
std::string describe_exception(const std::exception_ptr& error);

}  // namespace millrace::runtime
