// What values of Python's look like that a manager's server and its proxies exchange.
#pragma once

#include <millrace/object.hpp>
#include <string>

#include "runtime/values/object_python.hpp"

namespace millrace::runtime {

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
