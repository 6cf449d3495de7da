// A zygote that is no copy of the pool's parent: the start methods spawn and forkserver. It is the
// program executed anew (spawn.hpp), has the plan and the initializer by message, and is from there
// on what a forked one is; its workers are copies of it. Under forkserver it has loaded the
// libraries of set_forkserver_preload() as well: a pool's zygote is a fork server of its own.
#pragma once

#include <sys/types.h>

#include "runtime/pool/pool_shared.hpp"
#include "runtime/pool/zygote.hpp"
#include "runtime/process/spawn.hpp"

namespace millrace::runtime {

/// Where an executed zygote finds the descriptor by which it is poked.
inline constexpr int kPokeDescriptor = kArenaDescriptor + 1;

/// What it shall do, behind what it is. Throws what the initializer's serialize() throws, TypeError
/// for one that holds a private address.
std::unique_ptr<SpawnMessage> describe_zygote(PoolShared& shared, const PoolPlan& plan);

/// What such a message says.
struct ZygoteOrders {
  PoolShared* shared = nullptr;
  PoolPlan plan{};
};

/// In the executed process: takes the orders and loads the libraries.
ZygoteOrders take_zygote_orders(wire::Reader& in);

}  // namespace millrace::runtime
