// The span allocator: which 2 MiB units of the arena are in use, by whom, in runs of any length.
//
// One 64-bit word a span, {count or distance:24, owner:26, state:4}:
//   kFree      nobody's
//   kClaiming  first span of a run being taken by `owner`; some of its bodies are taken too
//   kLive      first span of a run of `count` in use, freed by a sweep when `owner` is dead
//   kBody      the span `distance` behind the first one of its run; has no owner of its own
//   kFreeing   first span of a run that `owner` is giving back; some bodies are FREE already
//   kSlab      a slab of small blocks, never given back; `count` is its size class
//   kHeap      as kLive, but part of a process's object heap: survives its owner's death
//   kFixed     the arena's header
//
// Any process may call anything. Invariants
//  1. A run is claimed first span first and freed first span last, so a body at distance d implies
//     that the word d before it is not FREE. Nothing about a body needs to be known but d.
//  2. Only the holder of the first word (kClaiming or kFreeing with its own id) writes bodies.
//  3. A claim carries its owner from the first instruction. Killed anywhere, a process leaves runs
//     in kClaiming, kLive or kFreeing under its id; sweep() takes each over by CAS and frees it.
//     Whoever dies while sweeping is itself swept. Nothing is lost, nothing freed twice.
//  4. Progress: allocate and release are lock-free. Two claims that collide: the later one on
//     the lower addresses rolls back and goes on behind the obstacle.
// Counters (hint, high, dirty) are hints: `high` is raised before a span is claimed and never
// lowered; `dirty` is recounted in every sweep.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <millrace/placement.hpp>

#include "shm/layout.hpp"

namespace millrace::shm {

using millrace::Placement;

enum class SpanState : std::uint8_t {
  kFree,
  kClaiming,
  kLive,
  kBody,
  kFreeing,
  kSlab,
  kHeap,
  kFixed
};

/// The word of a span, unpacked.
struct SpanWord {
  SpanState state = SpanState::kFree;
  ProcessId owner = kNobody;
  std::uint32_t count = 0;  // kBody: distance to the first span; kSlab: size class

  [[nodiscard]] constexpr std::uint64_t pack() const noexcept {
    return static_cast<std::uint64_t>(state) | std::uint64_t{owner} << 4U |
           std::uint64_t{count} << 30U;
  }
  static constexpr SpanWord unpack(std::uint64_t bits) noexcept {
    return {static_cast<SpanState>(bits & 15U), static_cast<ProcessId>(bits >> 4U & kProcessIdMask),
            static_cast<std::uint32_t>(bits >> 30U & 0xffffffU)};
  }
};

/// The part of the allocator's state that lies in the arena's header.
struct SpanCounters {
  alignas(kCacheLine) std::atomic<std::uint64_t> hint;  // no run of one is FREE below it, probably
  std::atomic<std::uint64_t> high;  // no span at or above it has ever been claimed
  std::atomic<std::int64_t> dirty;  // FREE spans that still hold pages, about
};

struct SpanRequest {
  std::size_t bytes = 0;
  Placement placement{};
  bool zeroed = false;  // the first `bytes` read as zero
};

/// A process's view of the table. Offsets and sizes are the process's own, read once and checked
/// when it mapped the arena; only words, page states and counters lie in shared memory.
class SpanTable {
 public:
  struct Memory {
    std::byte* base = nullptr;
    std::size_t span_count = 0;
    std::size_t first_span = 0;  // spans below hold the header
    std::atomic<std::uint64_t>* words = nullptr;
    std::atomic<std::uint16_t>* pages = nullptr;
    SpanCounters* counters = nullptr;
    int fd = -1;  // of the arena, to ask how much of it is touched; -1 when it is not known
  };

  explicit SpanTable(const Memory& memory) noexcept : m_(memory) {}

  /// A run for `request`. Throws std::system_error (ENOMEM) naming the request when the arena, the
  /// memory or the node asked for cannot hold it. Belongs to self().
  void* allocate(const SpanRequest& request);
  /// Frees the run that starts at `block`. False, and nothing done, when no live run starts there.
  bool release(void* block) noexcept;
  /// Moves ownership; false when no live run starts at `block`.
  bool give(void* block, ProcessId to) noexcept;
  /// Moves ownership if `from` has it.
  bool give(void* block, ProcessId from, ProcessId to) noexcept;
  /// Frees what `dead` owns; its heap runs become nobody's.
  void sweep(ProcessId dead) noexcept;

  /// Makes the single live span at `index`, which self() owns, a slab that others may find.
  void publish_slab(std::size_t index, std::uint32_t size_class) noexcept;
  /// Makes a live run that self() owns part of its object heap.
  void publish_heap(void* block) noexcept;

  [[nodiscard]] SpanWord word(std::size_t index) const noexcept {
    // OBSERVE span: acquire pairs with the releases called PUBLISH span in span_table.cpp
    return SpanWord::unpack(m_.words[index].load(std::memory_order_acquire));
  }
  [[nodiscard]] std::size_t first() const noexcept { return m_.first_span; }
  /// Spans at or above have never been used.
  [[nodiscard]] std::size_t high() const noexcept;
  [[nodiscard]] std::size_t index_of(const void* p) const noexcept {
    return static_cast<std::size_t>(static_cast<const std::byte*>(p) - m_.base) / kSpanBytes;
  }
  [[nodiscard]] std::byte* address_of(std::size_t index) const noexcept {
    return m_.base + index * kSpanBytes;
  }
  /// The first byte of the run that holds `p`, nullptr when it is in none.
  [[nodiscard]] std::byte* run_of(const void* p) const noexcept;
  /// Number of spans the run headed by `index` may be taken to have: checked against the table.
  [[nodiscard]] std::size_t length_at(std::size_t index, const SpanWord& w) const noexcept;

  /// Spans in use, the header not counted.
  [[nodiscard]] std::size_t spans_in_use() const noexcept;
  /// Spans that are slabs.
  [[nodiscard]] std::size_t slab_spans() const noexcept;
  /// FREE spans that hold pages.
  [[nodiscard]] std::size_t dirty_spans() const noexcept;
  /// How many free spans keep their pages for re-use; more give theirs back to the system.
  void set_retained_spans(std::size_t count) noexcept { retained_ = count; }

 private:
  struct Run {
    std::size_t index = 0;
    std::size_t count = 0;
  };

  bool find_and_claim(std::size_t count, Run& run, bool& collided) noexcept;
  bool claim_between(std::size_t from, std::size_t to, Run& run, bool& collided) noexcept;
  [[nodiscard]] std::size_t find_free(std::size_t from, std::size_t to,
                                      std::size_t count) const noexcept;
  std::size_t claim(const Run& run) noexcept;
  void free_run(const Run& run) noexcept;
  void prepare(const Run& run, const SpanRequest& request);
  void place(const Run& run, const Placement& placement);
  void apply_policy(const Run& part, std::uint16_t tag, const Placement& placement);
  void zero(const Run& run, const SpanRequest& request) noexcept;
  void set_tag(const Run& part, std::uint16_t tag) noexcept;
  void punch(const Run& run) noexcept;
  void retire_pages(const Run& run) noexcept;
  [[nodiscard]] std::size_t retained_spans() const noexcept;
  void require_memory(const Run& run) const;
  void raise_high(std::size_t to) noexcept;

  Memory m_;
  std::size_t retained_ = SIZE_MAX;
};

}  // namespace millrace::shm
