#include "shm/span_table.hpp"

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>

#include "shm/memory_limits.hpp"
#include "shm/nodes.hpp"
#include "shm/process_table.hpp"
#include "shm/reaper.hpp"

namespace millrace::shm {
namespace {

constexpr std::uint64_t kFreeWord = 0;

constexpr std::uint64_t body_at(std::size_t distance) noexcept {
  return SpanWord{SpanState::kBody, kNobody, static_cast<std::uint32_t>(distance)}.pack();
}

constexpr bool is_run(SpanState state) noexcept {
  return state == SpanState::kLive || state == SpanState::kHeap;
}

}  // namespace

std::size_t SpanTable::high() const noexcept {
  // RAISE high: acquire pairs with raise_high(), so a sweep sees every span claimed before a death
  const std::uint64_t high = m_.counters->high.load(std::memory_order_acquire);
  return std::min<std::size_t>(std::max<std::size_t>(high, m_.first_span), m_.span_count);
}

void SpanTable::raise_high(std::size_t to) noexcept {
  std::uint64_t seen = m_.counters->high.load(std::memory_order_relaxed);
  // RAISE high: release, before the claim
  while (seen < to && !m_.counters->high.compare_exchange_weak(seen, to, std::memory_order_acq_rel,
                                                               std::memory_order_relaxed)) {
  }
}

std::size_t SpanTable::length_at(std::size_t index, const SpanWord& w) const noexcept {
  const std::size_t room = m_.span_count - index;
  return w.count >= 1 && w.count <= room ? w.count : 1;
}

// The first run of `count` FREE spans in [from, to), `to` when there is none.
std::size_t SpanTable::find_free(std::size_t from, std::size_t to,
                                 std::size_t count) const noexcept {
  std::size_t run = 0;
  for (std::size_t i = from; i < to;) {
    // relaxed: only a guess; claim() decides
    const std::uint64_t bits = m_.words[i].load(std::memory_order_relaxed);
    if (bits == kFreeWord) {
      ++i;
      if (++run == count) return i - count;
      continue;
    }
    run = 0;
    const SpanWord w = SpanWord::unpack(bits);
    i += is_run(w.state) ? length_at(i, w) : 1;
  }
  return to;
}

// Takes the run word by word; the number of words taken, and given back again when not all were.
std::size_t SpanTable::claim(const Run& run) noexcept {
  raise_high(run.index + run.count);
  const SpanWord head{SpanState::kClaiming, self(), static_cast<std::uint32_t>(run.count)};
  for (std::size_t d = 0; d < run.count; ++d) {
    std::uint64_t expected = kFreeWord;
    // TAKE span: acquire pairs with the release in free_run(): the new owner comes after the last
    // touch of the previous one.
    if (m_.words[run.index + d].compare_exchange_strong(expected, d == 0 ? head.pack() : body_at(d),
                                                        std::memory_order_acquire,
                                                        std::memory_order_relaxed)) {
      continue;
    }
    if (d > 0) free_run({run.index, d});
    return d;
  }
  return run.count;
}

// Only for the holder of the first word. Bodies go first, so invariant 1 holds all the time; a body
// that is not at its distance belongs to another run, which took a span freed before.
void SpanTable::free_run(const Run& run) noexcept {
  for (std::size_t d = run.count; d-- > 1;) {
    std::uint64_t expected = body_at(d);
    // FREE span: release
    m_.words[run.index + d].compare_exchange_strong(expected, kFreeWord, std::memory_order_release,
                                                    std::memory_order_relaxed);
  }
  m_.words[run.index].store(kFreeWord, std::memory_order_release);  // FREE span: the first, last
}

bool SpanTable::claim_between(std::size_t from, std::size_t to, Run& run, bool& collided) noexcept {
  for (std::size_t at = from; at < to;) {
    at = find_free(at, to, run.count);
    if (at >= to) return false;
    run.index = at;
    const std::size_t taken = claim(run);
    if (taken == run.count) return true;
    collided = true;
    at += taken + 1;
  }
  return false;
}

bool SpanTable::find_and_claim(std::size_t count, Run& run, bool& collided) noexcept {
  run.count = count;
  std::size_t hint = m_.counters->hint.load(std::memory_order_relaxed);
  hint = std::clamp(hint, m_.first_span, m_.span_count);
  collided = false;
  const std::size_t overlap = std::min(hint + count, m_.span_count);
  if (!claim_between(hint, m_.span_count, run, collided) &&
      !claim_between(m_.first_span, overlap, run, collided)) {
    return false;
  }
  // relaxed: a wrong hint costs a longer search
  if (run.index == hint) m_.counters->hint.store(hint + count, std::memory_order_relaxed);
  return true;
}

void* SpanTable::allocate(const SpanRequest& request) {
  const std::size_t count =
      request.bytes == 0 ? 1 : request.bytes / kSpanBytes + (request.bytes % kSpanBytes != 0);
  Run run;
  bool collided = count <= m_.span_count;
  bool swept = false;
  while (count > m_.span_count || !find_and_claim(count, run, collided)) {
    if (count <= m_.span_count && collided) continue;  // others were given what we looked at
    if (count <= m_.span_count && !swept) {
      swept = true;
      reap_all_dead();
      continue;
    }
    throw std::system_error(ENOMEM, std::generic_category(),
                            "allocate " + in_units(request.bytes) + " in the arena of " +
                                in_units(m_.span_count * kSpanBytes) + ", " +
                                in_units(spans_in_use() * kSpanBytes) + " of it in use");
  }
  try {
    prepare(run, request);
  } catch (...) {
    free_run(run);
    throw;
  }
  const SpanWord live{SpanState::kLive, self(), static_cast<std::uint32_t>(count)};
  // PUBLISH span: release pairs with the acquire in word(): page states before the state
  m_.words[run.index].store(live.pack(), std::memory_order_release);
  return address_of(run.index);
}

bool SpanTable::release(void* block) noexcept {
  const std::size_t index = index_of(block);
  if (index < m_.first_span || index >= m_.span_count || block != address_of(index)) return false;
  // GIVE span: acquire, as in sweep()
  std::uint64_t seen = m_.words[index].load(std::memory_order_acquire);
  SpanWord w = SpanWord::unpack(seen);
  if (!is_run(w.state) || w.count == 0 || w.count > m_.span_count - index) return false;
  const Run run{index, w.count};
  w.state = SpanState::kFreeing;
  w.owner = self();
  // FREE span: acq_rel, what the user wrote comes before what the next one reads
  if (!m_.words[index].compare_exchange_strong(seen, w.pack(), std::memory_order_acq_rel)) {
    return false;
  }
  retire_pages(run);
  free_run(run);
  // relaxed: hint
  if (index < m_.counters->hint.load(std::memory_order_relaxed)) {
    m_.counters->hint.store(index, std::memory_order_relaxed);
  }
  return true;
}

bool SpanTable::give(void* block, ProcessId to) noexcept {
  const std::size_t index = index_of(block);
  if (index >= m_.span_count || block != address_of(index)) return false;
  std::uint64_t seen = m_.words[index].load(std::memory_order_relaxed);
  for (;;) {
    SpanWord w = SpanWord::unpack(seen);
    if (!is_run(w.state)) return false;
    w.owner = to;
    // GIVE span: release pairs with the acquire in sweep(): the previous owner's writes come first
    if (m_.words[index].compare_exchange_weak(seen, w.pack(), std::memory_order_acq_rel,
                                              std::memory_order_relaxed)) {
      return true;
    }
  }
}

bool SpanTable::give(void* block, ProcessId from, ProcessId to) noexcept {
  const std::size_t index = index_of(block);
  if (index >= m_.span_count || block != address_of(index)) return false;
  std::uint64_t seen = m_.words[index].load(std::memory_order_relaxed);
  SpanWord w = SpanWord::unpack(seen);
  if (!is_run(w.state) || w.owner != from) return false;
  w.owner = to;
  // GIVE span: see above
  return m_.words[index].compare_exchange_strong(seen, w.pack(), std::memory_order_acq_rel);
}

void SpanTable::publish_slab(std::size_t index, std::uint32_t size_class) noexcept {
  const SpanWord slab{SpanState::kSlab, kNobody, size_class};
  // PUBLISH span: release pairs with the acquire in word(): its claim words are zero by then.
  // One store: killed before, the span is swept as a live one; after, others use the slab.
  m_.words[index].store(slab.pack(), std::memory_order_release);
}

void SpanTable::publish_heap(void* block) noexcept {
  std::atomic<std::uint64_t>& bits = m_.words[index_of(block)];
  SpanWord heap = SpanWord::unpack(bits.load(std::memory_order_relaxed));
  heap.state = SpanState::kHeap;
  // PUBLISH span: release pairs with the acquire in word(): the run's head is written by then
  bits.store(heap.pack(), std::memory_order_release);
}

std::byte* SpanTable::run_of(const void* p) const noexcept {
  const std::size_t index = index_of(p);
  if (index < m_.first_span || index >= m_.span_count) return nullptr;
  const SpanWord w = word(index);
  if (is_run(w.state) || w.state == SpanState::kSlab) return address_of(index);
  if (w.state != SpanState::kBody || w.count > index - m_.first_span) return nullptr;
  const std::size_t head = index - w.count;
  return is_run(word(head).state) ? address_of(head) : nullptr;
}

// Takes over what a dead process held, whatever it was doing with it.
void SpanTable::sweep(ProcessId dead) noexcept {
  const std::size_t end = high();
  for (std::size_t i = m_.first_span; i < end;) {
    // GIVE span: acquire
    std::uint64_t seen = m_.words[i].load(std::memory_order_acquire);
    SpanWord w = SpanWord::unpack(seen);
    // Half-taken runs are walked span by span: the spans behind may be other runs' first ones.
    const std::size_t step = is_run(w.state) ? length_at(i, w) : 1;
    const bool holds =
        is_run(w.state) || w.state == SpanState::kClaiming || w.state == SpanState::kFreeing;
    if (holds && w.owner == dead && dead != kNobody) {
      const Run run{i, length_at(i, w)};
      const bool survives = w.state == SpanState::kHeap;
      w.owner = survives ? kNobody : self();
      if (!survives) w.state = SpanState::kFreeing;
      // GIVE span: release, to whoever frees a heap's run when its last object goes
      if (m_.words[i].compare_exchange_strong(seen, w.pack(), std::memory_order_acq_rel) &&
          !survives) {
        retire_pages(run);
        free_run(run);
      }
    }
    i += step;
  }
  m_.counters->hint.store(m_.first_span, std::memory_order_relaxed);
  m_.counters->dirty.store(static_cast<std::int64_t>(dirty_spans()), std::memory_order_relaxed);
}

std::size_t SpanTable::spans_in_use() const noexcept {
  std::size_t used = 0;
  const std::size_t end = high();
  for (std::size_t i = m_.first_span; i < end; ++i) {
    used += m_.words[i].load(std::memory_order_relaxed) != kFreeWord;
  }
  return used;
}

std::size_t SpanTable::slab_spans() const noexcept {
  std::size_t slabs = 0;
  const std::size_t end = high();
  for (std::size_t i = m_.first_span; i < end; ++i) slabs += word(i).state == SpanState::kSlab;
  return slabs;
}

}  // namespace millrace::shm
