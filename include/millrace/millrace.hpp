// The whole library.
#pragma once

#include <complex>
#include <millrace/affinity.hpp>
#include <millrace/arena.hpp>
#include <millrace/context.hpp>
#include <millrace/dummy.hpp>
#include <millrace/errors.hpp>
#include <millrace/exceptions.hpp>
#include <millrace/interrupt.hpp>
#include <millrace/logging.hpp>
#include <millrace/object.hpp>
#include <millrace/pool.hpp>
#include <millrace/process.hpp>
#include <millrace/serialize.hpp>
#include <millrace/shared_memory.hpp>
#include <millrace/sharedctypes.hpp>
#include <millrace/synchronize.hpp>
#include <millrace/thread_pool.hpp>
#include <millrace/timeout.hpp>
#include <unordered_set>
