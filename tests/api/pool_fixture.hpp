// What the tests of the pool share: fixtures that leave nothing behind, an end to hangs, gates that
// hold tasks up, and functions and types to send.
#pragma once

#include <execinfo.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <millrace/arena.hpp>
#include <millrace/context.hpp>
#include <millrace/pool.hpp>
#include <ranges>
#include <string>
#include <vector>

#include "shm/arena.hpp"
#include "tests/leak_check.hpp"

namespace millrace::test {

/// A test that hangs ends with a stack trace, so that nothing waits for it.
inline void on_hang(int) {
  static constexpr char kText[] = "the test hangs; its main thread is at\n";
  (void)!::write(STDERR_FILENO, kText, sizeof kText - 1);
  void* frames[64];
  ::backtrace_symbols_fd(frames, ::backtrace(frames, 64), STDERR_FILENO);
  ::abort();
}

/// Memory of the arena in use, without that of slabs, which is kept.
inline std::size_t arena_spans() {
  const shm::ArenaUsage usage = shm::Arena::instance().usage();
  return usage.span_bytes - usage.slab_bytes;
}

/// The start method that this run of the program is about; null: the default.
inline const char* tested_start_method() { return std::getenv("MILLRACE_TEST_START_METHOD"); }

class PoolTest : public LeakCheck {
 protected:
  static constexpr unsigned kHangSeconds = 150;

  void SetUp() override {
    if (const char* const method = tested_start_method()) {
      set_start_method(method, {.force = true});
    }
    void* frames[1];
    (void)::backtrace(frames, 1);  // it loads a library the first time
    ::signal(SIGALRM, &on_hang);
    ::alarm(kHangSeconds);
    {
      // What is made once per program: tables of handles that travel, of functions.
      Pool warm(1);
      (void)warm.apply([](const shared_array<int>& array) { return array; }, shared_array<int>(1));
    }
    LeakCheck::SetUp();
    spans_ = arena_spans();
  }
  void TearDown() override {
    EXPECT_EQ(arena_spans(), spans_) << "memory of the arena is left";
    LeakCheck::TearDown();
    ::alarm(0);
  }

 private:
  std::size_t spans_ = 0;
};

/// The same over pools of 1, 2 and 5 workers: fewer, as many and more than the machine may have.
class PoolOfAnySize : public PoolTest, public ::testing::WithParamInterface<int> {
 protected:
  [[nodiscard]] static int workers() { return GetParam(); }
};

#define MILLRACE_POOL_SIZES(Fixture)                                     \
  INSTANTIATE_TEST_SUITE_P(Workers, Fixture, ::testing::Values(1, 2, 5), \
                           [](const auto& given) { return std::to_string(given.param); })

/// Holds tasks up until the test opens it, and counts those that came.
struct Gate {
  void open() const { word(0).store(1, std::memory_order_release); }
  /// In a task: says that it is here, and waits.
  void pass() const {
    arrive();
    while (word(0).load(std::memory_order_acquire) == 0) ::usleep(200);
  }
  /// In a task: says that it is here.
  void arrive() const { word(1).fetch_add(1, std::memory_order_acq_rel); }
  [[nodiscard]] int arrived() const { return word(1).load(std::memory_order_acquire); }
  /// In the test: waits until `count` have come.
  void await(int count) const {
    while (arrived() < count) ::usleep(200);
  }

  [[nodiscard]] std::atomic_ref<int> word(std::size_t i) const {
    return std::atomic_ref<int>(words[i]);
  }
  shared_array<int> words = shared_array<int>(2);
};

/// 0, 1, ..., n - 1.
inline std::vector<int> numbers(int n) {
  const auto all = std::views::iota(0, n);
  return {all.begin(), all.end()};
}

/// f on every item, here.
template <class F, class V>
auto apply_here(F f, const std::vector<V>& items) {
  std::vector<decltype(f(items[0]))> results;
  for (const V& item : items) results.push_back(f(item));
  return results;
}

/// A single-pass, move-only generator of n, n - 1, ..., 1 that counts what was taken from it.
class Countdown : public std::ranges::view_interface<Countdown> {
 public:
  explicit Countdown(int n, int* taken = nullptr) : n_(n), taken_(taken) {}
  Countdown(Countdown&&) = default;
  Countdown& operator=(Countdown&&) = default;
  struct Iterator {
    using value_type = int;
    using difference_type = std::ptrdiff_t;
    int operator*() const { return from->n_; }
    Iterator& operator++() {
      --from->n_;
      if (from->taken_ != nullptr) ++*from->taken_;
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return from->n_ == 0; }
    Countdown* from = nullptr;
  };
  Iterator begin() { return {this}; }
  std::default_sentinel_t end() { return {}; }

 private:
  int n_;
  int* taken_;
};
static_assert(std::ranges::input_range<Countdown> && !std::ranges::forward_range<Countdown>);

struct Point {
  double x, y;
  [[nodiscard]] double norm() const { return std::sqrt(x * x + y * y); }
};

struct Rich {
  std::string name;
  std::vector<double> values;
  friend bool operator==(const Rich&, const Rich&) = default;
};

inline int square(int x) { return x * x; }
inline int add(int a, int b) { return a + b; }

}  // namespace millrace::test
