// What stays in the parent: the jobs whose input is read lazily, imap and imap_unordered.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <millrace/job.hpp>
#include <millrace/outcome.hpp>
#include <millrace/pool_entries.hpp>
#include <millrace/pool_jobs.hpp>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace::runtime {

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
  /// An item has ended.
  void put(std::uint64_t index, Outcome<R> outcome) {
    if (!ordered_) {
      arrived_.emplace_back(std::move(outcome));
      return;
    }
    const std::uint64_t at = index - taken_ + head_;
    if (arrived_.size() <= at) arrived_.resize(at + 1);
    arrived_[at].emplace(std::move(outcome));
  }

  std::uint64_t fed_ = 0;
  std::uint64_t window_;

 private:
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
  bool fresh_ = false;  ///< the iterator stands on an item that was not read
  bool has_read_ = false;
  std::uint64_t waiting_ = 0;  ///< items in scratch_
  std::exception_ptr error_;   ///< thrown by the source behind them
  wire::Writer scratch_;
};

}  // namespace millrace::runtime
