// A timeline as chrome://tracing and Perfetto read it: JSON, one track per worker.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <cstdio>
#include <string>

namespace millrace::runtime {

/// Writes one file. Times are in microseconds from the pool's making.
class TraceFile {
 public:
  /// std::system_error when it cannot be opened.
  explicit TraceFile(const std::string& path);
  TraceFile(const TraceFile&) = delete;
  TraceFile& operator=(const TraceFile&) = delete;
  ~TraceFile();

  /// Opens and closes it, so that a bad path is known at once.
  static void check(const std::string& path);

  struct Slice {
    int track = 0;
    std::string name;
    double begin_us = 0;
    double duration_us = 0;
    pid_t pid = 0;
    int cpu = -1;
    std::uint64_t job = 0;
    std::uint64_t first = 0;  ///< items, both inclusive
    std::uint64_t last = 0;
  };
  void track(int track, const std::string& name);
  void slice(const Slice& slice);
  void instant(int track, const std::string& name, double at_us, pid_t pid);
  /// An instant with the items it concerns.
  void instant(const Slice& what);
  /// Ends the file. std::system_error when the disk is full.
  void close(std::uint64_t dropped);

 private:
  void begin_event();
  std::string path_;
  std::FILE* file_;
  bool first_ = true;
};

/// What a job is called in a timeline: "map" for MapEntry<...>::run or ThreadMapJob<...>, and so
/// on.
std::string job_kind(const std::string& symbol);

}  // namespace millrace::runtime
