// The job of ThreadPool's imap and imap_unordered, whose input is read lazily on its reader's
// thread. Nothing here is for users; the templates of thread_pool.hpp need it.
#pragma once

#include <cstdint>
#include <deque>
#include <exception>
#include <map>
#include <millrace/imap_jobs.hpp>
#include <millrace/thread_jobs.hpp>
#include <optional>
#include <ranges>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace::runtime {

/// imap over any input range. Source is the range itself, or a pointer to the caller's.
template <class F, class Source, class V, class R>
class ThreadImapJob final : public ThreadJob<ImapJobBase<R>, ThreadWork> {
  using Base = ThreadJob<ImapJobBase<R>, ThreadWork>;

 public:
  ThreadImapJob(JobSettings settings, F f, Source source, std::uint64_t chunk, std::uint64_t window,
                bool ordered)
      : Base(std::tuple(std::move(settings), window, ordered), false),
        f_(std::move(f)),
        source_(std::move(source)),
        chunk_(chunk) {}

  [[nodiscard]] bool wants_input() const override { return !ended_ && !this->window_full(); }
  void read() override {
    try {
      if (!at_) {
        at_.emplace(std::ranges::begin(range()));
        fresh_ = true;
      }
      while (read_.size() < chunk_) {
        if (!fresh_) ++*at_;
        fresh_ = true;  // the increment is done, even if what follows throws
        if (*at_ == std::ranges::end(range())) {
          ends_ = true;
          return;
        }
        read_.emplace_back(**at_);
        fresh_ = false;
      }
    } catch (...) {
      thrown_ = thread_error();  // what was read before is still delivered
      ends_ = true;
    }
  }
  void admit() override {
    if (!read_.empty()) {
      const std::uint64_t first = this->fed_;
      this->fed_ += read_.size();
      waiting_.push_back({first, std::exchange(read_, {})});
    }
    ended_ = ends_;
    if (thrown_) this->fail(Piece{}, std::exchange(thrown_, nullptr));
  }
  std::optional<Piece> take() override {
    if (waiting_.empty()) return std::nullopt;
    const Piece piece{.first = waiting_.front().first, .count = waiting_.front().items.size()};
    under_way_.emplace(piece.first, std::move(waiting_.front().items));
    waiting_.pop_front();
    return piece;
  }
  [[nodiscard]] bool exhausted() const override { return ended_ && waiting_.empty(); }
  [[nodiscard]] std::uint64_t width() const override { return waiting_.size(); }
  void run(const Piece& piece, ThreadTurn& turn) override {
    std::vector<V> items;
    {
      const JobGuard lock(turn.core());
      items = std::move(under_way_.extract(piece.first).mapped());
    }
    std::vector<Outcome<R>> outcomes;
    outcomes.reserve(items.size());
    turn.begin(piece);
    with_callable<kShareable<F, V>>(f_, [&](auto& f) {
      for (V& item : items) {
        outcomes.push_back(
            outcome_of<R>(turn.tid(), [&]() -> R { return CallItem::call(f, item); }));
        if (this->stopped()) break;
      }
    });
    const bool late = turn.end();
    const JobGuard lock(turn.core());
    if (late || this->done()) return;
    for (std::uint64_t i = 0; i < outcomes.size(); ++i) {
      this->put(piece.first + i, std::move(outcomes[i]));
    }
  }

 private:
  struct Chunk {
    std::uint64_t first;
    std::vector<V> items;
  };

  auto& range() {
    if constexpr (std::is_pointer_v<Source>) {
      return *source_;
    } else {
      return source_;
    }
  }

  F f_;

  // Of the thread that reads.
  Source source_;
  std::uint64_t chunk_;
  std::optional<std::ranges::iterator_t<std::remove_pointer_t<Source>>> at_;
  bool fresh_ = false;  ///< the iterator stands on an item that was not read
  bool ends_ = false;
  std::vector<V> read_;
  std::exception_ptr thrown_;

  // Under the lock.
  bool ended_ = false;
  std::deque<Chunk> waiting_;
  std::map<std::uint64_t, std::vector<V>> under_way_;
};

}  // namespace millrace::runtime
