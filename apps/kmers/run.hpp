// Counting: in this process alone, or by a pool of workers.
#pragma once

#include <cstddef>
#include <functional>
#include <millrace/pool_options.hpp>
#include <string>
#include <vector>

#include "kmers/batch.hpp"
#include "kmers/batch_reader.hpp"
#include "kmers/spectrum.hpp"

namespace kmers {

/// What to count and how.
struct RunOptions {
  ReaderOptions input;
  std::size_t top = 10;
  int workers = 0;   ///< 0: one for every cpu this process may use
  std::string bind;  ///< where the workers run; empty: as the library decides
  std::string dump;  ///< file for all k-mers with their counts; empty: none
};

/// Told now and then how many bytes of how many (0: unknown) were read.
using OnProgress = std::function<void(std::uint64_t, std::uint64_t)>;

/// What a run found and took.
struct RunResult {
  Tally tally;
  Spectrum spectrum;
  double seconds = 0;           ///< start to end, making the pool included
  double merge_seconds = 0;     ///< the part of it after the last batch
  std::size_t table_bytes = 0;  ///< memory of all tables
  std::vector<millrace::WorkerBinding> bindings;
};

/// Counts in this process. Throws InputError.
RunResult run_serial(const RunOptions& options, const OnProgress& progress);

/// Counts with a pool: imap over batches, one table per worker, reduce over the parts of the
/// tables. Throws InputError, WorkerLost.
RunResult run_parallel(const RunOptions& options, const OnProgress& progress);

}  // namespace kmers
