#include "kmers/gzip_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include "kmers/input_error.hpp"

namespace kmers {
namespace {

constexpr std::size_t kBuffer = std::size_t{128} << 10U;
constexpr int kGzipOnly = 16;  // added to the window bits: zlib's own format is not meant

}  // namespace

GzipFile::GzipFile(std::string name) : name_(std::move(name)), buffer_(kBuffer) {
  if (inflateInit2(&stream_, MAX_WBITS + kGzipOnly) != Z_OK) throw std::bad_alloc();
  stream_.next_in = buffer_.data();
  fd_ = name_ == "-" ? dup(STDIN_FILENO) : open(name_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd_ >= 0) return;
  const int error = errno;
  inflateEnd(&stream_);
  throw InputError(name_, 0, std::strerror(error));
}

GzipFile::~GzipFile() {
  inflateEnd(&stream_);
  close(fd_);
}

std::size_t GzipFile::append(std::string& text, std::size_t bytes, std::uint64_t line) {
  const std::size_t before = text.size();
  text.resize(before + bytes);
  std::size_t got = 0;
  for (std::size_t some = 1; some > 0 && got < bytes; got += some) {
    try {
      some = take(text.data() + before + got, bytes - got);
    } catch (const InputError&) {
      text.resize(before + got);
      throw;
    }
  }
  text.resize(before + got);
  if (got == bytes || state_ != State::damaged) return got;
  line += static_cast<std::uint64_t>(std::count(text.begin(), text.end(), '\n'));
  throw InputError(name_, line, damage_);
}

// At least so many bytes that were read and not taken, unless the file ends: how many there are.
std::size_t GzipFile::have(std::size_t bytes) {
  while (stream_.avail_in < bytes && !end_) {
    std::memmove(buffer_.data(), stream_.next_in, stream_.avail_in);
    stream_.next_in = buffer_.data();
    const ssize_t got =
        read(fd_, buffer_.data() + stream_.avail_in, buffer_.size() - stream_.avail_in);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw InputError(name_, 0, std::strerror(errno));
    end_ = got == 0;
    stream_.avail_in += static_cast<unsigned>(got);
    read_ += static_cast<std::uint64_t>(got);
  }
  return stream_.avail_in;
}

bool GzipFile::at_member() {
  return have(2) >= 2 && stream_.next_in[0] == 0x1f && stream_.next_in[1] == 0x8b;
}

// Some of the text, at most so much; nothing at the end, and where the data is damaged.
std::size_t GzipFile::take(char* to, std::size_t bytes) {
  for (;;) {
    switch (state_) {
      case State::start:
        state_ = at_member() ? State::member : State::plain;
        break;
      case State::plain:
        return copy(to, bytes);
      case State::member:
        if (const std::size_t made = inflate_some(to, bytes); made > 0) return made;
        break;
      case State::between:
        if (at_member()) {
          state_ = State::member;
          break;
        }
        skip_zeros();
        if (have(1) == 0) return 0;
        damaged("no gzip data, as before");
        break;
      case State::damaged:
        return 0;
    }
  }
}

std::size_t GzipFile::copy(char* to, std::size_t bytes) {
  const std::size_t some = std::min(bytes, have(1));
  std::memcpy(to, stream_.next_in, some);
  stream_.next_in += some;
  stream_.avail_in -= static_cast<unsigned>(some);
  return some;
}

std::size_t GzipFile::inflate_some(char* to, std::size_t bytes) {
  constexpr std::size_t kMost = std::size_t{1} << 30U;
  if (have(1) == 0) {
    state_ = State::damaged;
    damage_ = "truncated: gzip data ends early";
    return 0;
  }
  stream_.next_out = reinterpret_cast<unsigned char*>(to);
  stream_.avail_out = static_cast<unsigned>(std::min(bytes, kMost));
  const int code = inflate(&stream_, Z_NO_FLUSH);
  if (code == Z_STREAM_END) {
    state_ = State::between;
    inflateReset(&stream_);
  } else if (code == Z_MEM_ERROR) {
    throw std::bad_alloc();
  } else if (code != Z_OK && code != Z_BUF_ERROR) {
    damaged(stream_.msg != nullptr ? stream_.msg : "inflate");
  }
  return static_cast<std::size_t>(reinterpret_cast<char*>(stream_.next_out) - to);
}

void GzipFile::skip_zeros() {
  while (have(1) > 0 && *stream_.next_in == 0) {
    ++stream_.next_in;
    --stream_.avail_in;
  }
}

void GzipFile::damaged(std::string what) {
  state_ = State::damaged;
  damage_ = "damaged gzip data (" + std::move(what) + ")";
}

}  // namespace kmers
