#include "kmers/report.hpp"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <ostream>

#include "kmers/kmer.hpp"

namespace kmers {
namespace {

// The multiplicity below or at which 99 % of all occurrences lie.
std::uint64_t visible_limit(const Spectrum& spectrum) {
  std::uint64_t seen = 0;
  for (const auto& [multiplicity, kmers] : spectrum.histogram) {
    seen += multiplicity * kmers;
    if (seen >= spectrum.total - spectrum.total / 100) return multiplicity;
  }
  return 1;
}

std::string cpus_text(const std::vector<int>& cpus) {
  std::string text;
  for (std::size_t i = 0; i < cpus.size();) {
    std::size_t j = i;
    while (j + 1 < cpus.size() && cpus[j + 1] == cpus[j] + 1) ++j;
    text += (text.empty() ? "" : ",") + std::to_string(cpus[i]);
    if (j > i) text += "-" + std::to_string(cpus[j]);
    i = j + 1;
  }
  return text;
}

}  // namespace

std::vector<Bin> bins(const Spectrum& spectrum, std::size_t bars) {
  if (spectrum.histogram.empty()) return {};
  const std::uint64_t limit = visible_limit(spectrum);
  const std::uint64_t width = (limit + bars - 1) / bars;
  std::vector<Bin> result;
  for (std::uint64_t first = 1; first <= limit; first += width) {
    result.push_back({first, first + width - 1, 0, false});
  }
  Bin rest{result.back().last + 1, spectrum.histogram.back().first, 0, true};
  for (const auto& [multiplicity, kmers] : spectrum.histogram) {
    const std::size_t at = (multiplicity - 1) / width;
    (at < result.size() ? result[at] : rest).kmers += kmers;
  }
  if (rest.kmers > 0) result.push_back(rest);
  return result;
}

std::string label(const Bin& bin) {
  if (bin.rest) return ">= " + std::to_string(bin.first);
  const std::string first = std::to_string(bin.first);
  return bin.first == bin.last ? first : first + "-" + std::to_string(bin.last);
}

double share(const Bin& bin, const std::vector<Bin>& all) {
  const auto longest = std::ranges::max(all, {}, &Bin::kmers).kmers;
  return std::log2(1.0 + static_cast<double>(bin.kmers)) /
         std::log2(2.0 + static_cast<double>(longest));
}

std::string grouped(std::uint64_t number) {
  std::string text = std::to_string(number);
  for (std::size_t at = text.size(); at > 3;) text.insert(at -= 3, 1, ',');
  return text;
}

void print_bindings(std::ostream& out, const std::vector<millrace::WorkerBinding>& bindings) {
  out << "  worker      pid  cpus              node  decided by\n";
  std::size_t number = 0;
  for (const auto& binding : bindings) {
    out << "  " << std::setw(6) << number++ << std::setw(9) << binding.pid << "  " << std::left
        << std::setw(16) << cpus_text(binding.cpus) << std::right << std::setw(6) << binding.node
        << "  " << binding.source << "\n";
  }
}

void print_top(std::ostream& out, const Spectrum& spectrum, int k) {
  const int width = std::max(4, k);
  out << "  " << std::left << std::setw(width) << "kmer" << std::right << "       count\n";
  for (const Counted& entry : spectrum.top) {
    out << "  " << std::left << std::setw(width) << letters(entry.kmer, k) << std::right
        << std::setw(12) << grouped(entry.count) << "\n";
  }
}

void print_histogram(std::ostream& out, const Spectrum& spectrum) {
  constexpr double kColumns = 46;
  const std::vector<Bin> all = bins(spectrum, 24);
  out << "  multiplicity        k-mers\n";
  for (const Bin& bin : all) {
    out << "  " << std::setw(12) << label(bin) << std::setw(14) << grouped(bin.kmers) << " "
        << std::string(static_cast<std::size_t>(std::lround(share(bin, all) * kColumns)), '#')
        << "\n";
  }
  out << "  (bars are logarithmic)\n";
}

std::string histogram_lines(const Spectrum& spectrum) {
  std::string text;
  for (const auto& [multiplicity, kmers] : spectrum.histogram) {
    text += std::to_string(multiplicity) + " " + std::to_string(kmers) + "\n";
  }
  return text;
}

}  // namespace kmers
