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
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace::runtime {

/// A map over contiguous trivially copyable items, in bytes.
struct BulkMap {
  const void* items = nullptr;
  std::uint64_t size = 0;
  std::size_t item_bytes = 1;
  std::size_t result_bytes = 1;
  void* results = nullptr;
  /// Appends `count` results to `results`; null: there are none to keep.
  void (*append)(void* results, const std::byte* from, std::uint64_t count) = nullptr;
};

/// Runs it to its end: bytes out, bytes back, appended in input order. Rethrows the first failure.
/// Blocks.
void run_bulk_map(PoolCore& core, const BulkMap& map, MapPlan&& plan,
                  const Ref<JobContext>& context);

/// map_into between arrays in the parent's private memory.
struct BulkInto {
  const void* items = nullptr;
  void* results = nullptr;
  std::uint64_t size = 0;
  std::size_t item_bytes = 1;
  std::size_t result_bytes = 1;
};

/// Runs it to its end. Rethrows the first failure. Blocks.
void run_bulk_into(PoolCore& core, const BulkInto& map, MapPlan&& plan,
                   const Ref<JobContext>& context);

/// BulkMap::append for a vector of R.
template <class R>
void append_bulk(void* results, const std::byte* from, std::uint64_t count) {
  auto& to = *static_cast<std::vector<R>*>(results);
  if constexpr (std::same_as<R, bool>) {
    for (std::uint64_t i = 0; i < count; ++i) to.push_back(from[i] != std::byte{0});
  } else {
    // Trivially copyable objects: their bytes are they.
    const auto* values = reinterpret_cast<const R*>(from);
    provide_pages(to.data() + to.size(), count * sizeof(R));
    to.insert(to.end(), values, values + count);
  }
}

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
