#include "kmers/run.hpp"

#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <exception>
#include <fstream>
#include <iterator>
#include <map>
#include <millrace/arena.hpp>
#include <millrace/callable.hpp>
#include <millrace/exceptions.hpp>
#include <millrace/pool.hpp>
#include <ranges>
#include <stdexcept>
#include <utility>

#include "kmers/count_table.hpp"
#include "kmers/input_error.hpp"
#include "kmers/scan.hpp"

namespace mp = millrace;

// A worker's InputError arrives as one.
MILLRACE_EXCEPTION(kmers::InputError);

namespace kmers {
namespace {

using Tables = std::vector<mp::shared_array<Counted>>;

class Stopwatch {
 public:
  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

std::vector<CountTable> open_tables(const Tables& slots) { return {slots.begin(), slots.end()}; }

// The batches of a reader as an input range. What reading throws ends the range and is kept for
// later, so that an error in an earlier batch comes first.
class Batches {
 public:
  class Iterator {
   public:
    using value_type = Batch;
    using difference_type = std::ptrdiff_t;
    using iterator_concept = std::input_iterator_tag;

    Iterator() = default;
    explicit Iterator(Batches& owner) : owner_(&owner) {}
    Batch& operator*() const { return owner_->batch_; }
    Iterator& operator++() {
      owner_->advance();
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return owner_->ended_; }

   private:
    Batches* owner_ = nullptr;
  };

  explicit Batches(BatchReader& reader) : reader_(reader) {}
  Iterator begin() {
    advance();
    return Iterator(*this);
  }
  [[nodiscard]] std::default_sentinel_t end() const { return {}; }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void advance() {
    try {
      ended_ = !reader_.next(batch_);
    } catch (const InputError&) {
      error_ = std::current_exception();
      ended_ = true;
    }
  }

  BatchReader& reader_;
  Batch batch_;
  bool ended_ = false;
  std::exception_ptr error_;
};

// What a worker gives back for a batch: the tally, and where its table is now.
struct BatchResult {
  Tally tally;
  pid_t worker = 0;
  mp::shared_array<Counted> slots;
};

// Runs in a worker. The table is the worker's own and grows from batch to batch.
BatchResult count_batch(int k, const Batch& batch) {
  static CountTable table;
  const Tally tally = scan(batch, k, [](auto kmers) { table.add(kmers); });
  return {tally, getpid(), table.slots()};
}

// Runs in the workers, after the last batch: reads all tables where they lie.
struct PartSpectrum {
  Tables tables;
  std::size_t top;
  Spectrum operator()(std::size_t part) const {
    return spectrum_of(merge_part(open_tables(tables), part), top);
  }
};

struct Combine {
  std::size_t top;
  Spectrum operator()(const Spectrum& a, const Spectrum& b) const { return combine(a, b, top); }
};

struct PartDump {
  Tables tables;
  int k;
  std::string operator()(std::size_t part) const {
    return dump(merge_part(open_tables(tables), part), k);
  }
};

auto all_parts() { return std::views::iota(std::size_t{0}, CountTable::kParts); }

// Every k-mer that was scanned must be found again in a table.
void check_complete(const RunResult& result) {
  if (result.spectrum.total != result.tally.kmers) {
    throw std::runtime_error(
        "counted " + std::to_string(result.tally.kmers) + " k-mers, but the tables hold " +
        std::to_string(result.spectrum.total) + ": a worker ended and took its table along");
  }
}

class DumpFile {
 public:
  explicit DumpFile(const std::string& path) : path_(path) {
    if (path.empty()) return;
    file_.open(path);
    check();
  }
  [[nodiscard]] bool wanted() const { return !path_.empty(); }
  void write(const std::string& text) {
    file_ << text << std::flush;
    check();
  }

 private:
  void check() const {
    if (!file_) throw InputError(path_, 0, std::string("cannot write: ") + std::strerror(errno));
  }
  std::string path_;
  std::ofstream file_;
};

// Hands all batches to the workers; gives the workers' tables.
Tables count(mp::Pool& pool, const RunOptions& options, const OnProgress& progress, Tally& tally) {
  BatchReader reader(options.input);
  Batches batches(reader);
  std::map<pid_t, mp::shared_array<Counted>> tables;
  for (auto&& done : pool.imap(mp::partial(count_batch, options.input.k), batches)) {
    tally += done.tally;
    tables.insert_or_assign(done.worker, std::move(done.slots));
    progress(reader.bytes_read(), reader.bytes_total());
  }
  batches.rethrow();
  const auto slots = std::views::values(tables);
  return {slots.begin(), slots.end()};
}

}  // namespace

RunResult run_serial(const RunOptions& options, const OnProgress& progress) {
  const Stopwatch watch;
  RunResult result;
  DumpFile file(options.dump);
  BatchReader reader(options.input);
  std::vector<CountTable> tables(1);
  for (Batch batch; reader.next(batch);) {
    result.tally += scan(batch, options.input.k, [&](auto kmers) { tables.front().add(kmers); });
    progress(reader.bytes_read(), reader.bytes_total());
  }
  result.merge_seconds = -watch.seconds();
  for (const std::size_t part : all_parts()) {
    const auto merged = merge_part(tables, part);
    if (file.wanted()) file.write(dump(merged, options.input.k));
    result.spectrum = combine(result.spectrum, spectrum_of(merged, options.top), options.top);
  }
  result.merge_seconds += watch.seconds();
  result.table_bytes = tables.front().slots().size() * sizeof(Counted);
  check_complete(result);
  result.seconds = watch.seconds();
  return result;
}

RunResult run_parallel(const RunOptions& options, const OnProgress& progress) {
  const Stopwatch watch;
  RunResult result;
  DumpFile file(options.dump);
  mp::PoolOptions pool_options;
  if (options.workers > 0) pool_options.processes = options.workers;
  if (!options.bind.empty()) pool_options.bind = options.bind;
  mp::Pool pool(pool_options);
  result.bindings = pool.bindings();

  const Tables tables = count(pool, options, progress, result.tally);
  for (const auto& slots : tables) result.table_bytes += slots.size() * sizeof(Counted);
  result.merge_seconds = -watch.seconds();
  result.spectrum =
      pool.reduce(PartSpectrum{tables, options.top}, Combine{options.top}, Spectrum{}, all_parts());
  if (file.wanted()) {
    for (auto&& text : pool.imap(PartDump{tables, options.input.k}, all_parts())) {
      file.write(text);
    }
  }
  result.merge_seconds += watch.seconds();
  check_complete(result);
  pool.close();
  pool.join();
  result.seconds = watch.seconds();
  return result;
}

}  // namespace kmers
