// Values of Python's that this library makes nothing of: names, and what CPython makes by calling
// them.
#pragma once

#include <millrace/object.hpp>
#include <optional>
#include <string_view>

namespace millrace::runtime {

/// What CPython makes by calling `module.name` with these arguments; pickled so, never called here.
Object made_by_python(std::string_view module, std::string_view name, Object arguments);

/// A name of Python's.
struct PythonGlobal {
  std::string_view module;
  std::string_view name;
};
Object python_global(std::string_view module, std::string_view name);
std::optional<PythonGlobal> python_name(const Object& value);
/// An object of a class of Python's, made without a call and given its state.
Object built_by_python(PythonGlobal of, Object state);

/// The parts of a value that CPython makes by a call, or null where there is none.
struct PythonCall {
  std::string_view module;
  std::string_view name;
  const Object* arguments = nullptr;  // a tuple
  const Object* state = nullptr;
};
std::optional<PythonCall> python_call(const Object& value);

}  // namespace millrace::runtime
