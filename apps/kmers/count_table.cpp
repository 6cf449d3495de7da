#include "kmers/count_table.hpp"

#include <algorithm>
#include <bit>
#include <utility>

namespace kmers {

CountTable::CountTable(int bits) : slots_((std::size_t{1} << bits) + kSpare), shift_(64 - bits) {}

CountTable::CountTable(millrace::shared_array<Counted> slots)
    : slots_(std::move(slots)), shift_(64 - std::countr_zero(homes())) {}

void CountTable::add(std::span<const std::uint64_t> kmers) {
  constexpr std::size_t kAhead = 16;  // as many cache misses under way at once
  while (!kmers.empty()) {
    const auto group = kmers.first(std::min(kAhead, kmers.size()));
    Counted* const slots = slots_.data();
    for (const std::uint64_t kmer : group) __builtin_prefetch(slots + (mix(kmer) >> shift_), 1);
    for (const std::uint64_t kmer : group) {
      while (!insert({kmer, 1})) grow();
    }
    kmers = kmers.subspan(group.size());
    if (used_ > homes() / 10 * 7) grow();
  }
}

// False when there is no room between its home and the end.
bool CountTable::insert(Counted entry) {
  Counted* const slots = slots_.data();
  Counted* const end = slots + slots_.size();
  for (Counted* slot = slots + (mix(entry.kmer) >> shift_); slot != end; ++slot) {
    if (slot->count == 0) {
      *slot = entry;
      ++used_;
      return true;
    }
    if (slot->kmer == entry.kmer) {
      slot->count += entry.count;
      return true;
    }
  }
  return false;
}

void CountTable::grow() {
  for (int bits = 64 - shift_ + 1;; ++bits) {
    CountTable bigger(bits);
    const bool fits = std::ranges::all_of(std::span(slots_.data(), slots_.size()), [&](auto& slot) {
      return slot.count == 0 || bigger.insert(slot);
    });
    if (fits) {
      *this = std::move(bigger);
      return;
    }
  }
}

}  // namespace kmers
