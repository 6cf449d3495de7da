#include "shm/shared_lock.hpp"

#include <limits>
#include <millrace/errors.hpp>

namespace millrace::shm {

void SharedLock::again() {
  const std::uint32_t count = this->count();
  if (count == std::numeric_limits<std::uint32_t>::max()) {
    throw OverflowError("RLock: acquired 4294967295 times by one thread");
  }
  set_count(count + 1);
}

SharedLock::Result SharedLock::inherited(const Caller& me, ProcessId from) {
  std::uint32_t pid = static_cast<std::uint32_t>(ProcessTable::instance().pid(from));
  // Its entry serves another by now: what it wrote itself, unless it died before it could.
  // relaxed: its death was observed
  if (pid == 0) pid = static_cast<std::uint32_t>(holder_.load(std::memory_order_relaxed) >> 32U);
  entered(me);
  return {Got::abandoned, pid};
}

SharedLock::Result SharedLock::try_slow(const Caller& me) {
  const ProcessId from = word_.inherit(
      me.id, [](ProcessId owner) { return !ProcessTable::instance().check_alive(owner); });
  return from != 0 ? inherited(me, from) : Result{};
}

SharedLock::Result SharedLock::wait(const Caller& me, Timeout timeout, Interrupts interrupts) {
  const ProcessTable& table = ProcessTable::instance();
  if (timeout.duration().count() == 0) return try_slow(me);
  // An owner known to be dead is not waited for.
  if (const ProcessId from =
          word_.inherit(me.id, [&](ProcessId owner) { return table.is_dead(owner); })) {
    return inherited(me, from);
  }
  const auto look = [&] { return word_.looks_free() && word_.try_take(me.id); };
  if (spin_a_little(look)) {
    entered(me);
    return {Got::yes, 0};
  }
  Pace pace(timeout.deadline(), interrupts);
  const auto taken = word_.take(
      me.id, [](ProcessId owner) { return !ProcessTable::instance().check_alive(owner); }, pace);
  if (taken.from != 0) return inherited(me, taken.from);
  if (!taken.taken) return {};
  entered(me);
  return {Got::yes, 0};
}

}  // namespace millrace::shm
