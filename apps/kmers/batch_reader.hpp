// Cuts FASTA and FASTQ files, plain or gzipped, into batches. The reader looks for line ends only;
// what is between them is checked where the batch is scanned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "kmers/batch.hpp"

namespace kmers {

/// What to read and how to cut it.
struct ReaderOptions {
  std::vector<std::string> files;  ///< "-" is the standard input
  int k = 21;
  std::size_t batch_bytes = std::size_t{256} << 10U;
};

class GzipFile;

/// Reads the files one after the other. Throws InputError: a file that cannot be opened or read, is
/// empty, is neither FASTA nor FASTQ, or is gzip data that is damaged or ends early; whatever could
/// be read before has been handed out then.
class BatchReader {
 public:
  explicit BatchReader(ReaderOptions options);
  ~BatchReader();
  BatchReader(const BatchReader&) = delete;
  BatchReader& operator=(const BatchReader&) = delete;

  /// Reads the next batch; false after the last.
  bool next(Batch& batch);
  /// Bytes of input files read so far, as they lie on the disk.
  [[nodiscard]] std::uint64_t bytes_read() const;
  /// Bytes of all input files; 0 when unknown (standard input).
  [[nodiscard]] std::uint64_t bytes_total() const { return bytes_total_; }

 private:
  void open_next_file();
  void read_on(std::size_t bytes);
  [[nodiscard]] std::size_t cut();
  [[nodiscard]] std::size_t cut_fasta() const;
  [[nodiscard]] std::size_t cut_fastq() const;
  void advance(const Batch& batch);
  [[nodiscard]] std::string context_after(const Batch& batch) const;

  const ReaderOptions options_;
  std::size_t next_file_ = 0;
  std::unique_ptr<GzipFile> file_;
  std::uint64_t bytes_done_ = 0;  // of files that were read to their end
  std::uint64_t bytes_total_ = 0;

  // Of the open file: what was read and not handed out yet, and where that begins.
  Format format_ = Format::fasta;
  std::string pending_;
  bool end_ = true;
  std::uint64_t line_ = 1;
  bool mid_line_ = false;
  std::string context_;
  std::exception_ptr error_;  // what reading on threw; thrown when all before is handed out
};

}  // namespace kmers
