// The parts of <ranges>, <chrono> and <functional> that every user of a pool pays for.
//
// The library needs range concepts and std::ranges::begin, durations and clocks, and std::function;
// it needs no views, no calendar and no hash tables. libstdc++ keeps those parts in headers of
// their own: a file that includes nothing but them compiles in 0.4 s less (g++ 12 -O2: 0.66 s
// instead of 1.1 s), more than all of the library's own headers cost. Other standard libraries, and
// versions that keep them elsewhere, get the whole headers; <millrace/millrace.hpp> includes those
// everywhere.
#pragma once

#include <cstddef>
#include <exception>
#include <span>  // libstdc++'s parts below build on what it includes
#include <type_traits>
#include <utility>

#if defined(__GLIBCXX__) && __has_include(<bits/ranges_base.h>)
#include <bits/ranges_base.h>
#else
#include <ranges>
#endif

#if defined(__GLIBCXX__) && __has_include(<bits/chrono.h>)
#include <bits/chrono.h>
#else
#include <chrono>
#endif

#if defined(__GLIBCXX__) && __has_include(<bits/std_function.h>)
#include <bits/std_function.h>
#else
#include <functional>
#endif
