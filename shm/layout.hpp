// The numbers and the first bytes of the arena: where it is mapped, how it is divided, and what its
// header holds. Everything in the header is valid when all bytes are zero, as a new memfd is.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace millrace::shm {

#if defined(__SANITIZE_THREAD__)
#define MILLRACE_UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MILLRACE_UNDER_TSAN 1
#endif
#endif
#ifndef MILLRACE_UNDER_TSAN
#define MILLRACE_UNDER_TSAN 0
#endif

/// Identity of a process: {generation:14, index:12}, never 0. A dead process's id is not given to
/// another one before 16,383 others have used its index.
using ProcessId = std::uint32_t;

inline constexpr std::size_t kKiB = 1024;
inline constexpr std::size_t kMiB = 1024 * kKiB;
inline constexpr std::size_t kGiB = 1024 * kMiB;
inline constexpr std::size_t kTiB = 1024 * kGiB;

/// Where the arena is mapped in every process of a program. ThreadSanitizer keeps its shadow at
/// the usual address and leaves only the low one free.
inline constexpr std::uintptr_t kArenaBase =
    MILLRACE_UNDER_TSAN ? std::uintptr_t{0x1000000000} : std::uintptr_t{0x200000000000};
inline constexpr std::size_t kArenaDefault = MILLRACE_UNDER_TSAN ? 256 * kGiB : kTiB;
inline constexpr std::size_t kArenaLargest = MILLRACE_UNDER_TSAN ? 256 * kGiB : 16 * kTiB;
inline constexpr std::size_t kArenaSmallest = 32 * kMiB;

/// Unit of allocation for everything that is not small.
inline constexpr std::size_t kSpanBytes = 2 * kMiB;
/// Requests up to this size come from slabs.
inline constexpr std::size_t kMaxSmallBytes = 32 * kKiB;
inline constexpr std::size_t kCacheLine = 64;
inline constexpr std::size_t kPageBytes = 4096;

inline constexpr unsigned kProcessIndexBits = 12;
inline constexpr unsigned kProcessIdBits = 26;
inline constexpr std::size_t kMaxProcesses = std::size_t{1} << kProcessIndexBits;
inline constexpr ProcessId kProcessIdMask = (ProcessId{1} << kProcessIdBits) - 1;
/// Owner of memory that no death frees.
inline constexpr ProcessId kNobody = 0;

/// Words in the header for the layers above; which word means what is listed here so that two of
/// them cannot pick the same one.
struct ArenaRoot {
  enum Slot : std::size_t {
    kTopologyXml,
    kTopologyXmlBytes,
    kFunctionTable,
    kRuntime,
    kForkServer,
    kFdBagHolder,
    kFdBagNumbers,
    kFdBagInodes,
    kUser = 32
  };
  std::atomic<std::uint64_t> word[64];
};

}  // namespace millrace::shm
