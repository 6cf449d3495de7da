// Reads the text of a batch: checks every character and hands the canonical k-mers on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "kmers/batch.hpp"

namespace kmers {

/// Takes k-mers, a few thousand at a time.
using KmerSink = std::function<void(std::span<const std::uint64_t>)>;

/// Scans a batch for k-mers of length k. Throws InputError with the file and line of a character
/// that belongs in no sequence, a broken FASTQ record, or text that no header came before.
Tally scan(const Batch& batch, int k, const KmerSink& sink);

}  // namespace kmers
