// What a process does at its end: finalizers by priority, and its children.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <millrace/process.hpp>
#include <optional>

namespace millrace::runtime {

/// One registered finalizer; all fields belong to exit.cpp and its lock.
struct FinalizerEntry {
  std::unique_ptr<Deferred> callback;  // null: has run, or was cancelled
  std::optional<int> priority;         // none: not run at exit
  std::uint64_t serial = 0;            // age: later ones run first
  pid_t creator = 0;                   // the only process that runs it
};

std::shared_ptr<FinalizerEntry> add_finalizer(std::unique_ptr<Deferred> callback,
                                              std::optional<int> priority);

/// Runs the exit sequence of this process once; later calls do nothing. Also run at std::exit of a
/// process that has children or finalizers. Order, Python's: finalizers with priority >= 0, highest
/// first, then newest; daemonic children ended; all children joined; the other finalizers.
void run_exit_sequence() noexcept;

/// Sees to it that std::exit and a return from main() run the sequence. Idempotent.
void arrange_exit_sequence();

}  // namespace millrace::runtime
