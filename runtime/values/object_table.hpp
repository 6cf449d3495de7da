// The hash table of Dict, Set and FrozenSet: entries in the order of insertion, slots that find
// them. Hashes are keyed with a number drawn by each process, so that nobody who chooses the keys
// can make them collide.
#pragma once

#include <cstdint>

#include "runtime/values/object_node.hpp"

namespace millrace::runtime {

/// The place of no entry.
inline constexpr std::uint32_t kNoPlace = ~std::uint32_t{0};

/// An empty table with room for `capacity` entries. `kind` is dict, set or frozenset.
TableNode* new_table(ValueKind kind, std::size_t capacity);
/// Room for `capacity` entries in an empty table that has one holder.
void reserve_empty(TableNode& table, std::size_t capacity);
TableNode* copy_of_table(TableNode& table);

/// The hash under which a key is kept. Throws TypeError for an unhashable key.
std::uint64_t table_hash(const Object& key);
std::uint32_t find_place(const TableNode& table, const Object& key, std::uint64_t hash);
inline std::uint32_t find_place(const TableNode& table, const Object& key) {
  return find_place(table, key, table_hash(key));
}
/// Sets a key's value; an equal key that is there stays. The table has one holder.
void put_entry(TableNode& table, Object&& key, Object&& value);
/// Removes the entry at a place and returns its value. The table has one holder.
Object remove_entry(TableNode& table, std::uint32_t place);

/// Stirs 64 bits with this process's key.
std::uint64_t stir(std::uint64_t bits) noexcept;
std::uint64_t hash_of_bytes(std::string_view bytes) noexcept;

}  // namespace millrace::runtime
