// What is wrong with the input: always the file, and the line where there is one.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace kmers {

/// An input file cannot be used. The message starts with `file:line: ` (`file: ` where no line is
/// to blame) and the program ends with exit code 2.
class InputError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  InputError(const std::string& file, std::uint64_t line, const std::string& what)
      : std::runtime_error(file + ":" + (line == 0 ? "" : std::to_string(line) + ":") + " " +
                           what) {}
};

}  // namespace kmers
