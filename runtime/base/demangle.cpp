#include <cxxabi.h>

#include <cstdlib>
#include <string>

#include "runtime/base/exceptions.hpp"

namespace millrace::runtime {

std::string demangle(const char* mangled) {
  if (*mangled == '*') ++mangled;  // g++'s mark of a type that is local to one file
  int status = 0;
  char* text = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  std::string name = status == 0 && text != nullptr ? text : mangled;
  std::free(text);
  return name;
}

}  // namespace millrace::runtime
