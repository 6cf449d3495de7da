#include "runtime/base/symbols.hpp"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <span>

#include "runtime/base/exceptions.hpp"

namespace millrace::runtime {
namespace {

using Header = ElfW(Ehdr);
using Section = ElfW(Shdr);
using Symbol = ElfW(Sym);

// A file mapped for reading, for as long as it lives; empty when it cannot be.
class MappedFile {
 public:
  explicit MappedFile(const char* path) noexcept {
    const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    struct stat info {};
    if (::fstat(fd, &info) == 0 && info.st_size > 0) {
      const auto size = static_cast<std::size_t>(info.st_size);
      void* at = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
      if (at != MAP_FAILED) bytes_ = {static_cast<const std::byte*>(at), size};
    }
    ::close(fd);
  }
  ~MappedFile() {
    if (!bytes_.empty()) {
      ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
    }
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  // `count` objects of type T at an offset; empty when they do not lie inside the file.
  template <class T>
  [[nodiscard]] std::span<const T> view(std::uint64_t offset, std::uint64_t count) const noexcept {
    if (offset > bytes_.size() || count > (bytes_.size() - offset) / sizeof(T)) return {};
    return {reinterpret_cast<const T*>(bytes_.data() + offset), static_cast<std::size_t>(count)};
  }

 private:
  std::span<const std::byte> bytes_;
};

// The name of the function in the file's symbol table that covers `offset` from the load address.
std::string static_symbol(const MappedFile& file, std::uint64_t offset) {
  const auto headers = file.view<Header>(0, 1);
  if (headers.empty() || std::memcmp(headers[0].e_ident, ELFMAG, SELFMAG) != 0) return {};
  const auto sections = file.view<Section>(headers[0].e_shoff, headers[0].e_shnum);
  for (const Section& section : sections) {
    if (section.sh_type != SHT_SYMTAB || section.sh_link >= sections.size()) continue;
    const Section& names = sections[section.sh_link];
    const auto text = file.view<char>(names.sh_offset, names.sh_size);
    if (text.empty() || text.back() != '\0') continue;
    for (const Symbol& symbol :
         file.view<Symbol>(section.sh_offset, section.sh_size / sizeof(Symbol))) {
      if ((symbol.st_info & 15) == STT_FUNC && offset >= symbol.st_value &&
          offset - symbol.st_value < symbol.st_size && symbol.st_name < text.size()) {
        return demangle(text.data() + symbol.st_name);
      }
    }
  }
  return {};
}

// The address the module's symbols count from: 0 for a program that is not position independent.
std::uint64_t load_bias(const Dl_info& info, const void* map) noexcept {
  if (map != nullptr) return static_cast<const link_map*>(map)->l_addr;
  return reinterpret_cast<std::uint64_t>(info.dli_fbase);
}

}  // namespace

std::string describe_address(std::uintptr_t address) {
  Dl_info info{};
  void* map = nullptr;
  if (::dladdr1(reinterpret_cast<void*>(address), &info, &map, RTLD_DL_LINKMAP) == 0 ||
      info.dli_fname == nullptr) {
    char text[32];
    std::snprintf(text, sizeof text, "0x%zx", static_cast<std::size_t>(address));
    return text;
  }
  const std::uint64_t offset = address - load_bias(info, map);
  char place[32];
  std::snprintf(place, sizeof place, "+0x%zx", static_cast<std::size_t>(offset));
  const char* slash = std::strrchr(info.dli_fname, '/');
  const std::string module = (slash != nullptr ? slash + 1 : info.dli_fname) + std::string(place);
  std::string name = info.dli_sname != nullptr ? demangle(info.dli_sname) : std::string();
  if (name.empty()) {
    // The program itself is known by argv[0], which need not be a path.
    const bool program = map != nullptr && static_cast<const link_map*>(map)->l_name[0] == '\0';
    name = static_symbol(MappedFile(program ? "/proc/self/exe" : info.dli_fname), offset);
  }
  return name.empty() ? module : name + " (" + module + ")";
}

}  // namespace millrace::runtime
