// Locks, semaphores and events: handles over the words of shm/.
#include "runtime/sync/synchronize.hpp"

#include <pthread.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <millrace/synchronize.hpp>
#include <ostream>
#include <system_error>

#include "runtime/process/child.hpp"
#include "shm/event_word.hpp"
#include "shm/permits.hpp"
#include "shm/semaphore_word.hpp"

namespace millrace {

namespace runtime {

void throw_moved_from(const char* what) {
  throw ValueError(std::string(what) + ": this handle was moved from");
}

struct HeldLock {
  HeldLock(shm::ObjectRef held, shm::ProcessId of) : object(std::move(held)), owner(of) {}
  HeldLock(const HeldLock&) = delete;
  HeldLock& operator=(const HeldLock&) = delete;
  // A forked child has a copy of the exception, but not the lock.
  ~HeldLock() {
    auto* lock = static_cast<shm::SharedLock*>(object.payload());
    if (!kept && owner == shm::this_process_id.load(std::memory_order_relaxed)) lock->free();
  }

  shm::ObjectRef object;
  shm::ProcessId owner;
  bool kept = false;
};

std::string caller_name() {
  std::string name = process_name();
  if (::gettid() != ::getpid()) {
    name += "|Thread-" + std::to_string(shm::this_caller().thread);
  }
  return name;
}

std::string address_text(const shm::ObjectRef& object) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%p", object.payload());
  return text.data();
}

// The calls of this file that are made most come in two parts: what is done when nobody is in the
// way, a handful of instructions without a stack frame, and the rest.
namespace {

[[noreturn]] void throw_released_too_often() {
  throw ValueError("semaphore or lock released too many times");
}

[[gnu::noinline]] bool take_lock_slowly(const shm::ObjectRef& object, Timeout timeout) {
  auto& lock = payload_of<shm::SharedLock>(object, "Lock");
  const shm::Caller& me = shm::this_caller();
  const shm::SharedLock::Result result = lock.acquire(me, timeout);
  if (result.got != shm::Got::abandoned) return result.got == shm::Got::yes;
  std::shared_ptr<HeldLock> held;
  try {
    held = std::make_shared<HeldLock>(object, me.id);
  } catch (...) {  // it must not stay taken if there is no memory to say so
    lock.free();
    throw;
  }
  throw AbandonedLock(static_cast<pid_t>(result.pid), std::move(held));
}

[[gnu::noinline]] void refuse_release(shm::SharedLock::Released outcome) {
  if (outcome == shm::SharedLock::Released::unlocked) throw_released_too_often();
  throw AssertionError("attempt to release recursive lock not owned by thread");
}

void check_released(shm::SharedLock::Released outcome) {
  if (outcome != shm::SharedLock::Released::yes) [[unlikely]]
    refuse_release(outcome);
}

[[gnu::noinline]] void release_lock_slowly(const shm::ObjectRef& object) {
  auto& lock = payload_of<shm::SharedLock>(object, "Lock");
  check_released(lock.release(shm::this_caller()));
}

}  // namespace

bool take_lock(const shm::ObjectRef& object, Timeout timeout) {
  auto* lock = static_cast<shm::SharedLock*>(object.payload());
  const shm::Caller* me = shm::known_caller();
  if (lock != nullptr && me != nullptr && lock->try_quickly(*me)) [[likely]]
    return true;
  return take_lock_slowly(object, timeout);
}

void release_lock(const shm::ObjectRef& object) {
  auto* lock = static_cast<shm::SharedLock*>(object.payload());
  const shm::Caller* me = shm::known_caller();
  if (lock == nullptr || me == nullptr) [[unlikely]]
    return release_lock_slowly(object);
  check_released(lock->release(*me));
}

namespace {

bool is_locked(const shm::ObjectRef& object) {
  return payload_of<shm::SharedLock>(object, "Lock").owner() != 0;
}

std::string lock_repr(const shm::ObjectRef& object) {
  const auto& lock = payload_of<shm::SharedLock>(object, "Lock");
  const shm::Caller& me = shm::this_caller();
  const shm::ProcessId owner = lock.owner();
  std::string name = "SomeOtherProcess";
  std::string count = "nonzero";
  if (lock.is_mine(me)) {
    name = caller_name();
    count = std::to_string(lock.count());
  } else if (owner == 0) {
    name = "None";
    count = "0";
  } else if (owner == me.id) {
    name = "SomeOtherThread";
  }
  if (lock.recursive()) return "<RLock(" + name + ", " + count + ")>";
  return "<Lock(owner=" + name + ")>";
}

bool is_gone(shm::ProcessId id) { return !shm::ProcessTable::instance().check_alive(id); }

std::uint32_t checked_value(int value, const char* what) {
  if (value >= 0) return static_cast<std::uint32_t>(value);
  throw std::system_error(EINVAL, std::generic_category(),
                          std::string(what) + " with the value " + std::to_string(value));
}

[[gnu::noinline]] bool take_slowly(shm::SemaphoreWord& word, Timeout timeout) {
  if (word.try_take()) return true;
  if (timeout.duration().count() == 0) return false;
  if (shm::spin_a_little([&] { return word.count() != 0 && word.try_take(); })) return true;
  shm::Pace pace(timeout.deadline());
  return word.take(pace);
}

[[gnu::noinline]] bool take_slowly(shm::Permits& permits, Timeout timeout) {
  const shm::ProcessId me = shm::self();
  if (permits.try_take(me)) return true;
  const auto take_back = [&] { return permits.take_back(me, is_gone) != 0; };
  if (timeout.duration().count() == 0) return take_back() && permits.try_take(me);
  if (shm::spin_a_little([&] { return permits.try_take(me); })) return true;
  shm::Pace pace(timeout.deadline());
  return permits.take(me, is_gone, pace);
}

[[gnu::noinline]] void give_slowly(shm::SemaphoreWord& word) {
  if (!word.give()) throw_released_too_often();
}

[[gnu::noinline]] void give_slowly(shm::Permits& permits) {
  if (!permits.give(shm::self())) throw_released_too_often();
}

}  // namespace
}  // namespace runtime

namespace shm {
void write_text(std::ostream& out, const std::string& text) { out << text; }
}  // namespace shm

using runtime::payload_of;

AbandonedLock::AbandonedLock(pid_t pid, std::shared_ptr<runtime::HeldLock> held)
    : ProcessError("process " + std::to_string(pid) +
                   " ended while it held the lock; what it guards may be half changed"),
      pid_(pid),
      held_(std::move(held)) {}

void AbandonedLock::keep() const noexcept {
  if (held_ != nullptr) held_->kept = true;
}

AnyLock::AnyLock(Kind kind) : SharedHandle(runtime::make_object<AnyLock>(sizeof(shm::SharedLock))) {
  if (kind == Kind::rlock) payload_of<shm::SharedLock>(object(), "RLock").make_recursive();
}
bool AnyLock::take(Timeout timeout) const { return runtime::take_lock(object(), timeout); }
void AnyLock::release() const { runtime::release_lock(object()); }
bool AnyLock::locked() const { return runtime::is_locked(object()); }
std::string AnyLock::repr() const { return runtime::lock_repr(object()); }

Lock::Lock() : SharedHandle(AnyLock(AnyLock::Kind::lock).object()) {}
bool Lock::take(Timeout timeout) const { return runtime::take_lock(object(), timeout); }
void Lock::release() const { runtime::release_lock(object()); }
bool Lock::locked() const { return runtime::is_locked(object()); }
std::string Lock::repr() const { return runtime::lock_repr(object()); }

RLock::RLock() : SharedHandle(AnyLock(AnyLock::Kind::rlock).object()) {}
bool RLock::take(Timeout timeout) const { return runtime::take_lock(object(), timeout); }
void RLock::release() const { runtime::release_lock(object()); }
bool RLock::locked() const { return runtime::is_locked(object()); }
std::string RLock::repr() const { return runtime::lock_repr(object()); }

Semaphore::Semaphore(int value)
    : SharedHandle((runtime::checked_value(value, "Semaphore"),
                    runtime::make_object<Semaphore>(sizeof(shm::SemaphoreWord)))) {
  payload_of<shm::SemaphoreWord>(object(), "Semaphore").start_with(static_cast<unsigned>(value));
}

bool Semaphore::take(Timeout timeout) const {
  auto& word = payload_of<shm::SemaphoreWord>(object(), "Semaphore");
  return word.try_quickly() || runtime::take_slowly(word, timeout);
}

void Semaphore::release() const {
  auto& word = payload_of<shm::SemaphoreWord>(object(), "Semaphore");
  if (!word.give_quickly()) runtime::give_slowly(word);
}

int Semaphore::get_value() const {
  return static_cast<int>(payload_of<shm::SemaphoreWord>(object(), "Semaphore").count());
}

std::string Semaphore::repr() const {
  return "<Semaphore(value=" + std::to_string(get_value()) + ")>";
}

BoundedSemaphore::BoundedSemaphore(int value)
    : SharedHandle(runtime::make_object<BoundedSemaphore>(
          shm::Permits::bytes_for(runtime::checked_value(value, "BoundedSemaphore")))) {
  payload_of<shm::Permits>(object(), "BoundedSemaphore").start_with(static_cast<unsigned>(value));
}

bool BoundedSemaphore::take(Timeout timeout) const {
  auto& permits = payload_of<shm::Permits>(object(), "BoundedSemaphore");
  // relaxed: see self()
  const shm::ProcessId me = shm::this_process_id.load(std::memory_order_relaxed);
  return (me != 0 && permits.try_quickly(me)) || runtime::take_slowly(permits, timeout);
}

void BoundedSemaphore::release() const {
  auto& permits = payload_of<shm::Permits>(object(), "BoundedSemaphore");
  // relaxed: see self()
  const shm::ProcessId me = shm::this_process_id.load(std::memory_order_relaxed);
  if (me == 0 || !permits.give_quickly(me)) runtime::give_slowly(permits);
}

int BoundedSemaphore::get_value() const {
  auto& permits = payload_of<shm::Permits>(object(), "BoundedSemaphore");
  permits.take_back(shm::self(), runtime::is_gone);
  return static_cast<int>(permits.count());
}

std::string BoundedSemaphore::repr() const {
  const auto& permits = payload_of<shm::Permits>(object(), "BoundedSemaphore");
  return "<BoundedSemaphore(value=" + std::to_string(get_value()) +
         ", maxvalue=" + std::to_string(permits.bound()) + ")>";
}

Event::Event() : SharedHandle(runtime::make_object<Event>(sizeof(shm::EventWord))) {}

bool Event::is_set() const { return payload_of<shm::EventWord>(object(), "Event").is_set(); }
void Event::set() const { payload_of<shm::EventWord>(object(), "Event").set(); }
void Event::clear() const { payload_of<shm::EventWord>(object(), "Event").clear(); }

bool Event::wait(Timeout timeout) const {
  auto& word = payload_of<shm::EventWord>(object(), "Event");
  if (word.is_set()) return true;
  return word.wait(runtime::wait_policy(), timeout.deadline());
}

std::string Event::repr() const {
  return "<Event at " + runtime::address_text(object()) + (is_set() ? " set>" : " unset>");
}

}  // namespace millrace
