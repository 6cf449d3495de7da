// Where a Process shall run: decided by its parent, applied by itself.
#pragma once

#include <millrace/affinity.hpp>
#include <optional>
#include <utility>

namespace millrace::runtime {

/// The place of one child process.
class ChildBinding {
 public:
  /// Decides, in the parent: `.bind`, else MILLRACE_BIND and the batch job's hints, else none.
  /// Several processes with one binding take its places in turn. Throws ValueError for text that
  /// cannot be understood.
  explicit ChildBinding(const std::optional<affinity::Binding>& option);
  /// As another process has decided.
  explicit ChildBinding(affinity::PlannedWorker place) : place_(std::move(place)) {}

  [[nodiscard]] const affinity::PlannedWorker& place() const noexcept { return place_; }

  /// In the child: binds it, or gives it its parent's mask back where nothing is asked for. Reports
  /// the binding under the process's name if MILLRACE_REPORT_BINDINGS says so.
  void apply() const;

 private:
  affinity::PlannedWorker place_;  // no cpus: not bound
};

}  // namespace millrace::runtime
