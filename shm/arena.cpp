#include "shm/arena.hpp"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <millrace/errors.hpp>
#include <mutex>
#include <new>
#include <string>

#include "shm/arena_file.hpp"
#include "shm/arena_header.hpp"
#include "shm/fork_hooks.hpp"
#include "shm/memory_limits.hpp"
#include "shm/nodes.hpp"
#include "shm/process_table.hpp"

namespace millrace::shm {

struct Arena::Mapping {
  ArenaFile file;
  ArenaHeader* header;
};

namespace {

ArenaHeader* header_at_base() noexcept {
  // A new memory file is all zero, which is a valid header: nothing has to be constructed, and no
  // page is touched that is not used.
  return reinterpret_cast<ArenaHeader*>(kArenaBase);  // NOLINT(performance-no-int-to-ptr)
}

void write_header(ArenaHeader& header, std::size_t size) noexcept {
  header.version = kArenaVersion;
  header.header_bytes = sizeof(ArenaHeader);
  header.size = size;
  const ArenaTables tables = ArenaTables::of(size);
  auto* words = reinterpret_cast<std::atomic<std::uint64_t>*>(
      reinterpret_cast<std::byte*>(&header) + tables.words);
  const SpanWord fixed{SpanState::kFixed, kNobody, 0};
  for (std::size_t i = 0; i * kSpanBytes < tables.end; ++i) {
    words[i].store(fixed.pack(), std::memory_order_relaxed);  // ordered by the magic
  }
  // PUBLISH header: release pairs with the acquire in check_header()
  header.magic.store(kArenaMagic, std::memory_order_release);
}

void check_header(const ArenaHeader& header, std::size_t size) {
  // OBSERVE header: acquire
  if (header.magic.load(std::memory_order_acquire) != kArenaMagic) {
    throw Corrupt("arena: no millrace arena at its fixed address");
  }
  if (header.version != kArenaVersion || header.header_bytes != sizeof(ArenaHeader)) {
    throw ProcessError("arena: made by version " + std::to_string(header.version) +
                       " of its layout, this copy of millrace has version " +
                       std::to_string(kArenaVersion) + ": link one and the same everywhere");
  }
  if (header.size != size) throw Corrupt("arena: header and file disagree about its size");
}

SpanTable::Memory span_memory(const ArenaFile& file, ArenaHeader& header) noexcept {
  const ArenaTables tables = ArenaTables::of(file.size);
  auto* base = reinterpret_cast<std::byte*>(&header);
  SpanTable::Memory m;
  m.base = base;
  m.span_count = file.size / kSpanBytes;
  m.first_span = (tables.end + kSpanBytes - 1) / kSpanBytes;
  m.words = reinterpret_cast<std::atomic<std::uint64_t>*>(base + tables.words);
  m.pages = reinterpret_cast<std::atomic<std::uint16_t>*>(base + tables.pages);
  m.counters = &header.counters;
  m.fd = file.fd;
  return m;
}

// Small blocks are not placed one by one, but what fills pages of its own is.
bool wants_spans(std::size_t bytes, const Placement& placement) {
  if (bytes > kMaxSmallBytes) return true;
  if (placement.kind == Placement::first_touch || !placement_matters()) return false;
  return placement.kind == Placement::node || bytes > kPageBytes;
}

}  // namespace

Arena::Arena(const Mapping& mapping) noexcept
    : base_(reinterpret_cast<std::byte*>(mapping.header)),
      size_(mapping.file.size),
      fd_(mapping.file.fd),
      spans_(span_memory(mapping.file, *mapping.header)),
      slabs_(spans_, mapping.header->slab_hints) {}

Arena& Arena::install(const Mapping& mapping) {
  alignas(Arena) static std::byte place[sizeof(Arena)];
  auto* arena = new (place) Arena(mapping);  // never destroyed: static destructors may use it
  mapped_bytes_.store(mapping.file.size, std::memory_order_relaxed);
  // CREATE arena: release, arena.hpp
  current_.store(arena, std::memory_order_release);
  return *arena;
}

Arena& Arena::create() {
  const std::lock_guard lock(first_use());
  // CREATE arena: acquire, arena.hpp
  if (Arena* arena = current_.load(std::memory_order_acquire)) return *arena;
  const ArenaFile file = make_arena_file();
  ArenaHeader* header = header_at_base();
  if (file.joined) {
    check_header(*header, file.size);
  } else {
    write_header(*header, file.size);
  }
  return install({file, header});
}

Arena& Arena::attach(int fd) {
  const std::lock_guard lock(first_use());
  // CREATE arena: acquire, arena.hpp
  if (current_.load(std::memory_order_acquire) != nullptr) {
    throw AssertionError("Arena::attach: this process has an arena already");
  }
  const ArenaFile file = map_arena_file(fd);
  ArenaHeader* header = header_at_base();
  try {
    check_header(*header, file.size);
  } catch (...) {
    ::munmap(header, file.size);
    throw;
  }
  return install({file, header});
}

ArenaHeader& Arena::header() const noexcept { return *reinterpret_cast<ArenaHeader*>(base_); }
ArenaRoot& Arena::root() const noexcept { return header().root; }

void* Arena::allocate(std::size_t bytes, const Placement& placement) {
  if (placement.kind == Placement::first_touch && bytes <= kMaxSmallBytes) {
    return slabs_.allocate(bytes);
  }
  check_placement(placement, bytes);
  if (!wants_spans(bytes, placement)) return slabs_.allocate(bytes);
  return spans_.allocate({.bytes = bytes, .placement = placement});
}

void* Arena::allocate_zeroed(std::size_t bytes, const Placement& placement) {
  check_placement(placement, bytes);
  if (wants_spans(bytes, placement)) {
    return spans_.allocate({.bytes = bytes, .placement = placement, .zeroed = true});
  }
  void* block = slabs_.allocate(bytes);
  std::memset(block, 0, bytes);
  return block;
}

void Arena::deallocate(void* block) noexcept {
  if (block == nullptr) return;
  bool freed = false;
  if (contains(block)) {
    const std::size_t index = spans_.index_of(block);
    const SpanWord w = spans_.word(index);
    freed =
        w.state == SpanState::kSlab ? slabs_.release(index, w.count, block) : spans_.release(block);
  }
  if (!freed) refuse_free();
}

void Arena::refuse_free() noexcept {
  // relaxed: statistics
  header().refused_frees.fetch_add(1, std::memory_order_relaxed);
}

void Arena::give(void* block, ProcessId to) noexcept {
  if (!contains(block)) return;
  if (!slabs_.give(block, to)) spans_.give(block, to);
}

bool Arena::give(void* block, ProcessId from, ProcessId to) noexcept {
  return contains(block) && (slabs_.give(block, from, to) || spans_.give(block, from, to));
}

void Arena::sweep(ProcessId dead) noexcept {
  slabs_.sweep(dead);
  spans_.sweep(dead);
}

std::size_t Arena::used_bytes() const noexcept { return spans_.spans_in_use() * kSpanBytes; }

ArenaUsage Arena::usage() const noexcept {
  return {used_bytes(), spans_.slab_spans() * kSpanBytes, slabs_.blocks_in_use(),
          header().refused_frees.load(std::memory_order_relaxed)};
}

}  // namespace millrace::shm
