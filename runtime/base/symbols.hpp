// Names for code addresses.
#pragma once

#include <cstdint>
#include <string>

namespace millrace::runtime {

/// "function (module+0xoffset)", or "module+0xoffset" where no symbol is known. The offset is what
/// addr2line -e module takes. Looks at the dynamic symbols first, then at the module's own table.
std::string describe_address(std::uintptr_t address);

}  // namespace millrace::runtime
