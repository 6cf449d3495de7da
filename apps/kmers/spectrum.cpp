#include "kmers/spectrum.hpp"

#include <algorithm>
#include <bit>
#include <map>

namespace kmers {
namespace {

bool more_frequent(const Counted& a, const Counted& b) {
  return a.count != b.count ? a.count > b.count : a.kmer < b.kmer;
}

// A small table in private memory for the k-mers of a part.
class PartTable {
 public:
  explicit PartTable(std::size_t at_most)
      : slots_(std::bit_ceil(2 * at_most + 2)), mask_(slots_.size() - 1) {}

  void add(const Counted& entry) {
    // The high bits of the hash are the part's own and the same for all.
    std::size_t at = mix(entry.kmer) >> 16U & mask_;
    while (slots_[at].count != 0 && slots_[at].kmer != entry.kmer) at = (at + 1) & mask_;
    slots_[at].kmer = entry.kmer;
    slots_[at].count += entry.count;
  }

  std::vector<Counted> take() {
    std::erase_if(slots_, [](const Counted& slot) { return slot.count == 0; });
    return std::move(slots_);
  }

 private:
  std::vector<Counted> slots_;
  std::size_t mask_;
};

}  // namespace

std::vector<Counted> merge_part(const std::vector<CountTable>& tables, std::size_t part) {
  std::vector<Counted> all;
  for (const CountTable& table : tables) {
    table.for_each(part, [&](const Counted& entry) { all.push_back(entry); });
  }
  if (tables.size() < 2) return all;
  PartTable merged(all.size());
  for (const Counted& entry : all) merged.add(entry);
  return merged.take();
}

Spectrum spectrum_of(std::vector<Counted> kmers, std::size_t top) {
  Spectrum spectrum;
  spectrum.distinct = kmers.size();
  std::vector<std::uint64_t> low(256);  // most multiplicities are small
  std::map<std::uint64_t, std::uint64_t> high;
  for (const Counted& entry : kmers) {
    spectrum.total += entry.count;
    ++(entry.count < low.size() ? low[entry.count] : high[entry.count]);
  }
  for (std::size_t count = 0; count < low.size(); ++count) {
    if (low[count] != 0) spectrum.histogram.emplace_back(count, low[count]);
  }
  spectrum.histogram.insert(spectrum.histogram.end(), high.begin(), high.end());

  const std::size_t kept = std::min(top, kmers.size());
  const auto end = kmers.begin() + static_cast<std::ptrdiff_t>(kept);
  std::partial_sort(kmers.begin(), end, kmers.end(), more_frequent);
  spectrum.top.assign(kmers.begin(), end);
  return spectrum;
}

Spectrum combine(const Spectrum& a, const Spectrum& b, std::size_t top) {
  Spectrum both;
  both.distinct = a.distinct + b.distinct;
  both.total = a.total + b.total;
  both.histogram.reserve(std::max(a.histogram.size(), b.histogram.size()));
  auto x = a.histogram.begin();
  auto y = b.histogram.begin();
  while (x != a.histogram.end() || y != b.histogram.end()) {
    if (y == b.histogram.end() || (x != a.histogram.end() && x->first < y->first)) {
      both.histogram.push_back(*x++);
    } else if (x == a.histogram.end() || y->first < x->first) {
      both.histogram.push_back(*y++);
    } else {
      both.histogram.emplace_back(x->first, x->second + y->second);
      ++x;
      ++y;
    }
  }
  both.top.resize(a.top.size() + b.top.size());
  std::ranges::merge(a.top, b.top, both.top.begin(), more_frequent);
  both.top.resize(std::min(top, both.top.size()));
  return both;
}

std::string dump(const std::vector<Counted>& kmers, int k) {
  std::string text;
  text.reserve(kmers.size() * static_cast<std::size_t>(k + 4));
  for (const Counted& entry : kmers) {
    text += letters(entry.kmer, k) + ' ' + std::to_string(entry.count) + '\n';
  }
  return text;
}

}  // namespace kmers
