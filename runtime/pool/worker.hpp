// What a worker process does between its fork and its end.
#pragma once

#include "runtime/pool/pool_shared.hpp"
#include "runtime/pool/zygote.hpp"

namespace millrace::runtime {

/// Runs worker `index` of the pool in this process, a fresh child of the zygote; returns its exit
/// code when it is to leave.
int run_worker(PoolShared& pool, const PoolPlan& plan, int index);

}  // namespace millrace::runtime
