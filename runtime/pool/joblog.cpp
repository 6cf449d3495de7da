#include "runtime/pool/joblog.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <millrace/errors.hpp>
#include <system_error>
#include <utility>

#include "shm/above_streams.hpp"

namespace millrace::runtime {

struct Joblog::Header {
  char magic[16] = "millrace joblog";
  std::uint64_t version = 1;
  std::uint64_t signature = 0;  ///< of function and types
  std::uint64_t total = 0;      ///< items
  std::uint64_t chunk = 0;      ///< items per chunk
};

struct Joblog::Record {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  std::uint64_t size = 0;
  std::uint64_t checksum = 0;
};

namespace {

[[noreturn]] void fail(const std::string& what, const std::string& path) {
  throw std::system_error(errno, std::generic_category(), what + " joblog " + path);
}

std::uint64_t checksum(std::uint64_t first, std::uint64_t count, const std::byte* data,
                       std::size_t bytes) {
  std::uint64_t hash = 0xcbf29ce484222325U ^ first ^ count << 32;  // FNV-1a
  for (std::size_t i = 0; i < bytes; ++i) {
    hash = (hash ^ static_cast<std::uint64_t>(data[i])) * 0x100000001b3U;
  }
  return hash;
}

// Reads exactly `bytes`; false at the end of the file.
bool read_all(int fd, void* to, std::size_t bytes) {
  auto* at = static_cast<std::byte*>(to);
  while (bytes != 0) {
    const ssize_t got = ::read(fd, at, bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    at += got;
    bytes -= static_cast<std::size_t>(got);
  }
  return true;
}

}  // namespace

Ref<Joblog> Joblog::open(const Job& job) {
  const JobSettings& settings = job.settings();
  const int flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | (settings.resume ? 0 : O_TRUNC);
  const int fd = shm::above_streams(::open(settings.joblog.c_str(), flags, 0600));
  if (fd < 0) fail("open", settings.joblog);
  Ref<Joblog> log(new Joblog(settings.joblog, fd));
  Header header;
  header.signature = settings.signature;
  header.total = settings.total;
  header.chunk = settings.chunk;
  struct stat status {};
  if (::fstat(fd, &status) != 0) fail("stat", settings.joblog);
  if (status.st_size == 0) {
    log->write_all(&header, sizeof header);
  } else {
    log->load(header);
  }
  return log;
}

Joblog::~Joblog() { ::close(fd_); }

void Joblog::load(const Header& expected) {
  Header found;
  if (!read_all(fd_, &found, sizeof found) ||
      std::memcmp(found.magic, expected.magic, sizeof found.magic) != 0 ||
      found.version != expected.version) {
    throw ValueError(path_ + " is no joblog of this version; remove it or name another file");
  }
  if (found.signature != expected.signature || found.total != expected.total ||
      found.chunk != expected.chunk) {
    throw ValueError(
        "joblog " + path_ + " is another job's: it has " + std::to_string(found.total) +
        " items in chunks of " + std::to_string(found.chunk) + ", this job " +
        std::to_string(expected.total) + " in chunks of " + std::to_string(expected.chunk) +
        (found.signature != expected.signature ? ", and another function or types" : ""));
  }
  off_t good = sizeof found;
  struct stat status {};
  if (::fstat(fd_, &status) != 0) fail("stat", path_);
  for (Record record; read_all(fd_, &record, sizeof record);) {
    const off_t left = status.st_size - good - static_cast<off_t>(sizeof record);
    if (left < 0 || record.size > static_cast<std::uint64_t>(left)) break;
    std::vector<std::byte> data(record.size);
    if (!read_all(fd_, data.data(), data.size())) break;
    if (checksum(record.first, record.count, data.data(), data.size()) != record.checksum) break;
    good += static_cast<off_t>(sizeof record + record.size);
    finished_[record.first] = std::move(data);
  }
  // What follows is a record that a killed run did not finish.
  if (::ftruncate(fd_, good) != 0 || ::lseek(fd_, good, SEEK_SET) < 0) fail("truncate", path_);
}

void Joblog::write_all(const void* data, std::size_t bytes) {
  const auto* at = static_cast<const std::byte*>(data);
  while (bytes != 0) {
    const ssize_t put = ::write(fd_, at, bytes);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail("write", path_);
    at += put;
    bytes -= static_cast<std::size_t>(put);
  }
}

void Joblog::append(const Piece& piece, const std::byte* reply, std::size_t bytes) {
  const Record record{piece.first, piece.count, bytes,
                      checksum(piece.first, piece.count, reply, bytes)};
  std::vector<std::byte> whole(sizeof record + bytes);
  std::memcpy(whole.data(), &record, sizeof record);
  if (bytes != 0) std::memcpy(whole.data() + sizeof record, reply, bytes);
  write_all(whole.data(), whole.size());
}

void Joblog::replay(Job& job, const Piece& piece) {
  const auto at = finished_.find(piece.first);
  wire::Reader reader(at->second.data(), at->second.size());
  job.deliver(piece, reader, PieceReport{});
  finished_.erase(at);
  fed(piece);
}

}  // namespace millrace::runtime
