#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <random>
#include <vector>

#include "kmers/count_table.hpp"
#include "kmers/report.hpp"
#include "kmers/spectrum.hpp"

namespace kmers {
namespace {

using Counts = std::map<std::uint64_t, std::uint64_t>;

std::vector<std::uint64_t> random_kmers(unsigned seed, std::size_t n) {
  std::mt19937_64 random(seed);
  std::vector<std::uint64_t> kmers(n);
  for (auto& kmer : kmers) kmer = random() >> (seed % 2 == 0 ? 2U : 46U);  // sparse, dense
  return kmers;
}

Counts count(const std::vector<std::uint64_t>& kmers) {
  Counts counts;
  for (const auto kmer : kmers) ++counts[kmer];
  return counts;
}

Counts merged(const std::vector<CountTable>& tables) {
  Counts counts;
  for (std::size_t part = 0; part < CountTable::kParts; ++part) {
    for (const Counted& entry : merge_part(tables, part)) {
      EXPECT_TRUE(counts.emplace(entry.kmer, entry.count).second) << "in two parts: " << entry.kmer;
    }
  }
  return counts;
}

TEST(KmersCountTable, CountsWhileItGrows) {
  for (const unsigned seed : {1U, 2U}) {
    const auto kmers = random_kmers(seed, 300000);
    std::vector<CountTable> tables(1);
    const std::size_t before = tables[0].slots().size();
    tables[0].add(kmers);
    EXPECT_GT(tables[0].slots().size(), before);
    const Counts expected = count(kmers);
    EXPECT_EQ(tables[0].size(), expected.size());
    EXPECT_EQ(merged(tables), expected);
  }
}

TEST(KmersCountTable, KmerZeroIsAKmer) {
  std::vector<CountTable> tables(1);
  tables[0].add(std::vector<std::uint64_t>(5, 0));
  EXPECT_EQ(merged(tables), (Counts{{0, 5}}));
}

TEST(KmersCountTable, GrowsWhenTheLastHomesOverflow) {
  std::vector<std::uint64_t> last;  // all of them at home at the end of a table of any small size
  std::mt19937_64 random(7);
  while (last.size() < CountTable::kSpare + 100) {
    const std::uint64_t kmer = random() >> 2U;
    if (mix(kmer) >> (64 - CountTable::kFirstBits) == (1U << CountTable::kFirstBits) - 1) {
      last.push_back(kmer);
    }
  }
  std::vector<CountTable> tables(1);
  tables[0].add(last);
  EXPECT_EQ(merged(tables), count(last));
}

TEST(KmersMerge, TablesOfDifferentSizesAddUp) {
  std::vector<CountTable> tables(3);
  std::vector<std::uint64_t> all;
  for (unsigned i = 0; i < 3; ++i) {
    const auto kmers = random_kmers(2 * i + 1, std::size_t{1000} << (4 * i));
    tables[i].add(kmers);
    all.insert(all.end(), kmers.begin(), kmers.end());
  }
  EXPECT_NE(tables[0].slots().size(), tables[2].slots().size());
  EXPECT_EQ(merged(tables), count(all));
}

TEST(KmersMerge, ATableOpenedBySlotsIsTheSame) {
  CountTable table;
  const auto kmers = random_kmers(3, 50000);
  table.add(kmers);
  EXPECT_EQ(merged({CountTable(table.slots())}), count(kmers));
}

TEST(KmersSpectrum, CombiningPartsIsTheSameAsTheWhole) {
  std::vector<Counted> kmers;
  for (std::uint64_t i = 0; i < 2000; ++i) kmers.push_back({i, 1 + i * i % 700});
  const Spectrum whole = spectrum_of(kmers, 25);
  Spectrum combined;
  for (std::size_t i = 0; i < 2000; i += 500) {
    const auto begin = kmers.begin() + static_cast<std::ptrdiff_t>(i);
    combined = combine(combined, spectrum_of({begin, begin + 500}, 25), 25);
  }
  EXPECT_EQ(combined.distinct, 2000U);
  EXPECT_EQ(combined.total, whole.total);
  EXPECT_EQ(combined.histogram, whole.histogram);
  ASSERT_EQ(combined.top.size(), 25U);
  for (std::size_t i = 0; i < 25; ++i) {
    EXPECT_EQ(combined.top[i].kmer, whole.top[i].kmer);
    EXPECT_EQ(combined.top[i].count, whole.top[i].count);
  }
  EXPECT_TRUE(std::ranges::is_sorted(whole.top, std::greater{}, &Counted::count));
}

TEST(KmersReport, BinsHoldEveryKmer) {
  std::vector<Counted> kmers;
  for (std::uint64_t i = 0; i < 5000; ++i) kmers.push_back({i, 1 + i % 77});
  kmers.push_back({9999, 1000});
  const Spectrum spectrum = spectrum_of(kmers, 1);
  const auto all = bins(spectrum, 24);
  std::uint64_t sum = 0;
  for (const Bin& bin : all) sum += bin.kmers;
  EXPECT_EQ(sum, 5001U);
  EXPECT_LE(all.size(), 25U);
  EXPECT_TRUE(all.back().rest);
  EXPECT_EQ(label(all.back()), ">= " + std::to_string(all.back().first));
  EXPECT_TRUE(bins(Spectrum{}, 24).empty());
}

TEST(KmersReport, NumbersAreGrouped) {
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(1000), "1,000");
  EXPECT_EQ(grouped(1234567), "1,234,567");
}

TEST(KmersReport, TitlesAreEscapedInSvg) {
  const std::string svg = histogram_svg(Spectrum{}, "<a> & b");
  EXPECT_NE(svg.find("&lt;a&gt; &amp; b"), std::string::npos);
}

}  // namespace
}  // namespace kmers
