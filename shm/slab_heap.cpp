#include "shm/slab_heap.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <ctime>

#include "shm/process_table.hpp"
#include "shm/slab_geometry.hpp"

namespace millrace::shm {
namespace {

constexpr std::uint32_t kFreeWord = 0;
constexpr std::uint32_t kLiveBit = 1;
// A thread that has freed so many bytes looks for slabs without a live block. One that was found so
// a while ago, and not used since, gives its pages back; a few are kept for what comes next.
constexpr std::uint64_t kLookEvery = std::uint64_t{8} << 20U;
constexpr int kKeptSlabs = 4;
constexpr std::uint32_t kInUse = 0;
constexpr std::uint32_t kGivenBack = 1;

// The time, as SlabHead::rest says since when: milliseconds in steps of four, neither of the above.
// The system's own, as every process reads it; it wraps after 49 days.
std::uint32_t stamp_now() noexcept {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  const std::int64_t ms = std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
  return (static_cast<std::uint32_t>(ms) & ~3U) | 2U;
}

// Another process may have looked at the clock later than this one.
bool has_rested(std::uint32_t since, std::uint32_t now) noexcept {
  const auto passed = static_cast<std::int32_t>(now - since);
  return passed >= 0 &&
         static_cast<std::uint32_t>(passed) >= slab_rest_ms.load(std::memory_order_relaxed);
}

constexpr std::uint32_t live(ProcessId owner) noexcept { return owner << 1U | kLiveBit; }

struct SlabHead {
  std::atomic<std::uint32_t> touched;  // invariant 3
  std::atomic<std::uint32_t> full;     // hint: no block was FREE when last searched
  std::atomic<std::uint32_t> rest;     // hint: kInUse, kGivenBack, or since when it is empty
};
static_assert(sizeof(SlabHead) <= kHeadBytes);

struct Position {
  std::uint32_t span = 0;  // 0: none, the header lies there
  std::uint32_t block = 0;
};
thread_local constinit std::array<Position, kSizeClasses> position{};

// Bytes that this thread has freed since its last look for slabs to give back, and how many more
// the next look waits for: a sixteenth of what all slabs hold, so that looks stay cheap.
thread_local constinit std::uint64_t freed_bytes = 0;
thread_local constinit std::uint64_t look_after = kLookEvery;

// Somewhere in a slab, at the start of a cache line of claim words, different for each thread.
std::uint32_t starting_block(std::uint32_t count) noexcept {
  const auto seed = static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(&position)) >> 6U;
  const std::uint64_t mixed = (seed ^ (std::uint64_t{self()} << 32U)) * 0x9e3779b97f4a7c15U;
  const std::uint32_t block = static_cast<std::uint32_t>((mixed >> 32U) % count);
  return block / 16 * 16;
}

}  // namespace

std::atomic<std::uint32_t> slab_rest_ms{1000};

struct SlabHeap::Slab {
  std::byte* base;
  std::uint32_t span;
  std::uint32_t size_class;

  [[nodiscard]] const SlabGeometry& geometry() const noexcept { return kSlabGeometry[size_class]; }
  [[nodiscard]] SlabHead& head() const noexcept { return *reinterpret_cast<SlabHead*>(base); }
  [[nodiscard]] std::atomic<std::uint32_t>* words() const noexcept {
    return reinterpret_cast<std::atomic<std::uint32_t>*>(base + kHeadBytes);
  }
  [[nodiscard]] std::byte* block(std::uint32_t k) const noexcept {
    return base + geometry().blocks_at + std::size_t{k} * geometry().block_bytes;
  }
  // Number of the block at `p`, `count` when none starts there.
  [[nodiscard]] std::uint32_t number_of(const void* p) const noexcept {
    const SlabGeometry& g = geometry();
    const auto offset = static_cast<std::size_t>(static_cast<const std::byte*>(p) - base);
    if (offset < g.blocks_at || (offset - g.blocks_at) % kCacheLine != 0) return g.count;
    const std::uint64_t units = (offset - g.blocks_at) / kCacheLine;
    const auto k = static_cast<std::uint32_t>(units * g.reciprocal >> 24U);
    return k < g.count && block(k) == p ? k : g.count;
  }
  [[nodiscard]] bool empty() const noexcept;
  void give_back() const noexcept;
  bool give_back(std::uint32_t first, std::uint32_t last) const noexcept;
  static void look_for_empty(const SpanTable& spans) noexcept;
};

// No block of it is live, as far as a look without a claim can tell.
bool SlabHeap::Slab::empty() const noexcept {
  // relaxed: guesses, the claims in give_back() decide
  if (head().full.load(std::memory_order_relaxed) != 0) return false;
  const std::uint32_t touched = head().touched.load(std::memory_order_relaxed);
  for (std::uint32_t k = 0; k < geometry().count; ++k) {
    if ((touched >> (k / kWordsPerPage) & 1U) == 0) {
      k += static_cast<std::uint32_t>(kWordsPerPage) - 1;  // k is the page's first here
    } else if (words()[k].load(std::memory_order_relaxed) != kFreeWord) {
      return false;
    }
  }
  return true;
}

// Claims the blocks [first, last), gives the pages that lie within them back to the system, and
// frees them. False when one was taken meanwhile. Killed anywhere between, a process leaves blocks
// of its own, which are swept; what they held was nobody's.
bool SlabHeap::Slab::give_back(std::uint32_t first, std::uint32_t last) const noexcept {
  const std::uint32_t mine = live(self());
  std::uint32_t k = first;
  for (; k < last; ++k) {
    std::uint32_t expected = kFreeWord;
    // TAKE block: acquire: the pages go after the last touch of the previous user
    if (!words()[k].compare_exchange_strong(expected, mine, std::memory_order_acquire,
                                            std::memory_order_relaxed)) {
      break;
    }
  }
  bool given = k == last;
  if (given) {
    const auto from =
        (reinterpret_cast<std::uintptr_t>(block(first)) + kPageBytes - 1) / kPageBytes * kPageBytes;
    const auto to = reinterpret_cast<std::uintptr_t>(block(last)) / kPageBytes * kPageBytes;
    given = from >= to || ::madvise(reinterpret_cast<void*>(from), to - from, MADV_REMOVE) == 0;
  }
  // FREE block: release, the next user comes after the pages have gone
  while (k-- > first) words()[k].store(kFreeWord, std::memory_order_release);
  return given;
}

// Page by page of claim words; those that nobody has ever claimed in have no blocks with pages.
void SlabHeap::Slab::give_back() const noexcept {
  const std::uint32_t touched = head().touched.load(std::memory_order_relaxed);
  // relaxed: hints. First, so that whoever gets a block from us says after it that it is in use.
  head().rest.store(kGivenBack, std::memory_order_relaxed);
  bool all = true;
  for (std::uint32_t page = 0; page * kWordsPerPage < geometry().count; ++page) {
    const auto first = page * static_cast<std::uint32_t>(kWordsPerPage);
    const auto last = std::min(first + static_cast<std::uint32_t>(kWordsPerPage), geometry().count);
    if ((touched >> page & 1U) != 0) all = give_back(first, last) && all;
  }
  if (!all) head().rest.store(kInUse, std::memory_order_relaxed);
  // Whoever found every block taken meanwhile may look again.
  head().full.store(0, std::memory_order_relaxed);
}

void SlabHeap::Slab::look_for_empty(const SpanTable& spans) noexcept {
  freed_bytes = 0;
  const std::uint32_t now = stamp_now();
  std::uint64_t slabs = 0;
  int kept = 0;
  for (std::size_t i = spans.first(); i < spans.high();) {
    const SpanWord w = spans.word(i);
    const bool run = w.state == SpanState::kLive || w.state == SpanState::kHeap;
    if (w.state == SpanState::kSlab && w.count < kRecordClass) {
      ++slabs;
      const Slab slab{spans.address_of(i), static_cast<std::uint32_t>(i), w.count};
      // relaxed, here and below: hints; whoever claims a block says that the slab is in use again
      const std::uint32_t rest = slab.head().rest.load(std::memory_order_relaxed);
      if (rest == kInUse && slab.empty()) slab.head().rest.store(now, std::memory_order_relaxed);
      // Who searched while it gave back may have called it full behind its back.
      if (rest == kGivenBack) slab.head().full.store(0, std::memory_order_relaxed);
      const bool rests = rest != kInUse && rest != kGivenBack && kept++ >= kKeptSlabs;
      if (rests && has_rested(rest, now)) slab.give_back();
    }
    i += run ? spans.length_at(i, w) : 1;
  }
  look_after = std::max(kLookEvery, slabs * kSpanBytes / 16);
}

std::size_t SlabHeap::block_bytes(std::size_t size_class) noexcept {
  return kBlockBytes[size_class];
}

SlabHeap::Slab SlabHeap::slab_at(std::size_t index, std::uint32_t size_class) const noexcept {
  return {spans_.address_of(index), static_cast<std::uint32_t>(index), size_class};
}

void* SlabHeap::allocate(std::size_t bytes) {
  return allocate_class(kClassOf[(bytes + kCacheLine - 1) / kCacheLine]);
}

void* SlabHeap::allocate_record() { return allocate_class(kRecordClass); }

void* SlabHeap::allocate_class(std::uint32_t size_class) {
  const Position at = position[size_class];
  if (at.span != 0) {
    if (void* block = claim_in(slab_at(at.span, size_class), at.block)) return block;
  }
  return claim_elsewhere(size_class);
}

// Takes the first FREE block from `from` on, cyclically.
void* SlabHeap::claim_in(const Slab& slab, std::uint32_t from) noexcept {
  const std::uint32_t count = slab.geometry().count;
  std::atomic<std::uint32_t>* words = slab.words();
  const std::uint32_t mine = live(self());
  std::uint32_t k = from;
  for (std::uint32_t tried = 0; tried < count; ++tried, k = k + 1 < count ? k + 1 : 0) {
    std::uint32_t expected = kFreeWord;
    // relaxed: only a guess, the CAS decides
    if (words[k].load(std::memory_order_relaxed) != kFreeWord) continue;
    const std::uint32_t page = 1U << (k / kWordsPerPage);
    if ((slab.head().touched.load(std::memory_order_relaxed) & page) == 0) {
      // TOUCH page: release, to each_word(): a sweep reads this page of claim words from now on
      slab.head().touched.fetch_or(page, std::memory_order_release);
    }
    // TAKE block: acquire pairs with the release in release() and sweep(): the new user comes
    // after the last touch of the previous one.
    if (words[k].compare_exchange_strong(expected, mine, std::memory_order_acquire,
                                         std::memory_order_relaxed)) {
      position[slab.size_class] = {slab.span, k + 1 < count ? k + 1 : 0};
      // relaxed: a hint; after the claim, so that it is not older than what give_back() left
      if (slab.head().rest.load(std::memory_order_relaxed) != kInUse) {
        slab.head().rest.store(kInUse, std::memory_order_relaxed);
      }
      return slab.block(k);
    }
  }
  // relaxed: a hint. A block freed meanwhile is found again after the next release in this slab.
  slab.head().full.store(1, std::memory_order_relaxed);
  return nullptr;
}

void* SlabHeap::claim_elsewhere(std::uint32_t size_class) {
  const std::uint32_t start = starting_block(kSlabGeometry[size_class].count);
  const std::uint32_t hint = hints_[size_class].load(std::memory_order_relaxed);
  const auto usable = [&](std::size_t i) {
    const SpanWord w = spans_.word(i);
    return w.state == SpanState::kSlab && w.count == size_class &&
           slab_at(i, size_class).head().full.load(std::memory_order_relaxed) == 0;
  };
  const auto claim_at = [&](std::size_t i) -> void* {
    void* block = claim_in(slab_at(i, size_class), start);
    if (block != nullptr) {
      hints_[size_class].store(static_cast<std::uint32_t>(i), std::memory_order_relaxed);
    }
    return block;
  };
  if (hint >= spans_.first() && hint < spans_.high() && usable(hint)) {
    if (void* block = claim_at(hint)) return block;
  }
  for (std::size_t i = spans_.first(); i < spans_.high();) {
    const SpanWord w = spans_.word(i);
    const bool run = w.state == SpanState::kLive || w.state == SpanState::kHeap;
    if (usable(i)) {
      if (void* block = claim_at(i)) return block;
    }
    i += run ? spans_.length_at(i, w) : 1;
  }
  for (;;) {
    const std::uint32_t made = make_slab(size_class);
    if (void* block = claim_at(made)) return block;
  }
}

std::uint32_t SlabHeap::make_slab(std::uint32_t size_class) {
  const std::size_t index = spans_.index_of(
      spans_.allocate({.bytes = kSlabGeometry[size_class].blocks_at, .zeroed = true}));
  spans_.publish_slab(index, size_class);
  return static_cast<std::uint32_t>(index);
}

std::atomic<std::uint32_t>* SlabHeap::word_of(const void* block) const noexcept {
  const std::size_t index = spans_.index_of(block);
  if (index < spans_.first() || index >= spans_.high()) return nullptr;
  const SpanWord w = spans_.word(index);
  if (w.state != SpanState::kSlab || w.count >= kSizeClasses) return nullptr;
  const Slab slab = slab_at(index, w.count);
  const std::uint32_t k = slab.number_of(block);
  return k < slab.geometry().count ? &slab.words()[k] : nullptr;
}

bool SlabHeap::release(std::size_t index, std::uint32_t size_class, void* block) noexcept {
  if (size_class >= kSizeClasses) return false;
  const Slab slab = slab_at(index, size_class);
  const std::uint32_t k = slab.number_of(block);
  if (k >= slab.geometry().count) return false;
  // FREE block: release (and acquire, since the memory's last writer may have been another)
  const std::uint32_t was = slab.words()[k].exchange(kFreeWord, std::memory_order_acq_rel);
  if ((was & kLiveBit) == 0) return false;
  if (slab.head().full.load(std::memory_order_relaxed) != 0) {
    slab.head().full.store(0, std::memory_order_relaxed);
  }
  Position& at = position[size_class];
  if (at.span == slab.span) at.block = k;  // the next one is warm in this cpu's cache
  freed_bytes += slab.geometry().block_bytes;
  if (freed_bytes >= look_after) Slab::look_for_empty(spans_);
  return true;
}

bool SlabHeap::give(void* block, ProcessId to) noexcept {
  std::atomic<std::uint32_t>* word = word_of(block);
  if (word == nullptr) return false;
  std::uint32_t seen = word->load(std::memory_order_relaxed);
  while ((seen & kLiveBit) != 0) {
    // GIVE block: release pairs with the acquire in sweep(): the previous owner's writes come first
    if (word->compare_exchange_weak(seen, live(to), std::memory_order_acq_rel,
                                    std::memory_order_relaxed)) {
      return true;
    }
  }
  return false;
}

bool SlabHeap::give(void* block, ProcessId from, ProcessId to) noexcept {
  std::atomic<std::uint32_t>* word = word_of(block);
  std::uint32_t expected = live(from);
  // GIVE block: see above
  return word != nullptr &&
         word->compare_exchange_strong(expected, live(to), std::memory_order_acq_rel);
}

template <class Visit>
void SlabHeap::each_word(Visit&& visit) const noexcept {
  const std::size_t end = spans_.high();
  for (std::size_t i = spans_.first(); i < end;) {
    const SpanWord w = spans_.word(i);
    const bool run = w.state == SpanState::kLive || w.state == SpanState::kHeap;
    if (w.state == SpanState::kSlab && w.count < kSizeClasses) {
      const Slab slab = slab_at(i, w.count);
      // TOUCH page: acquire pairs with the release in claim_in()
      const std::uint32_t touched = slab.head().touched.load(std::memory_order_acquire);
      for (std::uint32_t k = 0; k < slab.geometry().count; ++k) {
        if ((touched >> (k / kWordsPerPage) & 1U) != 0) {
          visit(slab, slab.words()[k]);
        } else {
          k += static_cast<std::uint32_t>(kWordsPerPage) - 1 -
               k % static_cast<std::uint32_t>(kWordsPerPage);
        }
      }
    }
    i += run ? spans_.length_at(i, w) : 1;
  }
}

void SlabHeap::sweep(ProcessId dead) noexcept {
  if (dead == kNobody) return;
  each_word([&](const Slab& slab, std::atomic<std::uint32_t>& word) {
    std::uint32_t expected = live(dead);
    if (word.load(std::memory_order_relaxed) != expected) return;
    // FREE block: acquire of what its owner wrote or was given, release to its next user
    if (word.compare_exchange_strong(expected, kFreeWord, std::memory_order_acq_rel)) {
      slab.head().full.store(0, std::memory_order_relaxed);
      freed_bytes += slab.geometry().block_bytes;
    }
  });
  if (freed_bytes >= look_after) Slab::look_for_empty(spans_);
}

bool SlabHeap::is_record(const void* block) const noexcept {
  const std::size_t index = spans_.index_of(block);
  if (index < spans_.first() || index >= spans_.high()) return false;
  const SpanWord w = spans_.word(index);
  if (w.state != SpanState::kSlab || w.count != kRecordClass) return false;
  const Slab slab = slab_at(index, w.count);
  return slab.number_of(block) < slab.geometry().count;
}

std::size_t SlabHeap::size_of(const void* block) const noexcept {
  const std::atomic<std::uint32_t>* word = word_of(block);
  if (word == nullptr || (word->load(std::memory_order_relaxed) & kLiveBit) == 0) return 0;
  return kBlockBytes[spans_.word(spans_.index_of(block)).count];
}

std::size_t SlabHeap::blocks_in_use() const noexcept {
  std::size_t used = 0;
  each_word([&](const Slab&, const std::atomic<std::uint32_t>& word) {
    used += word.load(std::memory_order_relaxed) & kLiveBit;
  });
  return used;
}

[[gnu::hot]] void forget_slab_position() noexcept { position = {}; }

}  // namespace millrace::shm
