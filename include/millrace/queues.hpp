// Queue, JoinableQueue and SimpleQueue: first in, first out, between processes. Python:
// multiprocessing.queues.
//
//   mp::Queue<int> q(10);
//   mp::Process p(work, q);        // a copy refers to the same queue
//   q.put(42);
//   q.get(1s);                     // queue::Empty after a second
#pragma once

#include <millrace/object.hpp>
#include <millrace/queue_handles.hpp>
