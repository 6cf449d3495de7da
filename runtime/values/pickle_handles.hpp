// Handles in pickles: what stands for them there, for those types that another program can use.
#pragma once

#include <millrace/object.hpp>
#include <string_view>

namespace millrace::runtime {

/// How handles of one type are pickled. Entries live for ever.
struct HandlePickler {
  std::string_view type;                   // as HandleOps::type
  Object (*reduce)(const Object& handle);  // what to pickle instead; throws TypeError
  const HandlePickler* next = nullptr;
};
/// For static initialisers and later.
void add_handle_pickler(HandlePickler& entry) noexcept;

/// How values that CPython makes by calling `name` become handles again.
struct HandleRebuilder {
  std::string_view name;
  Object (*rebuild)(Object made);  // gives `made` back where it is none after all
  const HandleRebuilder* next = nullptr;
};
void add_handle_rebuilder(HandleRebuilder& entry) noexcept;

/// Throws TypeError for a handle that means nothing to another program.
Object python_of_handle(const Object& handle);
/// The handle that a made value stands for, or the value itself.
Object handle_of_python(Object made);

}  // namespace millrace::runtime
