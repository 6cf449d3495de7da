// The forms of Pool, every one of them with ThreadPool.
#include <millrace/millrace.hpp>

#define Pool ThreadPool
#include "pools.cpp"
