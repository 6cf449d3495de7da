#include <atomic>
#include <millrace/ref.hpp>

namespace millrace::runtime {

Counted::~Counted() = default;

void Counted::dispose() noexcept { delete this; }

void Counted::hold() const noexcept {
  // relaxed: whoever holds another one has a reference, so the object cannot be going away.
  std::atomic_ref(references_).fetch_add(1, std::memory_order_relaxed);
}

void Counted::let_go() const noexcept {
  // LAST reference: both ends are here, in ref.cpp. Each call hands what was done to the object on
  // to the last one, which disposes of it.
  if (std::atomic_ref(references_).fetch_sub(1, std::memory_order_acq_rel) == 1) {
    const_cast<Counted*>(this)->dispose();
  }
}

}  // namespace millrace::runtime
