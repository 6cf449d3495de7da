// How the ring benchmarks measure: two processes pinned to two cpus, many short runs of all
// candidates in turn, medians of the ratios of neighbouring runs. Google Benchmark times a function
// in one process; here the time belongs to a pair, and what counts is the ratio to a peer measured
// within the same second, since a shared or virtual machine drifts by more than what is compared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace bench {

/// Zeroed memory shared with forked children, every page of it present.
void* shared_memory(std::size_t bytes);
void free_shared_memory(void* memory, std::size_t bytes);
/// Shared memory for the lifetime of the object.
class SharedBlock {
 public:
  explicit SharedBlock(std::size_t bytes) : memory_(shared_memory(bytes)), bytes_(bytes) {}
  ~SharedBlock() { free_shared_memory(memory_, bytes_); }
  SharedBlock(const SharedBlock&) = delete;
  SharedBlock& operator=(const SharedBlock&) = delete;
  [[nodiscard]] void* get() const { return memory_; }

 private:
  void* memory_;
  std::size_t bytes_;
};

/// Binds this thread to the index-th cpu that the program was allowed at its start.
void pin(int index);
std::uint64_t now_ns();
/// Keeps the compiler from dropping what leads to this value.
template <class T>
void keep(const T& value) {
  asm volatile("" : : "m"(value) : "memory");
}

/// Runs `left` on the first cpu in this process and `right` on the second in a forked one, from a
/// common start; returns the nanoseconds that `left` took.
double pair_ns(const std::function<void()>& left, const std::function<void()>& right);
/// The same with any number of processes, body(i) of the i-th on cpu i % 2; nanoseconds until all
/// are done.
double crew_ns(int count, const std::function<void(int)>& body);

/// Round trip of a flag between the two cpus in ns: tells whether the machine is itself.
double placement_probe();

enum class Better { lower, higher };

/// One line of the table: a measured thing beside its peer. A target of 0 means none.
struct Row {
  std::string name;
  std::string unit;
  std::string ours;  // names of measures
  std::string peer;
  double target = 0;
  Better better = Better::higher;
};

/// Named measures and the rows made of them.
class Suite {
 public:
  explicit Suite(std::string name) : name_(std::move(name)) {}
  void measure(const std::string& name, std::function<double()> run) {
    runs_[name] = std::move(run);
  }
  void row(Row row) { rows_.push_back(std::move(row)); }
  /// Options: --reps N, --only TEXT (rows whose name contains it). Prints a JSON object a line.
  int run(int argc, char** argv);

 private:
  bool disturbed(double before, double after);
  void print(const Row& row) const;

  std::string name_;
  std::map<std::string, std::function<double()>> runs_;
  std::map<std::string, std::vector<double>> samples_;
  std::vector<Row> rows_;
  std::vector<double> probes_;
};

}  // namespace bench
