// The files behind named shared memory: /dev/shm/<name>, as CPython's shm_open() finds them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "runtime/segments/segment_registry.hpp"

namespace millrace::runtime {

/// An open segment, mapped.
struct Segment {
  std::string name;  // without a leading slash
  SegmentIdentity identity;
  std::span<std::byte> memory;  // the caller unmaps it
};

/// A new segment of `bytes` zero bytes under `name`, or a new "psm_xxxxxxxx". Tracked, it is noted
/// before it has its name. Throws std::system_error: EEXIST, ENOSPC, or whatever the system says,
/// naming the segment; then nothing is left.
Segment create_segment(const std::optional<std::string>& name, std::size_t bytes, bool track);

/// Opens a segment. Throws std::system_error (ENOENT ...) naming it, ValueError for an empty one.
Segment open_segment(const std::string& name);

/// Takes the name away and the note back. Throws std::system_error (ENOENT) when there is no such
/// name, or when it means another file.
void unlink_segment(const std::string& name, const SegmentIdentity& identity);

/// For the tracker: unlinks `name` if it means `identity`. 0, ENOENT when it does not, or the
/// error. Uses no heap.
int unlink_if(const char* name, const SegmentIdentity& identity) noexcept;

void unmap_segment(std::span<std::byte> memory) noexcept;

}  // namespace millrace::runtime
