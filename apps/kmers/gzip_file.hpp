// A file as text: gzip data inflated, anything else as it is.
#pragma once

#include <zlib.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace kmers {

/// Gzip data is one or more members behind each other, and zeros at the end. Anything else there is
/// an error: zlib's own gzread() takes it for the end, so that a member that is damaged in its
/// first bytes would take all the rest of the file along, unnoticed.
class GzipFile {
 public:
  /// Opens it; "-" is the standard input. Throws InputError.
  explicit GzipFile(std::string name);
  ~GzipFile();
  GzipFile(const GzipFile&) = delete;
  GzipFile& operator=(const GzipFile&) = delete;

  /// Appends up to `bytes` bytes; fewer only at the end. Throws InputError: what can be read before
  /// has been appended then. `line`: that of the end of `text`, if that was empty.
  std::size_t append(std::string& text, std::size_t bytes, std::uint64_t line);
  /// How much of the file was read, as it lies on the disk.
  [[nodiscard]] std::uint64_t offset() const { return read_ - stream_.avail_in; }
  [[nodiscard]] const std::string& name() const { return name_; }

 private:
  enum class State { start, plain, member, between, damaged };

  std::size_t have(std::size_t bytes);
  bool at_member();
  std::size_t take(char* to, std::size_t bytes);
  std::size_t copy(char* to, std::size_t bytes);
  std::size_t inflate_some(char* to, std::size_t bytes);
  void skip_zeros();
  void damaged(std::string what);

  std::string name_;
  int fd_ = -1;
  State state_ = State::start;
  std::string damage_;  // what is wrong, once the state says so
  std::vector<unsigned char> buffer_;
  z_stream stream_{};  // its next_in and avail_in are what is read and not yet taken, of any file
  bool end_ = false;   // of the data on the disk
  std::uint64_t read_ = 0;
};

}  // namespace kmers
