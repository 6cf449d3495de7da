// mp::dummy: the module on threads. A program that names dummy::Process, dummy::Queue, ... runs in
// one process. Python: multiprocessing.dummy.
#pragma once

#include <millrace/dummy_manager.hpp>
#include <millrace/dummy_process.hpp>
#include <millrace/dummy_queues.hpp>
#include <millrace/dummy_sync.hpp>
#include <millrace/dummy_values.hpp>
#include <millrace/thread_pool.hpp>

namespace millrace::dummy {

/// Python: multiprocessing.dummy.Pool, a ThreadPool.
using Pool = ThreadPool;

}  // namespace millrace::dummy
