#include "kmers/batch_reader.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "kmers/gzip_file.hpp"
#include "kmers/input_error.hpp"

namespace kmers {

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
