// The log of a job: which pieces have finished, and what they gave, so that a later run of the same
// job need not run them again.
//
// A file of one header and one record a piece, each with a checksum, written with one write() when
// the piece's reply has arrived. A run that is killed leaves at most one torn record at the end,
// which the next one cuts off. The log belongs to one program build: results are the program's own
// encoding, and the header holds a signature of function and types.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <millrace/job.hpp>
#include <string>
#include <vector>

namespace millrace::runtime {

class Joblog final : public Counted {
 public:
  /// Opens the file that the job's settings name: empties it, or with `resume` reads what it holds.
  /// std::system_error naming the file; ValueError when it is another job's.
  static Ref<Joblog> open(const Job& job);
  ~Joblog() override;

  /// True when the piece that the job would feed next is in the log.
  [[nodiscard]] bool knows_next() const { return finished_.contains(next_); }
  /// Delivers a piece from the log.
  void replay(Job& job, const Piece& piece);
  /// The job has fed a piece.
  void fed(const Piece& piece) noexcept { next_ = piece.first + piece.count; }
  /// Adds a piece that has finished.
  void append(const Piece& piece, const std::byte* reply, std::size_t bytes);

 private:
  struct Header;
  struct Record;

  Joblog(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  void load(const Header& expected);
  void write_all(const void* data, std::size_t bytes);

  std::string path_;
  int fd_;
  std::uint64_t next_ = 0;  ///< first item of the next piece
  std::map<std::uint64_t, std::vector<std::byte>> finished_;
};

}  // namespace millrace::runtime
