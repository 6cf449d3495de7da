// What calls of a pool may ask for.
#pragma once

namespace millrace::runtime {

/// Throws ValueError below 0.
void check_retries(int retries);

}  // namespace millrace::runtime
