// Whether anybody asked to see what the library logs.
#pragma once

namespace millrace::runtime {

/// Whether log_to_stderr() was called. Without it the logger writes warnings and up, bare.
bool has_log_handler() noexcept;

}  // namespace millrace::runtime
