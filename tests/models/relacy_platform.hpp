// The product's templates on Relacy's atomics. Include the product's headers before this one:
// Relacy redefines the names of the memory orders.
#pragma once

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <ostream>

namespace model {

constexpr std::memory_order kRelaxed = std::memory_order_relaxed;
constexpr std::memory_order kAcquire = std::memory_order_acquire;
constexpr std::memory_order kRelease = std::memory_order_release;
constexpr std::memory_order kAcqRel = std::memory_order_acq_rel;
constexpr std::memory_order kSeqCst = std::memory_order_seq_cst;

}  // namespace model

#include <relacy/relacy.hpp>

namespace model {

inline rl::memory_order order(std::memory_order wanted) {
  switch (wanted) {
    case kRelaxed:
      return rl::mo_relaxed;
    case kAcquire:
      return rl::mo_acquire;
    case kRelease:
      return rl::mo_release;
    case kAcqRel:
      return rl::mo_acq_rel;
    default:
      return rl::mo_seq_cst;
  }
}

// An atomic with the interface of std::atomic. Hook::before() runs ahead of every operation and may
// throw: the thread ends there, as a killed process would. Hook may weaken orders or change values.
template <class T, class Hook>
class Atomic {
 public:
  Atomic(T value = T()) : atomic_(value) {}

  T load(std::memory_order wanted) const {
    Hook::before();
    return atomic_.load(order(Hook::load_order(wanted)), RL_INFO);
  }
  void store(T value, std::memory_order wanted) {
    Hook::before();
    const T stored = Hook::stored(value);
    atomic_.store(stored, order(Hook::store_order(value, wanted)), RL_INFO);
  }
  T fetch_add(T value, std::memory_order wanted) {
    Hook::before();
    return atomic_.fetch_add(Hook::added(value), order(wanted), RL_INFO);
  }
  T fetch_or(T value, std::memory_order wanted) {
    Hook::before();
    return atomic_.fetch_or(value, order(wanted), RL_INFO);
  }
  bool compare_exchange_strong(T& expected, T value, std::memory_order success,
                               std::memory_order failure) {
    Hook::before();
    return atomic_.compare_exchange_strong(expected, Hook::exchanged(expected, value),
                                           order(success), RL_INFO, order(failure), RL_INFO);
  }

 private:
  rl::atomic<T> atomic_;
};

// Runs a model; for a mutant success means that it was caught.
template <class Suite>
int run(const char* name, bool mutant, unsigned long iterations) {
  rl::test_params params;
  // A stream without a buffer drops what it is given; Relacy replaces operator new, so a string
  // stream would grow with one allocator and shrink with another.
  std::ostream quiet(nullptr);
  params.output_stream = &quiet;
  params.progress_stream = &quiet;
  params.iteration_count = iterations;
  params.execution_depth_limit = 6000;
  params.search_type = rl::random_scheduler_type;
  const bool held = rl::simulate<Suite>(params);
  std::printf("%s: %s after %lu executions%s%s\n", name, held ? "holds" : "broken",
              static_cast<unsigned long>(params.stop_iteration), held ? "" : ": ",
              held ? "" : rl::test_result_str(params.test_result));
  return held == mutant ? 1 : 0;
}

}  // namespace model
