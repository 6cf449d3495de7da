// The separable part of the throw traces: a __cxa_throw that takes a note and goes on to the real
// one. It also sees what libstdc++ itself throws. Not for programs linked with -static-libstdc++ or
// -static: they have a __cxa_throw of their own, and nothing for RTLD_NEXT to find.
#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <typeinfo>

extern "C" {

// Weak: a program may use nothing of millrace that brings it along.
[[gnu::weak]] void millrace_note_throw(const void* object, const std::type_info* type) noexcept;

// AddressSanitizer's own __cxa_throw does this; where this one takes its place it must, too.
[[gnu::weak]] void __asan_handle_no_return();

// What the link option of millrace::throw_trace asks for, so that this file is taken in.
extern const int millrace_throw_hook;
const int millrace_throw_hook = 1;

[[gnu::visibility("default"), noreturn]] void __cxa_throw(void* object, std::type_info* type,
                                                          void (*destroy)(void*));

void __cxa_throw(void* object, std::type_info* type, void (*destroy)(void*)) {
  using Throw = void (*)(void*, std::type_info*, void (*)(void*));
  // relaxed: the same value whoever stores it; the function itself is immutable code.
  static std::atomic<Throw> real{nullptr};
  Throw next = real.load(std::memory_order_relaxed);
  if (next == nullptr) {
    next = reinterpret_cast<Throw>(::dlsym(RTLD_NEXT, "__cxa_throw"));
    if (next == nullptr) std::abort();
    real.store(next, std::memory_order_relaxed);
  }
  if (millrace_note_throw != nullptr) millrace_note_throw(object, type);
  if (__asan_handle_no_return != nullptr) __asan_handle_no_return();
  next(object, type, destroy);
  __builtin_unreachable();
}

}  // extern "C"
