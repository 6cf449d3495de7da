// Copies of blocks between two cpus, or to memory that nobody reads soon.
//
// A block that another cpu has just written lies in that cpu's cache. memcpy() of the C library
// copies blocks beyond a few KiB by `rep movsb`, which takes such lines one after the other: 2 to 3
// GB/s were measured between two cpus here, a loop of plain loads, which the processor runs ahead
// of, two to four times that (bench/README.md). And what is written to memory that nobody reads
// soon need neither be fetched before nor push out of the cache what is used.
//
// Invariants
//  1. The copy is complete, for whoever sees a store that follows it with release order: streaming
//     stores are fenced before the function returns, since release alone does not order them.
//  2. The two blocks do not overlap.
// A death between any two steps leaves a prefix or less of the block written, as with memcpy().
#pragma once

#include <cstddef>

namespace millrace::shm {

/// Copies `bytes` from `from` to `to` past the cache: for a destination that this cpu does not read
/// soon. Any alignment. Does not block. As memcpy() where the processor has no such stores.
void stream_copy(void* to, const void* from, std::size_t bytes) noexcept;

/// Copies `bytes` that another cpu may have written just now to memory that is read soon.
void near_copy(void* to, const void* from, std::size_t bytes) noexcept;

}  // namespace millrace::shm
