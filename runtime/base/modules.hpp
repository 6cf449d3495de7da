// The executable and shared libraries of this process, known by their build-id: the hash of its
// content that the linker puts into each.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace millrace::runtime {

/// A module's build-id; empty for one that was linked without.
struct BuildId {
  static constexpr std::size_t kMaxBytes = 32;

  std::array<std::byte, kMaxBytes> bytes{};
  std::uint32_t size = 0;

  [[nodiscard]] bool empty() const noexcept { return size == 0; }
  /// Lower-case hexadecimal, as file(1) and readelf print it.
  [[nodiscard]] std::string text() const;
  friend bool operator==(const BuildId&, const BuildId&) = default;
};

struct Module {
  std::string path;         ///< absolute where it is known
  BuildId id;               ///< may be empty
  std::uintptr_t base = 0;  ///< what the loader adds to the addresses in the file
  bool is_program = false;  ///< the executable
};

/// The module whose code holds an address.
std::optional<Module> module_at(std::uintptr_t address);

/// Where a module is loaded in this process, if it is.
std::optional<std::uintptr_t> loaded_base(const BuildId& id);

/// Makes sure that a loaded module stays loaded, dlclose() or not: its functions have ids.
void keep_loaded(const Module& module);

/// Opens the module at `path`, whose build-id must be `id`: it is read from the file first, since
/// opening a module runs its constructors. Returns its base; throws std::runtime_error naming the
/// module and what is wrong.
std::uintptr_t open_module(const std::string& path, const BuildId& id);

}  // namespace millrace::runtime
