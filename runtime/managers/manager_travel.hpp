// Proxies on their way: in callables that wait in the arena, in messages and items.
//
// A parcel is an object of the arena, made when a proxy first leaves its process and shared by all
// its copies there. It says where the object is, from which any process makes a proxy of its own,
// and has one reference to it, which the server counts for the process that made the parcel, apart
// from those that this process's children inherit.
//
// Invariants
// 1. `holders` counts the copies in the arena, the messages, and the maker's own state: while it is
//    not 0 the server keeps the object. Who takes it to 0, in whatever process, tells the server.
// 2. A reader counts itself at the server before it lets go of the parcel.
//
// Deaths. Of the maker, between any two steps: its last connection ends, and the server takes all
// its references off, also those of parcels. Of a reader or dropper: its memory of the parcel is
// swept as for all handles; dead between taking a message and the end of that, it leaves `holders`
// too high, and the object lives until the maker ends; so it does if it ends before it could tell a
// server that was stopped. Of the server: nothing more is sent.
#pragma once

#include <millrace/proxy.hpp>

namespace millrace::runtime {

/// While it exists this thread's messages are a manager's frames: proxies go by name. The sender
/// keeps them until the other side has answered.
class ProxiesByName {
 public:
  ProxiesByName() noexcept;
  ProxiesByName(const ProxiesByName&) = delete;
  ~ProxiesByName();

 private:
  bool before_;
};

/// The parcel of a state of this process's; made if need be. Any thread.
shm::ObjectRef parcel_of(ProxyState& state);
/// One holder less of an inherited or made parcel; the last one tells the server, and waits at most
/// some seconds for it (ManagerLink::discard).
void leave_parcel(void* parcel) noexcept;

}  // namespace millrace::runtime
