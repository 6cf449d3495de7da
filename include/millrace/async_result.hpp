// What the asynchronous calls of a pool return: AsyncResult and ImapIterator.
#pragma once

#include <cstddef>
#include <millrace/errors.hpp>
#include <millrace/imap_jobs.hpp>
#include <millrace/pool_jobs.hpp>
#include <optional>
#include <type_traits>
#include <utility>

namespace millrace {

/// The result of apply_async, map_async or starmap_async, when it is there. Move-only; dropping it
/// neither waits nor cancels. Calls on one that was moved from are ValueErrors.
/// Python: multiprocessing.pool.AsyncResult.
template <class R>
class AsyncResult {
  using Stored = runtime::Valued<R>;
  using JobType = runtime::ResultJob<Stored>;

 public:
  AsyncResult(runtime::Ref<runtime::PoolCore> core, runtime::Ref<JobType> job)
      : core_(std::move(core)), job_(std::move(job)) {}
  AsyncResult(AsyncResult&&) noexcept = default;
  AsyncResult& operator=(AsyncResult&&) noexcept = default;
  AsyncResult(const AsyncResult&) = delete;
  AsyncResult& operator=(const AsyncResult&) = delete;
  ~AsyncResult() = default;

  /// Waits for the result and gives it; rethrows what the task threw. TimeoutError when it is not
  /// there in time; it is still obtainable then. Repeatable. Python: get(timeout).
  std::conditional_t<std::is_void_v<R>, void, const Stored&> get(Timeout timeout = {}) & {
    await(timeout);
    if constexpr (!std::is_void_v<R>) return job_->result();
  }
  R get(Timeout timeout = {}) && {
    await(timeout);
    if constexpr (!std::is_void_v<R>) return std::move(job_->result());
  }
  /// Waits until the result is there or the time is over; true when it is there.
  bool wait(Timeout timeout = {}) { return core().wait(*job_, timeout); }
  /// True when the call has ended, well or not. Does not block.
  [[nodiscard]] bool ready() {
    core().poll(*job_);
    const runtime::JobGuard lock(*core_);
    return job_->done();
  }
  /// True when the call ended without an exception; ValueError before ready().
  [[nodiscard]] bool successful() {
    if (!ready()) throw ValueError("the result is not ready: wait() for it first");
    return job_->error() == nullptr;
  }
  /// Ends the call now: what has not begun is dropped, a worker that runs it is replaced, get()
  /// throws ProcessError. False if it had ended already. Python: none.
  bool cancel() {
    return core().cancel(*job_, std::make_exception_ptr(ProcessError("the task was cancelled")));
  }

 private:
  void await(Timeout timeout) {
    if (!core().wait(*job_, timeout)) {
      throw TimeoutError("the result was not there in time; it can still be waited for");
    }
    if (job_->error()) std::rethrow_exception(job_->error());
  }
  [[nodiscard]] runtime::PoolCore& core() const {
    if (!core_) throw ValueError("an AsyncResult that was moved from has no result");
    return *core_;
  }

  runtime::Ref<runtime::PoolCore> core_;
  runtime::Ref<JobType> job_;
};

/// The results of imap and imap_unordered, one by one. A single-pass range; move-only. Reads the
/// input lazily, on the thread that calls next() or iterates. An item that failed throws in its
/// place, and iteration, by next() or a new loop, goes on behind it.
/// Python: multiprocessing.pool.IMapIterator.
template <class R, bool Collect>
class ImapIterator {
  using Item = runtime::Valued<R>;
  using JobType = runtime::ImapJobBase<Item>;

 public:
  /// What comes: R, NoneType for void, or Outcome of it with `.on_error = mp::collect`.
  using value_type = std::conditional_t<Collect, Outcome<Item>, Item>;

  ImapIterator(runtime::Ref<runtime::PoolCore> core, runtime::Ref<JobType> job)
      : core_(std::move(core)), job_(std::move(job)) {}
  ImapIterator(ImapIterator&&) noexcept = default;
  ImapIterator& operator=(ImapIterator&& other) noexcept {
    if (this != &other) {
      abandon();
      core_ = std::move(other.core_);
      job_ = std::move(other.job_);
      current_ = std::move(other.current_);
    }
    return *this;
  }
  ImapIterator(const ImapIterator&) = delete;
  ImapIterator& operator=(const ImapIterator&) = delete;
  ~ImapIterator() { abandon(); }

  /// The next result, std::nullopt at the end. TimeoutError when it is not there in time; it is
  /// still obtainable then. Python: next(timeout), with StopIteration at the end.
  std::optional<value_type> next(Timeout timeout = {}) {
    if (!core_) throw ValueError("an ImapIterator that was moved from has no items");
    if (!core_->wait(*job_, timeout)) {
      throw TimeoutError("the next item was not there in time; it can still be waited for");
    }
    std::optional<Outcome<Item>> item;
    {
      const runtime::JobGuard lock(*core_);
      item = job_->take();
    }
    if (!item) return std::nullopt;
    if constexpr (Collect) {
      return item;
    } else {
      return (*std::move(item)).value();
    }
  }

  class iterator {
   public:
    using value_type = ImapIterator::value_type;
    using difference_type = std::ptrdiff_t;
    using iterator_concept = std::input_iterator_tag;
    iterator() = default;
    explicit iterator(ImapIterator* from) : from_(from) {}
    value_type& operator*() const { return *from_->current_; }
    iterator& operator++() {
      from_->advance();
      return *this;
    }
    void operator++(int) { from_->advance(); }
    friend bool operator==(const iterator& it, std::default_sentinel_t) { return it.at_end(); }

   private:
    [[nodiscard]] bool at_end() const { return !from_->current_.has_value(); }

    ImapIterator* from_ = nullptr;
  };

  /// Takes the next item and stands on it.
  iterator begin() {
    advance();
    return iterator(this);
  }
  [[nodiscard]] std::default_sentinel_t end() const noexcept { return {}; }

 private:
  void advance() {
    current_.reset();
    auto item = next();
    if (item) current_.emplace(*std::move(item));
  }
  void abandon() noexcept {
    if (core_ && job_) core_->abandon(*job_);
  }

  runtime::Ref<runtime::PoolCore> core_;
  runtime::Ref<JobType> job_;
  std::optional<value_type> current_;
};

}  // namespace millrace
