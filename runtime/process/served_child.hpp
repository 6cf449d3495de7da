// A child that the fork server has made for this process: nobody here can wait for it, and its pid
// is its own only while the server has not collected it.
//
// When this process dies between any two steps, the child runs on, as fork_server.hpp says.
#pragma once

namespace millrace::runtime {

struct ServedChild;

/// A pidfd of a child that has adopted its id; a descriptor that is readable for ever when it has
/// ended. Throws std::system_error when there is no descriptor left.
int sentinel_of(const ServedChild& child);
/// For a child that runs and cannot be waited for: kills it, returns when the server has collected
/// it and what it held is free.
void end_unwatched(const ServedChild& child) noexcept;

}  // namespace millrace::runtime
