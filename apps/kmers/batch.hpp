// One task for a worker: a slice of an input file, cut so that it can be read on its own.
#pragma once

#include <cstdint>
#include <string>

namespace kmers {

enum class Format : std::uint8_t { fasta, fastq };

/// A slice of a file. FASTA is cut anywhere in a sequence; `context` then holds the last k - 1
/// characters of the sequence before the cut, so that no k-mer is lost. FASTQ is cut between
/// records.
struct Batch {
  std::string file{};
  std::uint64_t first_line = 1;  ///< the line number of the first byte of text
  Format format = Format::fasta;
  bool mid_line = false;  ///< FASTA: text starts inside a line
  std::string context{};
  std::string text{};
};

/// What was seen in a batch, and after summing in all of them.
struct Tally {
  std::uint64_t records = 0;
  std::uint64_t bases = 0;  ///< sequence characters, ambiguity codes too
  std::uint64_t kmers = 0;  ///< k-mers counted

  Tally& operator+=(const Tally& other) {
    records += other.records;
    bases += other.bases;
    kmers += other.kmers;
    return *this;
  }
};

}  // namespace kmers
