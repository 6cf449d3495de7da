#include "runtime/pool/trace_file.hpp"

#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <system_error>
#include <utility>

namespace millrace::runtime {
namespace {

[[noreturn]] void fail(const char* verb, const std::string& path) {
  throw std::system_error(errno, std::generic_category(),
                          std::string(verb) + " trace file " + path);
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out;
}

}  // namespace

TraceFile::TraceFile(const std::string& path) : path_(path), file_(std::fopen(path.c_str(), "we")) {
  if (file_ == nullptr) fail("open", path);
  std::fputs("{\"displayTimeUnit\":\"ns\",\"traceEvents\":[", file_);
}

TraceFile::~TraceFile() {
  if (file_ != nullptr) std::fclose(file_);
}

void TraceFile::check(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "ae");
  if (file == nullptr) fail("open", path);
  std::fclose(file);
}

void TraceFile::begin_event() {
  std::fputs(std::exchange(first_, false) ? "\n" : ",\n", file_);
  std::fprintf(file_, "{\"pid\":%d,", static_cast<int>(::getpid()));
}

void TraceFile::track(int track, const std::string& name) {
  begin_event();
  std::fprintf(file_,
               "\"tid\":%d,\"ph\":\"M\",\"name\":\"thread_name\",\"args\":{\"name\":\"%s\"}}",
               track, escaped(name).c_str());
}

void TraceFile::slice(const Slice& slice) {
  begin_event();
  std::fprintf(file_,
               "\"tid\":%d,\"ph\":\"X\",\"cat\":\"task\",\"name\":\"%s\",\"ts\":%.3f,\"dur\":%.3f,"
               "\"args\":{\"job\":%" PRIu64 ",\"first\":%" PRIu64 ",\"last\":%" PRIu64
               ",\"pid\":%d,\"cpu\":%d}}",
               slice.track, escaped(slice.name).c_str(), slice.begin_us, slice.duration_us,
               slice.job, slice.first, slice.last, static_cast<int>(slice.pid), slice.cpu);
}

void TraceFile::instant(int track, const std::string& name, double at_us, pid_t pid) {
  begin_event();
  std::fprintf(file_,
               "\"tid\":%d,\"ph\":\"i\",\"s\":\"t\",\"cat\":\"worker\",\"name\":\"%s\",\"ts\":%.3f,"
               "\"args\":{\"pid\":%d}}",
               track, escaped(name).c_str(), at_us, static_cast<int>(pid));
}

void TraceFile::instant(const Slice& what) {
  begin_event();
  std::fprintf(file_,
               "\"tid\":%d,\"ph\":\"i\",\"s\":\"t\",\"cat\":\"worker\",\"name\":\"%s\",\"ts\":%.3f,"
               "\"args\":{\"pid\":%d,\"first\":%" PRIu64 ",\"last\":%" PRIu64 "}}",
               what.track, escaped(what.name).c_str(), what.begin_us, static_cast<int>(what.pid),
               what.first, what.last);
}

void TraceFile::close(std::uint64_t dropped) {
  std::fprintf(file_, "\n],\"otherData\":{\"dropped_events\":%" PRIu64 "}}\n", dropped);
  const bool good = std::ferror(file_) == 0;
  if (std::fclose(std::exchange(file_, nullptr)) != 0 || !good) fail("write", path_);
}

std::string job_kind(const std::string& symbol) {
  static constexpr std::pair<const char*, const char*> kKinds[] = {
      {"ApplyEntry", "apply"},
      {"MapIntoPrivateEntry", "map_into"},
      {"MapIntoEntry", "map_into"},
      {"ParallelForEntry", "parallel_for"},
      {"ReduceEntry", "reduce"},
      {"OutcomeEntry", "imap"},
      {"BulkInPlaceEntry", "map"},
      {"BulkEntry", "map"},
      {"MapEntry", "map"},
      {"run_range_task", "range"},
      {"ThreadApplyJob", "apply"},
      {"ThreadMapJob", "map"},
      {"ThreadCollectJob", "map"},
      {"ThreadReduceJob", "reduce"},
      {"ThreadRangeJob", "parallel_for"},
      {"ThreadImapJob", "imap"},
  };
  for (const auto& [part, kind] : kKinds) {
    if (symbol.find(part) != std::string::npos) return kind;
  }
  return "task";
}

}  // namespace millrace::runtime
