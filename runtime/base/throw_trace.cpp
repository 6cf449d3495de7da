#include "runtime/base/throw_trace.hpp"

#include <cxxabi.h>
#include <unwind.h>

#include <array>
#include <cstdint>
#include <cstring>

#include "runtime/base/exceptions.hpp"
#include "runtime/base/symbols.hpp"

extern "C" [[gnu::weak]] const int millrace_throw_hook;

namespace millrace::runtime {
namespace {

constexpr int kFrames = 32;
constexpr std::size_t kNotes = 4;  // throws inside destructors and handlers must not erase it

struct Note {
  const void* object = nullptr;
  const std::type_info* type = nullptr;
  int frame_count = 0;
  std::array<std::uintptr_t, kFrames> frames{};
};

// Touched by its own thread only.
struct Notes {
  const void* scope = nullptr;  // frame address of the outermost ThrowTraceScope's maker; null: off
  std::size_t next = 0;
  std::array<Note, kNotes> notes{};
};

constinit thread_local Notes t_notes;

struct Walk {
  Note& note;
  std::uintptr_t limit;
  int skip;
};

_Unwind_Reason_Code step(_Unwind_Context* context, void* argument) {
  auto& walk = *static_cast<Walk*>(argument);
  if (walk.note.frame_count == kFrames || _Unwind_GetCFA(context) > walk.limit) {
    return _URC_END_OF_STACK;
  }
  if (walk.skip > 0) {
    --walk.skip;
  } else if (const std::uintptr_t address = _Unwind_GetIP(context); address != 0) {
    // A return address may already belong to the next function; the call itself does not.
    walk.note.frames[static_cast<std::size_t>(walk.note.frame_count++)] = address - 1;
  }
  return _URC_NO_REASON;
}

// An exception_ptr is one pointer, to the thrown object, in libstdc++ as in libc++.
const void* object_of(const std::exception_ptr& error) noexcept {
  static_assert(sizeof(std::exception_ptr) == sizeof(void*));
  const void* object = nullptr;
  std::memcpy(&object, &error, sizeof object);
  return object;
}

const std::type_info* type_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (...) {
    return abi::__cxa_current_exception_type();
  }
}

}  // namespace

[[gnu::hot]] ThrowTraceScope::ThrowTraceScope() noexcept : outer_(t_notes.scope) {
  if (outer_ == nullptr) t_notes.scope = __builtin_frame_address(0);
}

[[gnu::hot]] ThrowTraceScope::~ThrowTraceScope() {
  t_notes.scope = outer_;
  if (outer_ != nullptr) return;
  // Addresses are used again: a note must not outlive what it may be asked for.
  for (Note& note : t_notes.notes) note.object = nullptr;
}

std::string throw_trace_text(const std::exception_ptr& error) {
  std::string text;
  if (error == nullptr || t_notes.scope == nullptr) return text;
  // The type tells apart a noted object and one made without a throw at its former address.
  const void* object = object_of(error);
  const std::type_info* type = type_of(error);
  for (const Note& note : t_notes.notes) {
    if (note.object != object || note.type != type) continue;
    for (int i = 0; i < note.frame_count; ++i) {
      text += "  at " + describe_address(note.frames[static_cast<std::size_t>(i)]) + "\n";
    }
    break;
  }
  return text;
}

bool throw_trace_linked() noexcept { return &millrace_throw_hook != nullptr; }

}  // namespace millrace::runtime

extern "C" void millrace_note_throw(const void* object, const std::type_info* type) noexcept {
  using namespace millrace::runtime;
  Notes& mine = t_notes;
  if (mine.scope == nullptr) return;
  for (Note& note : mine.notes) {
    if (note.object == object) note.object = nullptr;  // freed, and its address used again
  }
  Note& note = mine.notes[mine.next++ % kNotes];
  note.object = object;
  note.type = type;
  note.frame_count = 0;
  Walk walk{note, reinterpret_cast<std::uintptr_t>(mine.scope) + 16, 2};
  _Unwind_Backtrace(&step, &walk);
}
