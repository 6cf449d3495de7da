// Addresses as Python's values: a path, or a tuple that begins with host and port.
#include <millrace/errors.hpp>

#include "runtime/managers/manager_link.hpp"

namespace millrace::runtime {

Object object_of_address(const connection::Address& address) {
  if (address.empty()) return {};
  if (!address.path().empty()) return Object(address.path());
  return Object(Tuple{Object(address.host()), Object(address.port())});
}

connection::Address address_of_object(const Object& value) {
  if (value.is<std::string>()) return value.as<std::string>();
  if (value.is<Bytes>()) return std::string(value.as<Bytes>().view());
  if (value.is<Tuple>() && value.size() >= 2) {
    return {value[0].as<std::string>(), value[1].as<int>()};
  }
  throw TypeError("an address is a path or a host and port, not " + value.repr());
}

}  // namespace millrace::runtime
