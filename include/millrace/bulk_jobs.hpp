// What stays in the parent: the jobs that move bytes instead of encoded items, map and reduce.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <millrace/job.hpp>
#include <millrace/outcome.hpp>
#include <millrace/pool_entries.hpp>
#include <millrace/pool_jobs.hpp>
#include <optional>
#include <ranges>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace::runtime {

/// How much of a bulk input travels at once: it stays in the second-level cache on its way.
inline constexpr std::uint64_t kBulkBytes = 120 * 1024;

/// map over contiguous trivially copyable items: bytes out, bytes back, appended in input order.
/// Keeper owns the items where the caller does not.
template <class V, class R, class Keeper>
class BulkMapJob final
    : public ResultJob<std::conditional_t<std::is_void_v<R>, NoneType, std::vector<Valued<R>>>> {
  using Result = std::conditional_t<std::is_void_v<R>, NoneType, std::vector<Valued<R>>>;
  using Item = Valued<R>;

 public:
  BulkMapJob(JobSettings settings, const V* items, std::uint64_t size, Chunker chunker)
      : ResultJob<Result>(std::move(settings)), items_(items), size_(size), chunker_(chunker) {
    this->settings_.total = size_;
    in_place_ = in_arena(items_, size_ * sizeof(V));
    this->settings_.copied = !in_place_;
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
    const Piece piece{.first = next_,
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
      while (const auto part = later_.take(appended_))
        append(part->data(), part->size() / sizeof(R));
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
      provide_pages(result_.data() + result_.size(), count * sizeof(R));
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

/// map_into between arrays in the parent's private memory. The parent copies most pieces through
/// shared memory, which keeps one worker busy for a fraction of the time; where workers can reach
/// the parent's memory by themselves, every kPullEvery-th piece is theirs to fetch and to put back.
template <class V, class R>
class IntoJob final : public ResultJob<NoneType> {
 public:
  /// `pull`: workers can reach the parent's private memory.
  IntoJob(JobSettings settings, std::span<const V> in, R* out, Chunker chunker, bool pull)
      : ResultJob<NoneType>(std::move(settings)),
        in_(in),
        out_(out),
        chunker_(chunker),
        pull_(pull) {
    this->settings_.total = in_.size();
    this->settings_.writes_back = pull_;
    this->settings_.copied = true;
  }

  Piece feed(wire::Writer& out) override {
    const Piece piece = skip();
    if (piece.count == 0) return piece;
    out.put(piece.count);
    const bool pulled = pull_ && piece.first / widest() % kPullEvery == kPullEvery - 1;
    const V* items = in_.data() + piece.first;
    out.put(pulled ? reinterpret_cast<std::uint64_t>(items) : std::uint64_t{0});
    if (pulled) {
      out.put(reinterpret_cast<std::uint64_t>(out_ + piece.first));
    } else {
      out.write(items, piece.count * sizeof(V));
    }
    return piece;
  }
  Piece skip() override {
    if (chunk_end_ == next_) chunk_end_ += chunker_.next(in_.size() - next_);
    const Piece piece{.first = next_,
                      .count = smaller(chunk_end_ - next_, widest()),
                      .starts_chunk = chunk_begin_ == next_};
    next_ += piece.count;
    if (next_ == chunk_end_) chunk_begin_ = next_;
    return piece;
  }
  std::size_t reply_bytes(const Piece& piece) const override { return piece.count * sizeof(R); }
  void deliver(const Piece& piece, wire::Reader& reply, const PieceReport&) override {
    if (reply.remaining() == 0) return;  // the worker has put the results where they belong
    std::memcpy(static_cast<void*>(out_ + piece.first), reply.skip(piece.count * sizeof(R)),
                piece.count * sizeof(R));
  }
  NoneType& result() override { return none_; }

 private:
  static constexpr std::uint64_t kPullEvery = 5;
  static constexpr std::uint64_t widest() noexcept {
    return larger(1, kBulkBytes / larger(sizeof(V), sizeof(R)));
  }

  std::span<const V> in_;
  R* out_;
  Chunker chunker_;
  bool pull_;
  std::uint64_t next_ = 0;
  std::uint64_t chunk_begin_ = 0;
  std::uint64_t chunk_end_ = 0;
  NoneType none_{};
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

}  // namespace millrace::runtime
