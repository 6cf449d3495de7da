// The pages behind spans: which hold data of an earlier user, which policy they have, and when
// they go back to the system.
//
// A page state is a 16-bit word a span, written only by the holder of the span's run:
// {tag:15, dirty:1}. `dirty` is set before a span is handed out and cleared after its pages were
// given back, so a span that is not dirty reads as zero; killed in between, it is dirty at worst.
// The tag is the policy that the kernel was told: it is kUnknown while being changed, so a process
// killed in between leaves a span whose policy the next user sets anew.
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "shm/memory_limits.hpp"
#include "shm/nodes.hpp"
#include "shm/span_table.hpp"

namespace millrace::shm {
namespace {

constexpr std::uint16_t kDirty = 1;
constexpr std::uint16_t kFirstTouch = 0 << 1;
constexpr std::uint16_t kInterleave = 1 << 1;
constexpr std::uint16_t kUnknown = 2 << 1;
constexpr std::uint16_t kTagMask = 0xfffe;
constexpr int kNodeTags = 16;  // tags from here on are nodes

// How much memory there is, `unknown` when there is none left to ask with.
std::uint64_t memory_or(std::uint64_t unknown) noexcept {
  try {
    return total_memory();
  } catch (const std::bad_alloc&) {
    return unknown;
  }
}

std::uint16_t tag_of(const Placement& placement) noexcept {
  switch (placement.kind) {
    case Placement::first_touch:
      return kFirstTouch;
    case Placement::interleave:
      return kInterleave;
    case Placement::node:
      return static_cast<std::uint16_t>((placement.index + kNodeTags) << 1);
    case Placement::block:
      break;  // place() has made nodes of it
  }
  return kUnknown;
}

// Runs this long count as promised while they are not touched; shorter ones are rings and slabs,
// of which many are never filled.
constexpr std::size_t kLargeRun = 8;

}  // namespace

void SpanTable::prepare(const Run& run, const SpanRequest& request) {
  require_memory(run);
  if (placement_matters()) place(run, request.placement);
  if (request.zeroed) zero(run, request);
  std::int64_t reused = 0;
  for (std::size_t i = run.index; i < run.index + run.count; ++i) {
    // relaxed, here and below: page states are ordered by their run's word
    const std::uint16_t state = m_.pages[i].load(std::memory_order_relaxed);
    reused += state & kDirty;
    m_.pages[i].store(state | kDirty, std::memory_order_relaxed);
  }
  if (reused != 0) m_.counters->dirty.fetch_sub(reused, std::memory_order_relaxed);
}

void SpanTable::require_memory(const Run& run) const {
  std::size_t clean = 0;
  for (std::size_t i = run.index; i < run.index + run.count; ++i) {
    clean += (m_.pages[i].load(std::memory_order_relaxed) & kDirty) == 0;
  }
  if (clean == 0 || spend_credit(clean * kSpanBytes)) return;
  std::uint64_t large = 0;
  const std::size_t end = high();
  for (std::size_t i = m_.first_span; i < end;) {
    const SpanWord w = word(i);
    const bool live = w.state == SpanState::kLive || w.state == SpanState::kHeap;
    const std::size_t length = live ? length_at(i, w) : 1;
    if (live && length >= kLargeRun) large += length * kSpanBytes;
    i += length;
  }
  struct stat file {};
  const bool known = m_.fd >= 0 && ::fstat(m_.fd, &file) == 0;
  const std::uint64_t touched = known ? static_cast<std::uint64_t>(file.st_blocks) * 512 : large;
  admit(clean * kSpanBytes, large - std::min(large, touched));
}

// Sets the policy of every part of the run that has another one; neighbours go in one call.
void SpanTable::place(const Run& run, const Placement& placement) {
  if (placement.kind != Placement::block) {
    apply_policy(run, tag_of(placement), placement);
    return;
  }
  const std::vector<int>& nodes = memory_nodes();
  for (std::size_t k = 0; k < nodes.size(); ++k) {
    const std::size_t from = run.count * k / nodes.size();
    const std::size_t to = run.count * (k + 1) / nodes.size();
    const Placement on{Placement::node, nodes[k]};
    if (from < to) apply_policy({run.index + from, to - from}, tag_of(on), on);
  }
}

void SpanTable::set_tag(const Run& part, std::uint16_t tag) noexcept {
  for (std::size_t i = part.index; i < part.index + part.count; ++i) {
    const std::uint16_t state = m_.pages[i].load(std::memory_order_relaxed);
    m_.pages[i].store(static_cast<std::uint16_t>(tag | (state & kDirty)),
                      std::memory_order_relaxed);
  }
}

void SpanTable::apply_policy(const Run& part, std::uint16_t tag, const Placement& placement) {
  const auto has_tag = [&](std::size_t i) {
    return (m_.pages[i].load(std::memory_order_relaxed) & kTagMask) == tag;
  };
  const std::size_t end = part.index + part.count;
  for (std::size_t i = part.index; i < end; ++i) {
    std::size_t to = i;
    while (to < end && !has_tag(to)) ++to;
    if (to == i) continue;
    const Run other{i, to - i};
    punch(other);  // its pages lie where the last user wanted them
    set_tag(other, kUnknown);
    set_policy(address_of(i), other.count * kSpanBytes, placement);
    set_tag(other, tag);
    i = to;
  }
}

void SpanTable::zero(const Run& run, const SpanRequest& request) noexcept {
  // Where it matters who touches a page first, the next one to do so shall be the user.
  const bool afresh = placement_matters() && request.placement.kind == Placement::first_touch;
  const auto is_dirty = [&](std::size_t i) {
    return (m_.pages[i].load(std::memory_order_relaxed) & kDirty) != 0;
  };
  for (std::size_t i = run.index; i < run.index + run.count; ++i) {
    if (!is_dirty(i)) continue;
    if (afresh) punch({i, 1});
    if (!is_dirty(i)) continue;
    const std::size_t offset = (i - run.index) * kSpanBytes;
    std::memset(address_of(i), 0, std::min(kSpanBytes, request.bytes - offset));
  }
}

// Gives pages back to the system. Spans stay dirty when the kernel refuses.
void SpanTable::punch(const Run& run) noexcept {
  std::int64_t cleaned = 0;
  if (::madvise(address_of(run.index), run.count * kSpanBytes, MADV_REMOVE) != 0) return;
  for (std::size_t i = run.index; i < run.index + run.count; ++i) {
    const std::uint16_t state = m_.pages[i].load(std::memory_order_relaxed);
    cleaned += state & kDirty;
    m_.pages[i].store(state & kTagMask, std::memory_order_relaxed);
  }
  m_.counters->dirty.fetch_sub(cleaned, std::memory_order_relaxed);
}

// On release: the run's spans join the free ones that hold pages, as far as these may be retained.
void SpanTable::retire_pages(const Run& run) noexcept {
  std::size_t holding = 0;
  for (std::size_t i = run.index; i < run.index + run.count; ++i) {
    holding += m_.pages[i].load(std::memory_order_relaxed) & kDirty;
  }
  const auto added = static_cast<std::int64_t>(holding);
  const std::int64_t all = m_.counters->dirty.fetch_add(added, std::memory_order_relaxed) + added;
  const auto allowed = static_cast<std::int64_t>(retained_spans());
  if (all <= allowed) return;
  const std::size_t excess = std::min(run.count, static_cast<std::size_t>(all - allowed));
  punch({run.index + run.count - excess, excess});
}

std::size_t SpanTable::retained_spans() const noexcept {
  if (retained_ != SIZE_MAX) return retained_;
  // A quarter of the memory, asked for once: enough for a program that makes and drops the same
  // arrays in a loop, not enough to starve others.
  static const std::size_t quarter =
      static_cast<std::size_t>(std::min(memory_or(kGiB), kTiB)) / 4 / kSpanBytes;
  return quarter;
}

std::size_t SpanTable::dirty_spans() const noexcept {
  std::size_t dirty = 0;
  const std::size_t end = high();
  for (std::size_t i = m_.first_span; i < end; ++i) {
    const bool free = word(i).state == SpanState::kFree;
    dirty += free && (m_.pages[i].load(std::memory_order_relaxed) & kDirty) != 0;
  }
  return dirty;
}

}  // namespace millrace::shm
