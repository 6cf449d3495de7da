// Counts of k-mers in shared memory: one process adds, everybody may read once it has stopped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <millrace/arena.hpp>
#include <span>

#include "kmers/kmer.hpp"

namespace kmers {

/// A k-mer and how often it was seen. A slot of the table is free when count is 0.
struct Counted {
  std::uint64_t kmer = 0;
  std::uint64_t count = 0;
};

/// An open-addressing table that grows by doubling. A k-mer's home is the top bits of mix(kmer),
/// and probing goes forward only, without wrapping, into spare slots behind the last home. So the
/// k-mers whose hashes start with the same bits stand in one stretch of every table, whatever its
/// size, and tables are merged part by part, in parallel, where they lie.
class CountTable {
 public:
  static constexpr std::size_t kSpare = 256;       ///< slots behind the last home
  static constexpr int kFirstBits = 14;            ///< homes of a new table: 2^14
  static constexpr std::size_t kParts = 1U << 8U;  ///< into how many parts a table can be divided

  explicit CountTable(int bits = kFirstBits);
  /// A table that another process filled.
  explicit CountTable(millrace::shared_array<Counted> slots);

  /// Counts each of the k-mers once more.
  void add(std::span<const std::uint64_t> kmers);
  /// How many different k-mers are in it (of a table that this process filled).
  [[nodiscard]] std::size_t size() const { return used_; }
  /// The slots, for another process's CountTable. A table that grows gets new ones.
  [[nodiscard]] const millrace::shared_array<Counted>& slots() const { return slots_; }

  /// Calls visit(const Counted&) for all k-mers of one of kParts parts.
  template <class Visit>
  void for_each(std::size_t part, Visit&& visit) const {
    const std::size_t width = homes() / kParts;
    const Counted* slot = slots_.data() + part * width;
    const Counted* const last_home = slot + width;
    // Behind the last home stand those that found their home taken, up to the first free slot.
    for (const Counted* const end = slots_.data() + slots_.size(); slot != end; ++slot) {
      if (slot->count == 0) {
        if (slot >= last_home) break;
      } else if (mix(slot->kmer) >> (64 - kPartBits) == part) {
        visit(*slot);
      }
    }
  }

 private:
  static constexpr int kPartBits = 8;
  static_assert(kParts == 1U << kPartBits && kFirstBits >= kPartBits);

  [[nodiscard]] std::size_t homes() const { return slots_.size() - kSpare; }
  bool insert(Counted entry);
  void grow();

  millrace::shared_array<Counted> slots_;
  int shift_;  // mix(kmer) >> shift_ is the home
  std::size_t used_ = 0;
};

}  // namespace kmers
