// What stays in the parent: the typed jobs of a pool, which cut an input into pieces and put the
// replies together again. Every member function is called under the pool's lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <ranges>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <millrace/job.hpp>
#include <millrace/outcome.hpp>
#include <millrace/pool_entries.hpp>

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
template <class... F>
class JobContext {
 public:
  explicit JobContext(const F&... callables) : JobContext(std::span<const std::byte>(), callables...) {}
  explicit JobContext(std::span<const std::byte> prefix, const F&... callables)
      : parcels_(callables...) {
    writer_.write(prefix.data(), prefix.size());
    std::apply([this](auto&... parcel) { (parcel.write(writer_), ...); }, parcels_);
  }
  JobContext(const JobContext&) = delete;
  JobContext& operator=(const JobContext&) = delete;
  ~JobContext() { writer_.revert(0); }
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept {
    return {writer_.data(), writer_.size()};
  }

 private:
  std::tuple<wire::Parcel<F>...> parcels_;
  wire::Writer writer_;
};

/// A job with one error at most: the first to arrive.
template <class Result>
class ResultJob : public Job {
 public:
  using Job::Job;
  void fail(const Piece&, const std::exception_ptr& error) override {
    if (!error_) error_ = error;
  }
  [[nodiscard]] const std::exception_ptr& error() const noexcept { return error_; }
  [[nodiscard]] virtual Result& result() = 0;

  Callback<std::conditional_t<std::same_as<Result, NoneType>, void, Result>> callback{};
  ErrorCallback error_callback{};

  void finished() override {
    prepare();
    try {
      if (error_) {
        if (error_callback) error_callback(error_);
      } else if (callback) {
        if constexpr (std::same_as<Result, NoneType>) {
          callback();
        } else {
          callback(result());
        }
      }
    } catch (...) {
      log_callback_failure(error_ ? "error_callback" : "callback");
    }
  }

 protected:
  virtual void prepare() {}
  std::exception_ptr error_;
};

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

/// Where the items of a map come from: a random-access range that outlives the job or is kept by it.
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
class MapJob final : public ResultJob<std::conditional_t<std::is_void_v<R>, NoneType,
                                                         std::vector<Valued<R>>>> {
  using Base =
      ResultJob<std::conditional_t<std::is_void_v<R>, NoneType, std::vector<Valued<R>>>>;
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

/// How much of a bulk input travels at once: it stays in the second-level cache on its way.
inline constexpr std::uint64_t kBulkBytes = 120 * 1024;

/// map over contiguous trivially copyable items: bytes out, bytes back, appended in input order.
/// Keeper owns the items where the caller does not.
template <class V, class R, class Keeper>
class BulkMapJob final : public ResultJob<std::conditional_t<std::is_void_v<R>, NoneType,
                                                             std::vector<Valued<R>>>> {
  using Result = std::conditional_t<std::is_void_v<R>, NoneType, std::vector<Valued<R>>>;
  using Item = Valued<R>;

 public:
  BulkMapJob(JobSettings settings, const V* items, std::uint64_t size, Chunker chunker)
      : ResultJob<Result>(std::move(settings)), items_(items), size_(size), chunker_(chunker) {
    this->settings_.total = size_;
    in_place_ = in_arena(items_, size_ * sizeof(V));
    if constexpr (!std::is_void_v<R>) result_.reserve(size_);
  }
  /// Keeps what the items lie in.
  void keep(Keeper keeper) { keeper_ = std::move(keeper); }
  [[nodiscard]] bool in_place() const noexcept { return in_place_; }

  Piece feed(wire::Writer& out) override {
    const Piece piece = skip();
    if (piece.count == 0) return piece;
    out.put(piece.count);
    if (in_place_) {
      out.put(reinterpret_cast<std::uint64_t>(items_ + piece.first));
    } else {
      out.write(items_ + piece.first, piece.count * sizeof(V));
    }
    return piece;
  }
  Piece skip() override {
    if (chunk_end_ == next_) chunk_end_ += chunker_.next(size_ - next_);
    const std::uint64_t widest = larger(sizeof(V), sizeof(Item));
    const Piece piece{
        .first = next_,
        .count = smaller(chunk_end_ - next_, larger(1, kBulkBytes / widest)),
        .starts_chunk = chunk_begin_ == next_};
    next_ += piece.count;
    if (next_ == chunk_end_) chunk_begin_ = next_;
    return piece;
  }
  std::size_t reply_bytes(const Piece& piece) const override { return piece.count * sizeof(Item); }
  void deliver(const Piece& piece, wire::Reader& reply, const PieceReport&) override {
    if constexpr (!std::is_void_v<R>) {
      if (this->error_) return;
      const std::byte* bytes = reply.skip(piece.count * sizeof(R));
      if (piece.first != appended_) {
        later_.put(piece.first, std::vector<std::byte>(bytes, bytes + piece.count * sizeof(R)));
        return;
      }
      append(bytes, piece.count);
      while (const auto part = later_.take(appended_)) append(part->data(), part->size() / sizeof(R));
    }
  }
  Result& result() override { return result_; }

 private:
  void append(const std::byte* bytes, std::uint64_t count) {
    if constexpr (std::same_as<R, bool>) {
      for (std::uint64_t i = 0; i < count; ++i) result_.push_back(bytes[i] != std::byte{0});
    } else if constexpr (!std::is_void_v<R>) {
      // Trivially copyable objects: their bytes are they.
      const auto* values = reinterpret_cast<const R*>(bytes);
      result_.insert(result_.end(), values, values + count);
    }
    appended_ += count;
  }

  const V* items_;
  std::uint64_t size_;
  Chunker chunker_;
  bool in_place_ = false;
  Keeper keeper_{};
  std::uint64_t next_ = 0;
  std::uint64_t chunk_begin_ = 0;
  std::uint64_t chunk_end_ = 0;
  std::uint64_t appended_ = 0;
  Result result_{};
  EarlyParts<std::vector<std::byte>> later_;
};

/// reduce: partial results of chunks, combined in item order at the end.
template <class Items, class V, class T>
class ReduceJob final : public ResultJob<std::vector<std::optional<T>>> {
 public:
  ReduceJob(JobSettings settings, Items items, std::uint64_t chunk)
      : ResultJob<std::vector<std::optional<T>>>(std::move(settings)),
        source_(std::move(items)),
        chunk_(chunk) {
    size_ = source_.size();
    this->settings_.total = size_;
    parts_.resize((size_ + chunk_ - 1) / chunk_);
  }
  /// The items also lie contiguously at `data`: they need not be encoded.
  void contiguous(const void* data, std::size_t item_bytes) {
    data_ = static_cast<const std::byte*>(data);
    item_bytes_ = item_bytes;
    in_place_ = in_arena(data, size_ * item_bytes);
  }
  Piece feed(wire::Writer& out) override {
    const Piece piece = skip();
    if (piece.count == 0) return piece;
    out.put(piece.count);
    out.put(static_cast<std::uint8_t>(data_ != nullptr));
    if (data_ == nullptr) {
      source_.encode(out, piece.first, piece.count);
      return piece;
    }
    const std::byte* from = data_ + piece.first * item_bytes_;
    out.put(in_place_ ? reinterpret_cast<std::uint64_t>(from) : std::uint64_t{0});
    if (!in_place_) out.write(from, piece.count * item_bytes_);
    return piece;
  }
  Piece skip() override {
    const Piece piece{.first = next_, .count = smaller(chunk_, size_ - next_)};
    next_ += piece.count;
    return piece;
  }
  void deliver(const Piece& piece, wire::Reader& reply, const PieceReport&) override {
    parts_[piece.first / chunk_].emplace(wire::decode<T>(reply));
  }
  std::vector<std::optional<T>>& result() override { return parts_; }

 private:
  ItemSource<Items, V> source_;
  std::uint64_t chunk_;
  const std::byte* data_ = nullptr;
  std::size_t item_bytes_ = 0;
  bool in_place_ = false;
  std::uint64_t size_ = 0;
  std::uint64_t next_ = 0;
  std::vector<std::optional<T>> parts_;
};

/// imap: reads its input lazily, at most `window` items ahead of the reader.
template <class R>
class ImapJobBase : public Job {
 public:
  ImapJobBase(JobSettings settings, std::uint64_t window, bool ordered)
      : Job(std::move(settings)), window_(window), ordered_(ordered) {}

  [[nodiscard]] bool window_full() const override { return fed_ - taken_ >= window_; }
  [[nodiscard]] bool window_half_full() const override { return fed_ - taken_ > window_ / 2; }
  void unbound() override { window_ = UINT64_MAX; }
  [[nodiscard]] bool ready() const override { return has_next() || done(); }
  void deliver(const Piece& piece, wire::Reader& reply, const PieceReport& report) override {
    std::uint64_t taken = 0;
    try {
      for (; taken < piece.count; ++taken) {
        put(piece.first + taken, take_outcome<R>(reply, report.pid));
      }
    } catch (...) {  // a result that cannot be rebuilt, and where the next begins is not known
      fail({.first = piece.first + taken, .count = piece.count - taken}, std::current_exception());
    }
  }
  void fail(const Piece& piece, const std::exception_ptr& error) override {
    if (piece.count == 0) source_error_ = error;
    for (std::uint64_t i = 0; i < piece.count; ++i) {
      put(piece.first + i, Outcome<R>(error, typename Outcome<R>::Facts{}));
    }
  }

  /// True when an item can be taken now.
  [[nodiscard]] bool has_next() const {
    return head_ < arrived_.size() && arrived_[head_].has_value();
  }
  /// Takes the next item; nullopt at the end. Throws what the source threw, once, at its place.
  std::optional<Outcome<R>> take() {
    if (!has_next()) {
      if (source_error_) std::rethrow_exception(std::exchange(source_error_, nullptr));
      return std::nullopt;
    }
    std::optional<Outcome<R>> item = std::exchange(arrived_[head_], std::nullopt);
    ++taken_;
    if (++head_ == arrived_.size() || head_ >= 4096) {
      arrived_.erase(arrived_.begin(), arrived_.begin() + static_cast<std::ptrdiff_t>(head_));
      head_ = 0;
    }
    return item;
  }

 protected:
  std::uint64_t fed_ = 0;
  std::uint64_t window_;

 private:
  void put(std::uint64_t index, Outcome<R> outcome) {
    if (!ordered_) {
      arrived_.emplace_back(std::move(outcome));
      return;
    }
    const std::uint64_t at = index - taken_ + head_;
    if (arrived_.size() <= at) arrived_.resize(at + 1);
    arrived_[at].emplace(std::move(outcome));
  }

  std::uint64_t taken_ = 0;
  bool ordered_;
  std::vector<std::optional<Outcome<R>>> arrived_;  ///< from head_ on: in order, or as they came
  std::size_t head_ = 0;
  std::exception_ptr source_error_;
};

/// imap over any input range. Source is the range itself, or a pointer to the caller's.
template <class Source, class V, class R>
class ImapJob final : public ImapJobBase<R> {
 public:
  ImapJob(JobSettings settings, Source source, std::uint64_t chunk, std::uint64_t window,
          bool ordered)
      : ImapJobBase<R>(std::move(settings), window, ordered),
        source_(std::move(source)),
        chunk_(chunk) {}

  ~ImapJob() override { scratch_.revert(0); }

  /// Reads up to a chunk of items. An item is encoded when it is read: what a generator hands out
  /// need not outlive its next step.
  void read() override {
    try {
      if (!at_) {
        at_.emplace(std::ranges::begin(range()));
        fresh_ = true;
      }
      while (!error_ && waiting_ < chunk_ && next()) ++waiting_;
    } catch (...) {
      error_ = std::current_exception();  // what was read before is still delivered
    }
    has_read_ = true;
  }
  [[nodiscard]] bool has_read() const override { return has_read_; }

  Piece feed(wire::Writer& out) override {
    if (waiting_ != 0) {
      out.put(waiting_);
      out.append(scratch_);
    }
    return skip();
  }
  Piece skip() override {
    if (waiting_ == 0 && error_) std::rethrow_exception(std::exchange(error_, nullptr));
    const Piece piece{.first = this->fed_, .count = std::exchange(waiting_, 0)};
    scratch_.revert(0);
    this->fed_ += piece.count;
    has_read_ = error_ != nullptr;
    return piece;
  }

 private:
  auto& range() {
    if constexpr (std::is_pointer_v<Source>) {
      return *source_;
    } else {
      return source_;
    }
  }
  // Encodes the next item; false at the end.
  bool next() {
    if (!fresh_) ++*at_;
    fresh_ = true;  // the increment is done, even if what follows throws
    if (*at_ == std::ranges::end(range())) return false;
    const std::size_t before = scratch_.size();
    try {
      wire::encode(scratch_, V(**at_));
    } catch (...) {
      scratch_.revert(before);
      throw;
    }
    fresh_ = false;
    return true;
  }

  Source source_;
  std::uint64_t chunk_;
  std::optional<std::ranges::iterator_t<std::remove_pointer_t<Source>>> at_;
  bool fresh_ = false;      ///< the iterator stands on an item that was not read
  bool has_read_ = false;
  std::uint64_t waiting_ = 0;  ///< items in scratch_
  std::exception_ptr error_;   ///< thrown by the source behind them
  wire::Writer scratch_;
};

}  // namespace millrace::runtime
