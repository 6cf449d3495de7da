#include "runtime/base/memory_map.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <string_view>

namespace millrace::runtime {
namespace {

// "begin-end perms offset device inode   path"; none for a line that is not one.
std::optional<Mapping> parse_line(std::string_view line) {
  Mapping mapping;
  const char* const last = line.data() + line.size();
  const auto [dash, begin_error] = std::from_chars(line.data(), last, mapping.begin, 16);
  if (begin_error != std::errc{} || dash == last) return std::nullopt;
  const auto [space, end_error] = std::from_chars(dash + 1, last, mapping.end, 16);
  if (end_error != std::errc{} || last - space < 5) return std::nullopt;
  const std::string_view permissions(space + 1, 4);
  mapping.accessible = permissions.substr(0, 3) != "---";
  mapping.shared = permissions[3] == 's';
  if (const std::size_t slash = line.find('/'); slash != std::string_view::npos) {
    std::string_view path = line.substr(slash);
    constexpr std::string_view kDeleted = " (deleted)";
    if (path.ends_with(kDeleted)) path.remove_suffix(kDeleted.size());
    mapping.path = path;
  }
  return mapping;
}

std::string read_maps() {
  std::string text;
  const int fd = ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return text;
  char buffer[16384];
  for (;;) {
    const ssize_t got = ::read(fd, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    text.append(buffer, static_cast<std::size_t>(got));
  }
  ::close(fd);
  return text;
}

}  // namespace

std::optional<Mapping> find_mapping(const void* address) {
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  const std::string text = read_maps();
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::size_t length = rest.find('\n');
    auto mapping = parse_line(rest.substr(0, length));
    if (mapping && wanted >= mapping->begin && wanted < mapping->end) return mapping;
    if (length == std::string_view::npos) break;
    rest.remove_prefix(length + 1);
  }
  return std::nullopt;
}

bool is_mapped(const void* address) noexcept {
  static const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const std::uintptr_t start = reinterpret_cast<std::uintptr_t>(address) / page * page;
  unsigned char residency = 0;
  // ENOMEM says that nothing is mapped there; an answer, or any other refusal, that something is.
  return ::mincore(reinterpret_cast<void*>(start), page, &residency) == 0 || errno != ENOMEM;
}

}  // namespace millrace::runtime
