// The start method of this process, as far as the rest of the runtime sets it.
#pragma once

#include <string>
#include <vector>

namespace millrace {
class Context;
}

namespace millrace::runtime {

/// Fixes the default method, since a process is about to be started; returns its name.
std::string fix_start_method();

/// In a new child: its default method is that of the context it was made by; "" keeps the parent's.
void set_child_start_method(const std::string& method);

/// The method of `context`, or of the default one where it is null, which is then fixed.
std::string method_of(const Context* context);

/// What set_executable() and set_forkserver_preload() were given.
std::string executable();
std::vector<std::string> forkserver_preload();

}  // namespace millrace::runtime
