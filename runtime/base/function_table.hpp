// The program's function table: an append-only set of {module, offset}, in the arena.
//
// Any process may enter functions and look them up at any time. A FunctionId is the place of an
// entry, so the entry never moves and is never taken back.
//
// Invariants
// 1. A function entry is one word, {offset:48, module + 1:16}; 0 is free. It goes from 0 to its
//    value by one CAS and never changes again. Open addressing: whoever looks for a key probes from
//    the key's own place on and enters it at the first free word, so one key has one entry.
// 2. A module record is kFree, then kClaimed by a CAS, then kReady. What it holds is written
//    between the two and never changes again. Two processes that enter one module at the same
//    moment may make two records; both are right.
//
// Progress: entering and looking up are wait-free but for the bound of the table.
// A process that dies
// - before the CAS of a function: nothing has happened; after it: the entry is complete;
// - between claiming a module record and publishing it: the record stays claimed, everyone passes
//   over it, and no function entry names it (they are made after it is ready);
// - while the table itself is made: it is not yet published, and the arena's sweep frees it or, in
//   the instant between giving it to nobody and publishing it, it is lost until the program ends.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <millrace/function.hpp>
#include <string_view>

#include "runtime/base/modules.hpp"

namespace millrace::runtime {

class FunctionTable {
 public:
  static constexpr std::size_t kModules = 512;
  static constexpr std::size_t kFunctions = 16384;
  static constexpr std::size_t kMaxPath = 984;

  /// A module as another process needs it.
  struct ModuleRecord {
    BuildId id;
    std::uint32_t path_bytes;
    char path[kMaxPath];
  };

  struct Entry {
    const ModuleRecord* module;
    std::uint16_t module_index;
    std::uintptr_t offset;
  };

  /// The table of this program, made in the arena on first use.
  static FunctionTable& instance();

  /// The empty table that memory of sizeof(FunctionTable) zero bytes is.
  static FunctionTable* in_zeroed(void* memory) noexcept;

  /// The index of a module's record, which is made if there is none. Throws std::runtime_error
  /// when the table is full or the path too long.
  std::uint16_t enter_module(const BuildId& id, std::string_view path);

  /// The id of a function, which is entered if it is new. Throws std::runtime_error when the
  /// table is full.
  FunctionId enter(std::uint16_t module_index, std::uintptr_t offset);

  /// The entry with this id. Throws Corrupt for one that was never given out.
  [[nodiscard]] Entry look_up(FunctionId id) const;

 private:
  enum ModuleState : std::uint32_t { kFree, kClaimed, kReady };

  FunctionTable() = default;

  [[nodiscard]] ModuleRecord* record(std::size_t index) noexcept;

  // Written once each by any process, read by all; a stale kFree or 0 costs a failed CAS.
  std::atomic<std::uint32_t> module_states_[kModules];
  std::atomic<std::uint64_t> functions_[kFunctions];
  // Written by the process that claimed the record, read once it is kReady.
  alignas(ModuleRecord) std::byte records_[kModules * sizeof(ModuleRecord)];
};

}  // namespace millrace::runtime
