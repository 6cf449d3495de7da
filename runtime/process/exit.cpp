#include "runtime/process/exit.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <limits>
#include <millrace/logging.hpp>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "runtime/base/exceptions.hpp"
#include "runtime/base/fork_mutex.hpp"
#include "runtime/process/child.hpp"
#include "runtime/process/process_record.hpp"
#include "shm/immortal.hpp"

namespace millrace {
namespace runtime {
namespace {

struct Finalizers {
  ForkMutex mutex{ForkMutex::Level::finalizers};  // guards all below and every entry's fields
  std::vector<std::shared_ptr<FinalizerEntry>> at_exit;  // those with a priority, oldest first
  std::uint64_t last_serial = 0;
  bool arranged = false;  // std::exit runs the sequence
};

// Never destroyed: the exit sequence runs among the destructors of static objects.
Finalizers& finalizers() {
  static shm::Immortal<Finalizers> instance;
  return *instance;
}

// Set by the thread that runs the sequence; relaxed: exchange alone decides who does.
std::atomic<bool> g_exiting{false};

[[gnu::hot]] void forget_parents_exit() noexcept {
  g_exiting.store(false, std::memory_order_relaxed);
}

[[maybe_unused]] const bool g_prepared = [] {
  (void)finalizers();
  run_after_fork_in_child(&forget_parents_exit);
  return true;
}();

// Takes the callback out, so that it runs once whoever asks, and outside of the lock.
std::unique_ptr<Deferred> take(FinalizerEntry& entry) {
  Finalizers& all = finalizers();
  const std::lock_guard guard(all.mutex);
  if (entry.priority) {
    std::erase_if(all.at_exit, [&](const auto& other) { return other.get() == &entry; });
  }
  return std::move(entry.callback);
}

// The entry to run next: the highest priority from `lowest` up, the newest among equals.
[[gnu::hot]] std::shared_ptr<FinalizerEntry> next_at_exit(int lowest) {
  Finalizers& all = finalizers();
  const std::lock_guard guard(all.mutex);
  std::shared_ptr<FinalizerEntry> best;
  for (const auto& entry : all.at_exit) {
    if (entry->creator == ::getpid() && *entry->priority >= lowest &&
        (best == nullptr || *entry->priority >= *best->priority)) {
      best = entry;
    }
  }
  return best;
}

void call_quietly(Deferred& callback) noexcept {
  try {
    callback.call();
  } catch (...) {
    try {
      print_error("Exception in a finalizer:\n" + describe_exception(std::current_exception()));
    } catch (...) {
      print_error("Exception in a finalizer, and no memory to describe it\n");
    }
  }
}

[[gnu::hot]] void run_at_exit(int lowest) noexcept {
  while (const std::shared_ptr<FinalizerEntry> entry = next_at_exit(lowest)) {
    if (const std::unique_ptr<Deferred> callback = take(*entry)) call_quietly(*callback);
  }
}

}  // namespace

std::shared_ptr<FinalizerEntry> add_finalizer(std::unique_ptr<Deferred> callback,
                                              std::optional<int> priority) {
  auto entry = std::make_shared<FinalizerEntry>();
  entry->callback = std::move(callback);
  entry->priority = priority;
  entry->creator = ::getpid();
  if (priority) {
    arrange_exit_sequence();
    Finalizers& all = finalizers();
    const std::lock_guard guard(all.mutex);
    entry->serial = ++all.last_serial;
    all.at_exit.push_back(entry);
  }
  return entry;
}

[[gnu::hot]] void run_exit_sequence() noexcept {
  if (g_exiting.exchange(true, std::memory_order_relaxed)) return;
  logging::Logger& log = get_logger();
  log.info("process shutting down");
  log.debug("running all \"atexit\" finalizers with priority >= 0");
  run_at_exit(0);
  finish_children();
  log.debug("running the remaining \"atexit\" finalizers");
  run_at_exit(std::numeric_limits<int>::min());
}

void arrange_exit_sequence() {
  // Once for the program: a forked child inherits the registration.
  Finalizers& all = finalizers();
  const std::lock_guard guard(all.mutex);
  if (all.arranged) return;
  if (std::atexit([] { run_exit_sequence(); }) != 0) throw std::bad_alloc();
  all.arranged = true;
}

}  // namespace runtime

Finalize::Finalize(std::unique_ptr<runtime::Deferred> callback, std::optional<int> priority)
    : entry_(runtime::add_finalizer(std::move(callback), priority)) {}

Finalize::Finalize(Finalize&&) noexcept = default;

Finalize& Finalize::operator=(Finalize&& other) noexcept {
  if (this != &other) {
    Finalize ended(std::move(*this));
    entry_ = std::move(other.entry_);
  }
  return *this;
}

Finalize::~Finalize() {
  if (entry_ == nullptr || entry_->creator != ::getpid()) return;
  if (const std::unique_ptr<runtime::Deferred> callback = runtime::take(*entry_)) {
    runtime::call_quietly(*callback);
  }
}

void Finalize::operator()() {
  if (entry_ == nullptr || entry_->creator != ::getpid()) return;
  if (const std::unique_ptr<runtime::Deferred> callback = runtime::take(*entry_)) callback->call();
}

void Finalize::cancel() {
  if (entry_ != nullptr && entry_->creator == ::getpid()) runtime::take(*entry_).reset();
}

bool Finalize::still_active() const {
  if (entry_ == nullptr || entry_->creator != ::getpid()) return false;
  const std::lock_guard guard(runtime::finalizers().mutex);
  return entry_->callback != nullptr;
}

}  // namespace millrace
