// What stays in the parent: the typed jobs of a pool, which cut an input into pieces and put the
// replies together again. Every member function is called under the pool's lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <millrace/job.hpp>
#include <millrace/outcome.hpp>
#include <millrace/pool_entries.hpp>
#include <optional>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace::runtime {

constexpr std::uint64_t smaller(std::uint64_t a, std::uint64_t b) noexcept { return a < b ? a : b; }
constexpr std::uint64_t larger(std::uint64_t a, std::uint64_t b) noexcept { return a < b ? b : a; }

/// Parts of a result that arrived before their turn, by the index of their first item. Few: as many
/// as pieces are under way.
template <class Part>
class EarlyParts {
 public:
  void put(std::uint64_t first, Part part) { parts_.emplace_back(first, std::move(part)); }
  /// Takes the part that begins at `first`, if it is there.
  std::optional<Part> take(std::uint64_t first) {
    for (auto& entry : parts_) {
      if (entry.first != first) continue;
      std::optional<Part> part(std::move(entry.second));
      entry = std::move(parts_.back());
      parts_.pop_back();
      return part;
    }
    return std::nullopt;
  }

 private:
  std::vector<std::pair<std::uint64_t, Part>> parts_;
};

/// Items of the next piece: a fixed number, or guided: half of what is left, shared out.
class Chunker {
 public:
  Chunker(std::uint64_t chunk, bool guided, int workers) noexcept
      : chunk_(chunk), guided_(guided), workers_(static_cast<std::uint64_t>(workers)) {}
  [[nodiscard]] std::uint64_t next(std::uint64_t left) const noexcept {
    if (!guided_) return smaller(left, chunk_);
    return smaller(left, larger(1, left / (2 * workers_)));
  }

 private:
  std::uint64_t chunk_;
  bool guided_;
  std::uint64_t workers_;
};

/// The callables of a job, encoded once: what every worker reads while the job lives.
class JobContext final : public Counted {
 public:
  JobContext() = default;
  ~JobContext() override;
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept {
    return {writer_.data(), writer_.size()};
  }
  [[nodiscard]] wire::Writer& writer() noexcept { return writer_; }

 private:
  wire::Writer writer_;  // owns what the callables refer to
};

/// `prefix`, then the callables. Throws TypeError when one holds an address of private memory.
template <class... F>
Ref<JobContext> make_context(std::span<const std::byte> prefix, const F&... callables) {
  static_assert((Sendable<F> && ...), "millrace: this callable cannot travel to another process");
  auto context = make_ref<JobContext>();
  context->writer().write(prefix.data(), prefix.size());
  (wire::put_callable(context->writer(), callables), ...);
  return context;
}

/// A job with one error at most: the first to arrive.
class ErrorJob : public Job {
 public:
  using Job::Job;
  void fail(const Piece& piece, const std::exception_ptr& error) override;
  void finished() override;
  [[nodiscard]] const std::exception_ptr& error() const noexcept { return error_; }

  ErrorCallback error_callback{};

 protected:
  /// Every piece has ended: the last touch to the result.
  virtual void prepare() {}
  /// Hands the result to a callback, if there is one; may throw.
  virtual void call_back() {}

  std::exception_ptr error_;
};

/// A job with a result that can be asked for.
template <class Result>
class ResultJob : public ErrorJob {
 public:
  using ErrorJob::ErrorJob;
  [[nodiscard]] virtual Result& result() = 0;

  Callback<std::conditional_t<std::same_as<Result, NoneType>, void, Result>> callback{};

 protected:
  void call_back() override {
    if (!callback) return;
    if constexpr (std::same_as<Result, NoneType>) {
      callback();
    } else {
      callback(result());
    }
  }
};

/// The fields that all options of maps have.
struct MapWishes {
  const Chunksize& chunksize;
  Timeout timeout;
  int retries;
  int priority;
  const ProgressSink& progress;
  const std::string& joblog;
  bool resume;
};
template <class Options>
MapWishes wishes_of(const Options& options) noexcept {
  return {options.chunksize, options.timeout, options.retries, options.priority,
          options.progress,  options.joblog,  options.resume};
}

/// What the core is told about a map over `size` items, and how these are cut. ValueError when the
/// pool is not running or the chunk size is below 1.
struct MapPlan {
  JobSettings settings;
  std::uint64_t chunk;
  Chunker chunker;
};
[[nodiscard]] MapPlan plan_map(const PoolCore& core, const MapWishes& wishes,
                               const EntryPoint& entry, std::uint64_t size);
/// The same for a job whose items are not counted.
[[nodiscard]] JobSettings job_settings(const MapWishes& wishes, const EntryPoint& entry);

/// Submits a job, whose context it keeps; that may be null.
void submit_job(PoolCore& core, const Ref<Job>& job, const Ref<JobContext>& context);
/// Blocks until a job has ended; rethrows its error.
void wait_for_job(PoolCore& core, ErrorJob& job);
/// Both.
void run_job(PoolCore& core, const Ref<ErrorJob>& job, const Ref<JobContext>& context);

/// apply: one piece with callable and arguments in it.
template <class R, class F, class... A>
class ApplyJob final : public ResultJob<Valued<R>> {
 public:
  ApplyJob(JobSettings settings, F f, A... arguments)
      : ResultJob<Valued<R>>(std::move(settings)),
        callable_(f),
        arguments_(std::move(arguments)...) {}

  Piece feed(wire::Writer& out) override {
    if (fed_) return {};
    fed_ = true;
    callable_.write(out);
    std::apply([&](const A&... each) { (wire::encode(out, each), ...); }, arguments_);
    return {.first = 0, .count = 1, .last = true};
  }
  Piece skip() override {
    fed_ = true;
    return {.first = 0, .count = 1};
  }
  void deliver(const Piece&, wire::Reader& reply, const PieceReport&) override {
    if constexpr (std::is_void_v<R>) {
      result_.emplace();
    } else {
      result_.emplace(wire::decode<R>(reply));
    }
  }
  Valued<R>& result() override { return *result_; }

 private:
  wire::Parcel<F> callable_;
  std::tuple<A...> arguments_;
  std::optional<Valued<R>> result_;
  bool fed_ = false;
};

/// Where the items of a map come from: a random-access range that outlives the job or is kept by
/// it.
template <class Items, class V>
class ItemSource {
 public:
  explicit ItemSource(Items items) : items_(std::move(items)) {}
  [[nodiscard]] std::uint64_t size() const { return size_of(items_); }
  [[nodiscard]] static std::uint64_t size_of(const Items& items) {
    if constexpr (std::is_pointer_v<Items>) {
      return static_cast<std::uint64_t>(std::ranges::size(*items));
    } else {
      return static_cast<std::uint64_t>(std::ranges::size(items));
    }
  }
  void encode(wire::Writer& out, std::uint64_t first, std::uint64_t count) const {
    auto it = std::ranges::begin(view()) + static_cast<std::ptrdiff_t>(first);
    for (std::uint64_t i = 0; i < count; ++i, ++it) {
      if constexpr (std::same_as<std::remove_cvref_t<decltype(*it)>, V>) {
        wire::encode(out, *it);
      } else {
        wire::encode(out, V(*it));
      }
    }
  }

 private:
  auto& view() const {
    if constexpr (std::is_pointer_v<Items>) {
      return *items_;
    } else {
      return items_;
    }
  }
  mutable Items items_;
};

/// map over encoded items, in input order. Items is a container, or a pointer to one that the
/// blocked caller keeps.
template <class Items, class V, class R>
class MapJob final
    : public ResultJob<std::conditional_t<std::is_void_v<R>, NoneType, std::vector<Valued<R>>>> {
  using Base = ResultJob<std::conditional_t<std::is_void_v<R>, NoneType, std::vector<Valued<R>>>>;
  using Result = std::conditional_t<std::is_void_v<R>, NoneType, std::vector<Valued<R>>>;

 public:
  MapJob(JobSettings settings, Items items, Chunker chunker)
      : Base(std::move(settings)), source_(std::move(items)), chunker_(chunker) {
    size_ = source_.size();
    this->settings_.total = size_;
  }
  Piece feed(wire::Writer& out) override {
    const Piece piece = skip();
    if (piece.count == 0) return piece;
    out.put(piece.count);
    source_.encode(out, piece.first, piece.count);
    return piece;
  }
  Piece skip() override {
    const Piece piece{.first = next_, .count = chunker_.next(size_ - next_)};
    next_ += piece.count;
    return piece;
  }
  void deliver(const Piece& piece, wire::Reader& reply, const PieceReport&) override {
    if constexpr (!std::is_void_v<R>) {
      if (this->error_ || piece.first != appended_) {  // results that hold handles are always taken
        Result part;
        decode(reply, piece.count, part);
        if (!this->error_) later_.put(piece.first, std::move(part));
        return;
      }
      decode(reply, piece.count, result_);
      appended_ += piece.count;
      while (auto part = later_.take(appended_)) {
        appended_ += part->size();
        for (auto&& item : *part) result_.push_back(std::move(item));
      }
    }
  }
  Result& result() override { return result_; }

 private:
  static void decode(wire::Reader& reply, std::uint64_t count, Result& to) {
    for (std::uint64_t i = 0; i < count; ++i) to.push_back(wire::decode<R>(reply));
  }

  ItemSource<Items, V> source_;
  Chunker chunker_;
  std::uint64_t size_ = 0;
  std::uint64_t next_ = 0;
  std::uint64_t appended_ = 0;
  Result result_{};
  EarlyParts<Result> later_;
};

/// map where every item runs and yields an Outcome.
template <class Items, class V, class R>
class CollectJob final : public ResultJob<std::vector<Outcome<R>>> {
 public:
  CollectJob(JobSettings settings, Items items, Chunker chunker)
      : ResultJob<std::vector<Outcome<R>>>(std::move(settings)),
        source_(std::move(items)),
        chunker_(chunker) {
    size_ = source_.size();
    this->settings_.total = size_;
    found_.resize(size_);
  }
  Piece feed(wire::Writer& out) override {
    const Piece piece = skip();
    if (piece.count == 0) return piece;
    out.put(piece.count);
    source_.encode(out, piece.first, piece.count);
    return piece;
  }
  Piece skip() override {
    const Piece piece{.first = next_, .count = chunker_.next(size_ - next_)};
    next_ += piece.count;
    return piece;
  }
  void deliver(const Piece& piece, wire::Reader& reply, const PieceReport& report) override {
    for (std::uint64_t i = 0; i < piece.count; ++i) {
      found_[piece.first + i].emplace(take_outcome<R>(reply, report.pid));
    }
  }
  void fail(const Piece& piece, const std::exception_ptr& error) override {
    if (piece.count == 0) this->error_ = error;  // the source or the whole job failed
    for (std::uint64_t i = 0; i < piece.count; ++i) {
      found_[piece.first + i].emplace(error, typename Outcome<R>::Facts{});
    }
  }
  std::vector<Outcome<R>>& result() override { return result_; }

 protected:
  void prepare() override {
    if (this->error_) return;
    result_.reserve(size_);
    for (auto& each : found_) result_.push_back(*std::move(each));
    found_.clear();
  }

 private:
  ItemSource<Items, V> source_;
  Chunker chunker_;
  std::uint64_t size_ = 0;
  std::uint64_t next_ = 0;
  std::vector<std::optional<Outcome<R>>> found_;
  std::vector<Outcome<R>> result_;
};

}  // namespace millrace::runtime
