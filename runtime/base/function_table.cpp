#include "runtime/base/function_table.hpp"

#include <cstring>
#include <millrace/errors.hpp>
#include <new>
#include <stdexcept>
#include <string>

#include "shm/arena.hpp"

namespace millrace::runtime {
namespace {

constexpr unsigned kModuleBits = 16;
constexpr std::uintptr_t kOffsetLimit = std::uintptr_t{1} << 48;

constexpr std::uint64_t make_key(std::uint16_t module_index, std::uintptr_t offset) {
  return (static_cast<std::uint64_t>(offset) << kModuleBits) | (module_index + 1U);
}

// Functions of one module lie near one another, and so do their entries: few pages are touched.
constexpr std::size_t home_of(std::uint16_t module_index, std::uintptr_t offset) {
  return (module_index * std::size_t{1021} + offset / 16) % FunctionTable::kFunctions;
}

std::string hexadecimal(std::uintptr_t value) {
  std::string text;
  do {
    text.insert(text.begin(), "0123456789abcdef"[value % 16]);
    value /= 16;
  } while (value != 0);
  return "0x" + text;
}

// Both caches are per process and filled by any thread; fork copies them and they stay right, since
// neither a function's address nor its id ever changes: modules in the table are kept loaded. An
// entry is one word, so it is whole or empty; relaxed is enough because an id is only a name, and
// what it names was published before it was given out.

// {address:48, id:16} by a hash of the address; the newest of two that meet stays.
constexpr std::size_t kCacheSize = 2048;
constexpr unsigned kIdBits = 16;
static_assert(FunctionTable::kFunctions < (std::size_t{1} << kIdBits));
std::atomic<std::uint64_t> g_ids[kCacheSize];

// Address by id.
std::atomic<std::uintptr_t> g_addresses[FunctionTable::kFunctions + 1];

std::atomic<std::uint64_t>& cached_id(std::uintptr_t address) {
  return g_ids[(address / 16 ^ address / 16 / kCacheSize) % kCacheSize];
}

FunctionId enter_function(std::uintptr_t address) {
  const auto module = module_at(address);
  if (!module) {
    throw std::runtime_error("the function at " + hexadecimal(address) +
                             " is in no loaded module, so another process cannot find it; pass a "
                             "function of the program or of a shared library");
  }
  if (module->id.empty()) {
    throw std::runtime_error("the function at " + hexadecimal(address) + " is in the module " +
                             module->path +
                             ", which has no build-id to find it by in another process; link it "
                             "with -Wl,--build-id");
  }
  keep_loaded(*module);
  FunctionTable& table = FunctionTable::instance();
  return table.enter(table.enter_module(module->id, module->path), address - module->base);
}

}  // namespace

FunctionTable& FunctionTable::instance() {
  static std::atomic<FunctionTable*> known{nullptr};
  // OBSERVE table: acquire, with PUBLISH table below in whichever process made it.
  if (FunctionTable* const table = known.load(std::memory_order_acquire)) return *table;
  shm::Arena& arena = shm::Arena::instance();
  auto& root = arena.root().word[shm::ArenaRoot::kFunctionTable];
  std::uint64_t word = root.load(std::memory_order_acquire);  // OBSERVE table: made elsewhere
  if (word == 0) {
    void* const memory = arena.allocate_zeroed(sizeof(FunctionTable));
    FunctionTable* const made = in_zeroed(memory);
    arena.give(memory, shm::kNobody);
    // PUBLISH table: release; OBSERVE table: a loser's acquire sees the winner's.
    if (root.compare_exchange_strong(word, reinterpret_cast<std::uint64_t>(made),
                                     std::memory_order_acq_rel, std::memory_order_acquire)) {
      word = reinterpret_cast<std::uint64_t>(made);
    } else {
      arena.deallocate(memory);
    }
  }
  auto* const table = reinterpret_cast<FunctionTable*>(word);
  known.store(table, std::memory_order_release);  // PUBLISH table: to this process's threads
  return *table;
}

FunctionTable* FunctionTable::in_zeroed(void* memory) noexcept {
  return std::launder(static_cast<FunctionTable*>(memory));
}

FunctionTable::ModuleRecord* FunctionTable::record(std::size_t index) noexcept {
  return std::launder(reinterpret_cast<ModuleRecord*>(records_ + index * sizeof(ModuleRecord)));
}

std::uint16_t FunctionTable::enter_module(const BuildId& id, std::string_view path) {
  if (path.size() > kMaxPath) {
    throw std::runtime_error("the module " + std::string(path) + " has too long a path: " +
                             std::to_string(kMaxPath) + " bytes fit in the function table");
  }
  for (std::size_t i = 0; i < kModules; ++i) {
    // OBSERVE module: acquire, with PUBLISH module below.
    std::uint32_t state = module_states_[i].load(std::memory_order_acquire);
    // OBSERVE module: a loser sees whose it is; the claim itself publishes nothing.
    if (state == kFree &&
        module_states_[i].compare_exchange_strong(state, kClaimed, std::memory_order_acq_rel,
                                                  std::memory_order_acquire)) {
      auto* const made = ::new (record(i)) ModuleRecord;
      made->id = id;
      made->path_bytes = static_cast<std::uint32_t>(path.size());
      std::memcpy(made->path, path.data(), path.size());
      module_states_[i].store(kReady, std::memory_order_release);  // PUBLISH module: it is whole
      return static_cast<std::uint16_t>(i);
    }
    if (state == kReady && record(i)->id == id) return static_cast<std::uint16_t>(i);
  }
  throw std::runtime_error("the function table is full: functions of more than " +
                           std::to_string(kModules) + " modules were sent");
}

FunctionId FunctionTable::enter(std::uint16_t module_index, std::uintptr_t offset) {
  if (offset >= kOffsetLimit) throw std::runtime_error("a module of more than 2^48 bytes");
  const std::uint64_t key = make_key(module_index, offset);
  const std::size_t home = home_of(module_index, offset);
  for (std::size_t probe = 0; probe < kFunctions; ++probe) {
    const std::size_t place = (home + probe) % kFunctions;
    // OBSERVE function: acquire, with the PUBLISH of whoever entered it.
    std::uint64_t seen = functions_[place].load(std::memory_order_acquire);
    // PUBLISH function: release; the module's record was ready before.
    if (seen == 0 && functions_[place].compare_exchange_strong(seen, key, std::memory_order_acq_rel,
                                                               std::memory_order_acquire)) {
      seen = key;
    }
    if (seen == key) return static_cast<FunctionId>(place + 1);
  }
  throw std::runtime_error("the function table is full: more than " + std::to_string(kFunctions) +
                           " functions were sent");
}

FunctionTable::Entry FunctionTable::look_up(FunctionId id) const {
  if (id == 0 || id > kFunctions) {
    throw Corrupt("function id " + std::to_string(id) + " is outside the function table");
  }
  // OBSERVE function: acquire, with the PUBLISH in enter(); its module is ready with it.
  const std::uint64_t key = functions_[id - 1].load(std::memory_order_acquire);
  const std::uint64_t module_plus_one = key & ((1U << kModuleBits) - 1);
  // OBSERVE module: acquire, with PUBLISH module in enter_module().
  if (module_plus_one == 0 || module_plus_one > kModules ||
      module_states_[module_plus_one - 1].load(std::memory_order_acquire) != kReady) {
    throw Corrupt("function id " + std::to_string(id) + " was never given out");
  }
  const auto index = static_cast<std::uint16_t>(module_plus_one - 1);
  return {const_cast<FunctionTable*>(this)->record(index), index,
          static_cast<std::uintptr_t>(key >> kModuleBits)};
}

FunctionId function_id(AnyFunction function) {
  const auto address = reinterpret_cast<std::uintptr_t>(function);
  if (address == 0) return 0;
  std::atomic<std::uint64_t>& cached = cached_id(address);
  const std::uint64_t word = cached.load(std::memory_order_relaxed);  // see g_ids
  if (word >> kIdBits == address) return static_cast<FunctionId>(word & ((1U << kIdBits) - 1));
  const FunctionId id = enter_function(address);
  if (address < kOffsetLimit) {
    cached.store((std::uint64_t{address} << kIdBits) | id, std::memory_order_relaxed);  // g_ids
  }
  return id;
}

AnyFunction resolve_function(FunctionId id) {
  if (id == 0) return nullptr;
  if (id <= FunctionTable::kFunctions) {
    const std::uintptr_t known = g_addresses[id].load(std::memory_order_relaxed);  // g_addresses
    if (known != 0) return reinterpret_cast<AnyFunction>(known);
  }
  const FunctionTable::Entry entry = FunctionTable::instance().look_up(id);
  const auto& module = *entry.module;
  const auto loaded = loaded_base(module.id);
  const std::uintptr_t base =
      loaded ? *loaded : open_module(std::string(module.path, module.path_bytes), module.id);
  const std::uintptr_t address = base + entry.offset;
  g_addresses[id].store(address, std::memory_order_relaxed);  // see g_addresses
  return reinterpret_cast<AnyFunction>(address);
}

}  // namespace millrace::runtime
