// What is known of the k-mers in the end: how many, how often, and which most often.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kmers/count_table.hpp"

namespace kmers {

/// Spectrum of a part of the k-mers or of all.
struct Spectrum {
  std::uint64_t distinct = 0;
  std::uint64_t total = 0;
  /// How many k-mers were seen how often: {multiplicity, k-mers}, ascending.
  std::vector<std::pair<std::uint64_t, std::uint64_t>> histogram;
  /// The most frequent ones, most frequent first; of equals the alphabetically first.
  std::vector<Counted> top;
};

/// The k-mers of one part, summed over tables.
std::vector<Counted> merge_part(const std::vector<CountTable>& tables, std::size_t part);

/// The spectrum of k-mers that are all different.
Spectrum spectrum_of(std::vector<Counted> kmers, std::size_t top);

/// The spectrum of two sets of k-mers that have none in common.
Spectrum combine(const Spectrum& a, const Spectrum& b, std::size_t top);

/// One line `KMER COUNT` for each.
std::string dump(const std::vector<Counted>& kmers, int k);

}  // namespace kmers
