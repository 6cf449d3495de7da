// Where an exception was thrown: the stack at the throw, kept until the exception is reported.
//
// runtime/base/throw_trace_hook.cpp, a library of its own (millrace::throw_trace), defines
// __cxa_throw and calls millrace_note_throw() here. Where it is not linked nothing is ever noted
// and every text is empty: documented outcome, e.g. for -static-libstdc++, which has a __cxa_throw
// of its own.
//
// Notes are kept per thread, for the last few throws of that thread, and only inside a
// ThrowTraceScope, so a program's own exceptions cost one look at a thread-local flag.
#pragma once

#include <exception>
#include <string>
#include <typeinfo>

namespace millrace::runtime {

/// Notes throws of this thread while it lives; frames outside of it are left out. Nests.
class ThrowTraceScope {
 public:
  ThrowTraceScope() noexcept;
  ~ThrowTraceScope();
  ThrowTraceScope(const ThrowTraceScope&) = delete;
  ThrowTraceScope& operator=(const ThrowTraceScope&) = delete;

 private:
  const void* outer_;
};

/// The stack of the throw, innermost frame first, one a line: "  at function (module+0xoffset)\n".
/// "" outside of a scope, and if this thread noted nothing for it or too many other throws since.
std::string throw_trace_text(const std::exception_ptr& error);

/// True when the hook is linked into this program.
bool throw_trace_linked() noexcept;

}  // namespace millrace::runtime

/// For the hook only: a throw of `object` is about to start.
extern "C" void millrace_note_throw(const void* object, const std::type_info* type) noexcept;
