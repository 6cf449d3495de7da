#include "kmers/batch_reader.hpp"

#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "kmers/input_error.hpp"

namespace kmers {

/// A file that zlib reads: gzip data (of one or more members) or anything else as it is.
class GzipFile {
 public:
  explicit GzipFile(std::string name) : name_(std::move(name)) {
    errno = 0;
    file_ = name_ == "-" ? gzdopen(dup(STDIN_FILENO), "rb") : gzopen(name_.c_str(), "rb");
    if (file_ == nullptr) throw InputError(name_, 0, std::strerror(errno == 0 ? ENOMEM : errno));
    gzbuffer(file_, 1U << 17U);
  }
  ~GzipFile() { gzclose_r(file_); }
  GzipFile(const GzipFile&) = delete;
  GzipFile& operator=(const GzipFile&) = delete;

  /// Appends up to `bytes` bytes; fewer only at the end. `line`: where an error will be reported.
  std::size_t append(std::string& text, std::size_t bytes, std::uint64_t line) {
    const std::size_t before = text.size();
    text.resize(before + bytes);
    errno = 0;
    const int got = gzread(file_, text.data() + before, static_cast<unsigned>(bytes));
    const int os_error = errno;
    text.resize(before + static_cast<std::size_t>(std::max(got, 0)));
    if (static_cast<std::size_t>(std::max(got, 0)) < bytes) check(text, line, os_error);
    return text.size() - before;
  }
  [[nodiscard]] std::uint64_t offset() const {
    const z_off_t on_disk = gzoffset(file_);  // not known of a pipe: then what was read
    return static_cast<std::uint64_t>(std::max<z_off_t>(on_disk > 0 ? on_disk : gztell(file_), 0));
  }
  [[nodiscard]] const std::string& name() const { return name_; }

 private:
  void check(const std::string& text, std::uint64_t line, int os_error) const {
    int code = Z_OK;
    const char* what = gzerror(file_, &code);
    if (code == Z_OK || code == Z_STREAM_END) return;
    line += static_cast<std::uint64_t>(std::count(text.begin(), text.end(), '\n'));
    if (code == Z_BUF_ERROR) throw InputError(name_, line, "truncated: gzip data ends early");
    if (code == Z_ERRNO) throw InputError(name_, 0, std::strerror(os_error));
    throw InputError(name_, line, std::string("damaged gzip data (") + what + ")");
  }

  std::string name_;
  gzFile file_ = nullptr;
};

namespace {

std::uint64_t size_on_disk(const std::string& name) {
  struct stat info {};
  if (name == "-" || stat(name.c_str(), &info) != 0 || info.st_size < 0) return 0;
  return static_cast<std::uint64_t>(info.st_size);
}

}  // namespace

BatchReader::BatchReader(ReaderOptions options) : options_(std::move(options)) {
  for (const std::string& name : options_.files) {
    const std::uint64_t bytes = size_on_disk(name);
    if (name == "-") {
      bytes_total_ = 0;
      break;
    }
    bytes_total_ += bytes;
  }
}

BatchReader::~BatchReader() = default;

bool BatchReader::next(Batch& batch) {
  std::size_t bytes = 0;
  while ((bytes = cut()) == 0) {
    if (error_) std::rethrow_exception(error_);
    if (next_file_ == options_.files.size()) return false;
    open_next_file();
  }
  batch.file = file_->name();
  batch.first_line = line_;
  batch.format = format_;
  batch.mid_line = mid_line_;
  batch.context = context_;
  batch.text.assign(pending_, 0, bytes);
  pending_.erase(0, bytes);
  advance(batch);
  return true;
}

std::uint64_t BatchReader::bytes_read() const {
  return bytes_done_ + (file_ == nullptr ? 0 : file_->offset());
}

void BatchReader::open_next_file() {
  if (file_ != nullptr) bytes_done_ += size_on_disk(file_->name());
  file_ = std::make_unique<GzipFile>(options_.files[next_file_++]);
  end_ = false;
  line_ = 1;
  mid_line_ = false;
  context_.clear();
  read_on(options_.batch_bytes);
  if (pending_.empty() && error_) std::rethrow_exception(error_);
  if (pending_.empty()) throw InputError(file_->name(), 1, "the file is empty");
  if (pending_[0] != '>' && pending_[0] != '@') {
    throw InputError(file_->name(), 1, "neither FASTA (starts with '>') nor FASTQ ('@')");
  }
  format_ = pending_[0] == '>' ? Format::fasta : Format::fastq;
}

// Reads that much more of the open file, or up to its end.
void BatchReader::read_on(std::size_t bytes) {
  try {
    end_ = file_->append(pending_, bytes, line_) < bytes;
  } catch (const InputError&) {
    error_ = std::current_exception();
    end_ = true;
  }
}

// How much of what is pending makes the next batch; 0 when nothing of the open file is left.
std::size_t BatchReader::cut() {
  if (!end_ && pending_.size() < options_.batch_bytes) {
    read_on(options_.batch_bytes - pending_.size());
  }
  for (;;) {
    if (end_ && !error_) return pending_.size();
    const std::size_t bytes = format_ == Format::fasta ? cut_fasta() : cut_fastq();
    if (bytes > 0 || end_) return bytes;
    read_on(pending_.size());  // a header, or a FASTQ record, longer than a batch
  }
}

std::size_t BatchReader::cut_fasta() const {
  const std::size_t newline = pending_.rfind('\n');
  const std::size_t last_line = newline == pending_.npos ? 0 : newline + 1;
  if (last_line == pending_.size()) return last_line;
  const bool sequence = pending_[last_line] != '>' || (last_line == 0 && mid_line_);
  return sequence ? pending_.size() : last_line;  // a header is not cut
}

std::size_t BatchReader::cut_fastq() const {
  const auto lines = std::count(pending_.begin(), pending_.end(), '\n');
  if (lines < 4) return 0;
  std::size_t newline = pending_.rfind('\n');
  for (auto extra = lines % 4; extra > 0; --extra) newline = pending_.rfind('\n', newline - 1);
  return newline + 1;
}

// Moves the place where the next batch begins behind this one.
void BatchReader::advance(const Batch& batch) {
  const std::string& text = batch.text;
  if (format_ == Format::fasta) context_ = context_after(batch);
  line_ += static_cast<std::uint64_t>(std::count(text.begin(), text.end(), '\n'));
  mid_line_ = text.back() != '\n';
}

// The last k - 1 characters of the sequence that a batch ends in, line ends left out.
std::string BatchReader::context_after(const Batch& batch) const {
  const auto wanted = static_cast<std::size_t>(options_.k - 1);
  std::string backwards;
  std::string_view rest = batch.text;
  while (!rest.empty() && backwards.size() < wanted) {
    const bool ended = rest.back() == '\n';
    const std::size_t newline = rest.substr(0, rest.size() - (ended ? 1 : 0)).rfind('\n');
    const std::size_t begin = newline == rest.npos ? 0 : newline + 1;
    const std::string_view line = rest.substr(begin);
    const bool whole = begin > 0 || !batch.mid_line;
    if (whole && line.starts_with('>')) return {backwards.rbegin(), backwards.rend()};
    for (auto c = line.rbegin(); c != line.rend() && backwards.size() < wanted; ++c) {
      if (*c != '\n' && *c != '\r') backwards += *c;
    }
    rest = rest.substr(0, begin);
  }
  const std::string& before = batch.context;
  for (auto c = before.rbegin(); c != before.rend() && backwards.size() < wanted; ++c) {
    backwards += *c;
  }
  return {backwards.rbegin(), backwards.rend()};
}

}  // namespace kmers
