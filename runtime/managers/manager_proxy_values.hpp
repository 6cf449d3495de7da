// What values of Python's look like that a manager's server and its proxies exchange.
#pragma once

#include <millrace/object.hpp>
#include <optional>
#include <string>
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

/// Where a shared object is. Python: managers.Token.
struct TokenValue {
  std::string typeid_name;
  Object address;
  std::string id;
};
Object object_of_token(const TokenValue& token);
/// Throws TypeError for anything but a Token.
TokenValue token_of_object(const Object& value);

/// The value that a proxy stands for if this server holds it; else the value itself. Referents that
/// iterate over an argument call it: a proxy in a server is its referent.
Object plain_of(const Object& value);

}  // namespace millrace::runtime
