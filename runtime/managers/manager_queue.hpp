// The calls that put into a manager's queue and get from it, whichever queue that is.
#pragma once

#include "runtime/managers/manager_referent.hpp"

namespace millrace::runtime {

/// When a call with `block` and `timeout`, from place `block` on, gives up. Throws ValueError for a
/// negative timeout.
Timeout::Clock::time_point deadline_of_queue(const Parameters& given, std::size_t block);

/// Self has add(caller, item, deadline) and take(caller, deadline).
template <class Self>
class QueueReferentBase : public TableReferent<Self> {
 public:
  ManagerAnswer put(ManagerCall& call) {
    const Parameters given = call.bind({"item", "block", "timeout"}, 1);
    return self().add(call.caller, given[0], deadline_of_queue(given, 1));
  }
  ManagerAnswer put_nowait(ManagerCall& call) {
    return self().add(call.caller, call.bind({"item"}, 1)[0], Timeout::Clock::time_point::min());
  }
  ManagerAnswer get(ManagerCall& call) {
    return self().take(call.caller, deadline_of_queue(call.bind({"block", "timeout"}), 0));
  }
  ManagerAnswer get_nowait(ManagerCall& call) {
    call.bind({});
    return self().take(call.caller, Timeout::Clock::time_point::min());
  }

 private:
  Self& self() noexcept { return static_cast<Self&>(*this); }
};

}  // namespace millrace::runtime
