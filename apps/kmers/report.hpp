// What the program shows: bindings, the most frequent k-mers, the histogram as text and as SVG.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <millrace/pool_options.hpp>
#include <string>
#include <vector>

#include "kmers/spectrum.hpp"

namespace kmers {

/// Multiplicities first to last (both inclusive) in one bar.
struct Bin {
  std::uint64_t first = 0;
  std::uint64_t last = 0;
  std::uint64_t kmers = 0;
  bool rest = false;  ///< the bar of all that lies beyond the others
};

/// What stands under a bar: `7`, `8-15`, `>= 16`.
std::string label(const Bin& bin);
/// The length of a bar as a share of the longest, logarithmic.
double share(const Bin& bin, const std::vector<Bin>& all);

/// The histogram in at most `bars` bars of equal width that hold 99 % of all occurrences, and one
/// more for the rest.
std::vector<Bin> bins(const Spectrum& spectrum, std::size_t bars);

/// A number with its thousands apart: 1,234,567.
std::string grouped(std::uint64_t number);

/// A table: where each worker runs.
void print_bindings(std::ostream& out, const std::vector<millrace::WorkerBinding>& bindings);
/// The most frequent k-mers with their counts.
void print_top(std::ostream& out, const Spectrum& spectrum, int k);
/// Bars of logarithmic length.
void print_histogram(std::ostream& out, const Spectrum& spectrum);

/// The whole histogram, a line `multiplicity k-mers` each.
std::string histogram_lines(const Spectrum& spectrum);
/// A picture of the histogram, a complete SVG document. In svg.cpp.
std::string histogram_svg(const Spectrum& spectrum, const std::string& title);

}  // namespace kmers
