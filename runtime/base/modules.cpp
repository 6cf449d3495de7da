#include "runtime/base/modules.hpp"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

#include "runtime/base/memory_map.hpp"

namespace millrace::runtime {
namespace {

constexpr std::size_t kMaxNotesBytes = 1 << 20;

std::size_t padded(std::size_t bytes, std::size_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

// The build-id in a PT_NOTE segment, if that is where it is.
BuildId find_build_id(std::span<const std::byte> notes, std::size_t alignment) {
  alignment = alignment == 8 ? 8 : 4;
  ElfW(Nhdr) header;
  while (notes.size() >= sizeof header) {
    std::memcpy(&header, notes.data(), sizeof header);
    const std::size_t content = sizeof header + padded(header.n_namesz, 4);
    if (content > notes.size() || header.n_descsz > notes.size() - content) break;
    if (header.n_type == NT_GNU_BUILD_ID && header.n_namesz == 4 &&
        std::memcmp(notes.data() + sizeof header, "GNU", 4) == 0) {
      BuildId id;
      id.size = static_cast<std::uint32_t>(std::min<std::size_t>(header.n_descsz, id.kMaxBytes));
      std::memcpy(id.bytes.data(), notes.data() + content, id.size);
      return id;
    }
    notes = notes.subspan(std::min(padded(content + header.n_descsz, alignment), notes.size()));
  }
  return {};
}

BuildId build_id_of(const dl_phdr_info& info) {
  for (const auto& header : std::span(info.dlpi_phdr, info.dlpi_phnum)) {
    if (header.p_type != PT_NOTE) continue;
    const auto* const notes = reinterpret_cast<const std::byte*>(info.dlpi_addr + header.p_vaddr);
    const BuildId id = find_build_id({notes, header.p_memsz}, header.p_align);
    if (!id.empty()) return id;
  }
  return {};
}

bool has_code_at(const dl_phdr_info& info, std::uintptr_t address) {
  const auto segments = std::span(info.dlpi_phdr, info.dlpi_phnum);
  return std::ranges::any_of(segments, [&](const auto& header) {
    return header.p_type == PT_LOAD && (header.p_flags & PF_X) != 0 &&
           address - (info.dlpi_addr + header.p_vaddr) < header.p_memsz;
  });
}

// Calls visit(info, is_program) for each loaded module until it returns true.
template <class Visit>
void for_each_module(Visit visit) {
  struct State {
    Visit& visit;
    bool first = true;  // the executable comes first
  } state{visit};
  ::dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* data) {
        auto& s = *static_cast<State*>(data);
        return static_cast<int>(s.visit(*info, std::exchange(s.first, false)));
      },
      &state);
}

std::string program_path() {
  char path[PATH_MAX];
  const ssize_t length = ::readlink("/proc/self/exe", path, sizeof path);
  return length > 0 ? std::string(path, static_cast<std::size_t>(length)) : "the program";
}

// The loader's own name may be relative to a directory that is no longer the current one.
std::string absolute_path(std::string name, std::uintptr_t address) {
  if (const auto mapping = find_mapping(reinterpret_cast<const void*>(address));
      mapping && !mapping->path.empty()) {
    return mapping->path;
  }
  const std::unique_ptr<char, decltype(&std::free)> real(::realpath(name.c_str(), nullptr),
                                                         &std::free);
  return real ? std::string(real.get()) : name;
}

class File {
 public:
  explicit File(const std::string& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  [[nodiscard]] bool is_open() const noexcept { return fd_ >= 0; }
  [[nodiscard]] bool read(void* to, std::size_t bytes, std::uint64_t offset) const noexcept {
    return ::pread(fd_, to, bytes, static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes);
  }

 private:
  int fd_;
};

// The build-id of an ELF file of this machine's kind; empty if it is none or has none.
BuildId file_build_id(const File& file) {
  ElfW(Ehdr) elf;
  if (!file.read(&elf, sizeof elf, 0) || std::memcmp(elf.e_ident, ELFMAG, SELFMAG) != 0 ||
      elf.e_ident[EI_CLASS] != (sizeof(void*) == 8 ? ELFCLASS64 : ELFCLASS32) ||
      elf.e_phentsize != sizeof(ElfW(Phdr))) {
    return {};
  }
  for (std::size_t i = 0; i < elf.e_phnum; ++i) {
    ElfW(Phdr) header;
    if (!file.read(&header, sizeof header, elf.e_phoff + i * sizeof header)) break;
    if (header.p_type != PT_NOTE || header.p_filesz > kMaxNotesBytes) continue;
    std::vector<std::byte> notes(header.p_filesz);
    if (!file.read(notes.data(), notes.size(), header.p_offset)) continue;
    const BuildId id = find_build_id(notes, header.p_align);
    if (!id.empty()) return id;
  }
  return {};
}

[[noreturn]] void refuse(const std::string& path, const BuildId& id, const std::string& why) {
  throw std::runtime_error("a function that was sent here is in the module " + path +
                           " (build-id " + id.text() + "), " + why);
}

}  // namespace

std::string BuildId::text() const {
  constexpr char kHex[] = "0123456789abcdef";
  std::string text;
  for (const std::byte value : std::span(bytes).first(size)) {
    text += kHex[std::to_integer<unsigned>(value) / 16];
    text += kHex[std::to_integer<unsigned>(value) % 16];
  }
  return text;
}

std::optional<Module> module_at(std::uintptr_t address) {
  std::optional<Module> found;
  for_each_module([&](const dl_phdr_info& info, bool is_program) {
    if (!has_code_at(info, address)) return false;
    found = Module{info.dlpi_name, build_id_of(info), info.dlpi_addr, is_program};
    return true;
  });
  if (found) {
    found->path = found->is_program ? program_path() : absolute_path(found->path, address);
  }
  return found;
}

std::optional<std::uintptr_t> loaded_base(const BuildId& id) {
  std::optional<std::uintptr_t> base;
  for_each_module([&](const dl_phdr_info& info, bool) {
    if (build_id_of(info) != id) return false;
    base = info.dlpi_addr;
    return true;
  });
  return base;
}

void keep_loaded(const Module& module) {
  if (module.is_program) return;
  // A library the program was linked with, or one under another name, is not found: it stays.
  ::dlopen(module.path.c_str(), RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
}

std::uintptr_t open_module(const std::string& path, const BuildId& id) {
  errno = 0;
  const File file(path);
  if (const int error = errno; !file.is_open()) {
    refuse(path, id, "which cannot be opened: " + std::generic_category().message(error));
  }
  if (const BuildId there = file_build_id(file); there != id) {
    refuse(path, id,
           there.empty() ? "but that file is no module with a build-id"
                         : "but that file has been replaced since, its build-id is " +
                               there.text() + "; restart the program");
  }
  if (::dlopen(path.c_str(), RTLD_NOW | RTLD_NODELETE) == nullptr) {
    const char* const error = ::dlerror();
    refuse(path, id, std::string("which cannot be loaded: ") + (error ? error : "unknown error"));
  }
  if (const auto base = loaded_base(id)) return *base;
  refuse(path, id, "which the loader opened but does not list");
}

}  // namespace millrace::runtime
