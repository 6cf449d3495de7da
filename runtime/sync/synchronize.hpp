// What the handles of <millrace/synchronize.hpp> and <millrace/sharedctypes.hpp> share.
#pragma once

#include <chrono>
#include <millrace/handle.hpp>
#include <millrace/timeout.hpp>
#include <string>

#include "shm/parking.hpp"
#include "shm/shared_lock.hpp"

namespace millrace::runtime {

[[noreturn]] void throw_moved_from(const char* what);

/// The state behind a handle. Throws ValueError for one that was moved from.
template <class State>
State& payload_of(const shm::ObjectRef& object, const char* what) {
  if (object.payload() == nullptr) [[unlikely]]
    throw_moved_from(what);
  return *static_cast<State*>(object.payload());
}

/// A new object of zero bytes for handles of type H; the first `links` words are references.
template <class H>
shm::ObjectRef make_object(std::size_t bytes, std::uint64_t links = 0) {
  return shm::ObjectRef(
      shm::ObjectRequest{bytes, shm::object_type<typename H::SharedType>(), 0, {}, links});
}

/// Acquires a Lock or RLock; false at the deadline. Throws AbandonedLock, which holds it.
bool take_lock(const shm::ObjectRef& object, Timeout timeout);
/// Releases it; throws as its class says.
void release_lock(const shm::ObjectRef& object);

/// The calling process as repr() names it, with its thread if that is not the main one.
std::string caller_name();
/// "0x200000000040".
std::string address_text(const shm::ObjectRef& object);

/// How events, conditions and barriers wait: a short spin, two yields, then parked; a wake-up that
/// died with its waker is noticed after a slice.
inline shm::WaitPolicy wait_policy() {
  shm::WaitPolicy policy;
  policy.spin = std::chrono::microseconds(2);
  policy.slice = std::chrono::milliseconds(50);
  policy.interruptible = true;
  return policy;
}

}  // namespace millrace::runtime
