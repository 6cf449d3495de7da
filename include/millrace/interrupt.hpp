// SIGINT, Ctrl-C at the terminal, as an exception.
#pragma once

#include <millrace/errors.hpp>

namespace millrace {

/// From now on SIGINT makes a blocked call of this library throw KeyboardInterrupt: the main
/// thread's while it is in one, else any other thread's, once per signal. Without a blocked call
/// the next one that has to wait throws; a second signal, more than a second after one that nobody
/// has taken, ends the process as SIGINT does by default. What the call would have got is not lost:
/// an item stays in its queue, a process or an AsyncResult can be waited for again; a call of a
/// Pool that works on the caller's data (apply, map, map_into, parallel_for, reduce) is cancelled,
/// and has let go of that data when it throws. Forked children inherit it; Pool workers and
/// managers ignore SIGINT either way. Without this call the signal's own disposition rules.
/// Idempotent; any thread may call it. std::system_error when the system has no descriptor left.
/// Python: its own handler of SIGINT, S35.
void install_sigint();

}  // namespace millrace
