#include "runtime/base/random.hpp"

#include <sys/random.h>

#include <cerrno>
#include <system_error>

namespace millrace::runtime {

void fill_random(void* place, std::size_t bytes) {
  auto* to = static_cast<std::byte*>(place);
  while (bytes != 0) {
    const ssize_t got = ::getrandom(to, bytes, 0);
    if (got < 0) {
      if (errno == EINTR) continue;
      throw std::system_error(errno, std::generic_category(), "getrandom");
    }
    to += got;
    bytes -= static_cast<std::size_t>(got);
  }
}

}  // namespace millrace::runtime
