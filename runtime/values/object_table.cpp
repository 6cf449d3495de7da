#include "runtime/values/object_table.hpp"

#include <sys/random.h>
#include <unistd.h>

#include <bit>
#include <cstring>
#include <ctime>
#include <stdexcept>
#include <utility>

namespace millrace::runtime {
namespace {

constexpr std::uint32_t kLinear = 8;  // so many entries are searched one by one
constexpr std::uint32_t kMostEntries = std::uint32_t{1} << 30;

struct Keys {
  std::uint64_t first;
  std::uint64_t second;
};

Keys draw_keys() noexcept {
  Keys keys{0x9e3779b97f4a7c15U, 0xd1b54a32d192ed03U};
  Keys drawn{};
  if (::getrandom(&drawn, sizeof drawn, GRND_NONBLOCK) == sizeof drawn) {
    keys = drawn;
  } else {  // before the kernel has entropy: what differs between processes and starts
    std::timespec now{};
    std::timespec_get(&now, TIME_UTC);
    keys.first ^= static_cast<std::uint64_t>(now.tv_nsec) << 20;
    keys.second ^= static_cast<std::uint64_t>(::getpid()) << 32;
  }
  keys.first |= 1;
  keys.second |= 1;
  return keys;
}

const Keys& keys() noexcept {
  static const Keys kKeys = draw_keys();
  return kKeys;
}

// Both halves of a product of 64 bits each, folded.
std::uint64_t fold(std::uint64_t a, std::uint64_t b) noexcept {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

std::uint64_t word_at(const char* at, std::size_t bytes = 8) noexcept {
  std::uint64_t word = 0;
  std::memcpy(&word, at, bytes);
  return word;
}

std::uint32_t slots_for(std::uint32_t capacity) noexcept {
  return capacity <= kLinear ? 0 : std::bit_ceil(capacity) * 2;
}

void place_block(TableNode& table, std::uint32_t capacity) {
  const std::uint32_t slots = slots_for(capacity);
  const std::size_t entry_bytes = capacity * sizeof(TableEntry);
  auto* const block =
      static_cast<char*>(checked(std::malloc(entry_bytes + slots * sizeof(std::uint32_t))));
  table.entries = reinterpret_cast<TableEntry*>(block);
  table.slots = slots == 0 ? nullptr : reinterpret_cast<std::uint32_t*>(block + entry_bytes);
  if (slots != 0) std::memset(block + entry_bytes, 0, slots * sizeof(std::uint32_t));
  table.mask = slots - 1;
  table.capacity = capacity;
  table.used = 0;
}

void link(TableNode& table, std::uint32_t place) noexcept {
  if (table.slots == nullptr) return;
  auto slot = static_cast<std::uint32_t>(table.entries[place].hash) & table.mask;
  while (table.slots[slot] != 0) slot = (slot + 1) & table.mask;
  table.slots[slot] = place + 1;
}

// A block for at least one more, without the holes. Entries move as bytes.
void rebuild(TableNode& table) {
  const std::uint64_t wanted = table.live < 4 ? 4 : std::uint64_t{table.live} * 2;
  if (wanted > kMostEntries) throw std::length_error("a dict or set of 2^30 entries is full");
  TableEntry* const old = table.entries;
  const std::uint32_t used = table.used;
  place_block(table, static_cast<std::uint32_t>(wanted));
  for (std::uint32_t i = 0; i < used; ++i) {
    if (old[i].hash == TableEntry::kHole) continue;
    std::memcpy(static_cast<void*>(table.entries + table.used), old + i, sizeof(TableEntry));
    link(table, table.used++);
  }
  std::free(old);
}

bool matches(const TableEntry& entry, const Object& key) {
  if (Access::kind(key) == ValueKind::short_text) {
    return std::memcmp(Access::raw(entry.key), Access::raw(key), sizeof(Object)) == 0;
  }
  return same(entry.key, key);
}

void append_entry(TableNode& table, std::uint64_t hash, Object&& key, Object&& value) {
  if (table.used == table.capacity) rebuild(table);
  ::new (table.entries + table.used) TableEntry{hash, std::move(key), std::move(value)};
  link(table, table.used);
  ++table.used;
  ++table.live;
}

}  // namespace

std::uint64_t stir(std::uint64_t bits) noexcept { return fold(bits ^ keys().first, keys().second); }

std::uint64_t hash_of_bytes(std::string_view bytes) noexcept {
  const char* at = bytes.data();
  std::size_t left = bytes.size();
  std::uint64_t hash = keys().first ^ left;
  for (; left > 16; at += 16, left -= 16) {
    hash = fold(word_at(at) ^ keys().second, word_at(at + 8) ^ hash);
  }
  const std::uint64_t low = word_at(at, left < 8 ? left : 8);
  const std::uint64_t high = left > 8 ? word_at(at + 8, left - 8) : 0;
  return fold(fold(low ^ keys().second, high ^ hash), keys().first);
}

std::uint64_t table_hash(const Object& key) {
  if (Access::kind(key) == ValueKind::short_text) {
    const auto* const raw = reinterpret_cast<const char*>(Access::raw(key));
    const std::uint64_t low = word_at(raw) ^ keys().second;
    return fold(fold(low, word_at(raw + 8) ^ keys().first), keys().first) >> 1;
  }
  return stir(hash_of(key)) >> 1;  // never kHole
}

void reserve_empty(TableNode& table, std::size_t capacity) {
  if (capacity > kMostEntries) throw std::length_error("a dict or set of 2^30 entries is full");
  if (capacity <= table.capacity) return;
  std::free(std::exchange(table.entries, nullptr));
  table.capacity = 0;
  place_block(table, static_cast<std::uint32_t>(capacity));
}

TableNode* new_table(ValueKind kind, std::size_t capacity) {
  auto* const table = ::new (checked(std::malloc(sizeof(TableNode)))) TableNode(kind);
  try {
    reserve_empty(*table, capacity);
  } catch (...) {
    std::free(table);
    throw;
  }
  return table;
}

TableNode* copy_of_table(TableNode& table) {
  Object copy = Access::adopt(new_table(table.kind, table.live));
  auto* const node = Access::node<TableNode>(copy);
  for (const TableEntry& each : table.span()) {
    if (each.hash == TableEntry::kHole) continue;
    append_entry(*node, each.hash, Object(each.key), Object(each.value));
  }
  return static_cast<TableNode*>(Access::detach(copy));
}

std::uint32_t find_place(const TableNode& table, const Object& key, std::uint64_t hash) {
  if (table.slots == nullptr) {
    for (std::uint32_t i = 0; i < table.used; ++i) {
      if (table.entries[i].hash == hash && matches(table.entries[i], key)) return i;
    }
    return kNoPlace;
  }
  auto slot = static_cast<std::uint32_t>(hash) & table.mask;
  for (; table.slots[slot] != 0; slot = (slot + 1) & table.mask) {
    const std::uint32_t place = table.slots[slot] - 1;
    if (table.entries[place].hash == hash && matches(table.entries[place], key)) return place;
  }
  return kNoPlace;
}

void put_entry(TableNode& table, Object&& key, Object&& value) {
  const std::uint64_t hash = table_hash(key);
  const std::uint32_t place = find_place(table, key, hash);
  if (place == kNoPlace) {
    append_entry(table, hash, std::move(key), std::move(value));
  } else {
    table.entries[place].value = std::move(value);
  }
}

Object remove_entry(TableNode& table, std::uint32_t place) {
  TableEntry& entry = table.entries[place];
  Object value = std::move(entry.value);
  entry.key = Object();
  entry.hash = TableEntry::kHole;
  --table.live;
  return value;
}

}  // namespace millrace::runtime
