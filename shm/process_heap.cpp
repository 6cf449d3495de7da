#include "shm/process_heap.hpp"

#include <algorithm>
#include <boost/interprocess/mem_algo/rbtree_best_fit.hpp>
#include <boost/interprocess/sync/mutex_family.hpp>
#include <cerrno>
#include <cstring>
#include <millrace/arena.hpp>
#include <millrace/errors.hpp>
#include <mutex>
#include <new>
#include <string>
#include <system_error>
#include <vector>

#include "shm/arena.hpp"
#include "shm/arena_header.hpp"
#include "shm/immortal.hpp"
#include "shm/memory_limits.hpp"
#include "shm/process_table.hpp"

namespace millrace::shm {
namespace {

// No mutex of Boost's: the owner's threads have one in private memory, and nobody else comes in.
using Algorithm =
    boost::interprocess::rbtree_best_fit<boost::interprocess::null_mutex_family, void*>;

constexpr std::uint64_t kRunMagic = 0x6e757270616568;
constexpr std::size_t kLargestRegion = 256 * kMiB;
constexpr std::size_t kRegionOverhead = 4 * kKiB;  // of the algorithm, generously

enum class Phase : std::uint32_t { kOwned, kFrozen, kFreed };

// What all processes know of a heap. A block of the arena's.
struct HeapControl {
  std::atomic<ProcessId> owner;
  std::atomic<Phase> phase;
  std::atomic<std::uint64_t> allocated;          // by the owner
  std::atomic<std::uint64_t> released_by_owner;  // by the owner
  alignas(kCacheLine) std::atomic<std::uint64_t> released_by_others;
  std::atomic<std::uint64_t> returned;  // list of blocks given back by others, through their bytes
};

struct alignas(kCacheLine) RunHead {
  std::uint64_t magic;
  HeapControl* control;  // nullptr: a direct run
  std::uint64_t bytes;

  [[nodiscard]] Algorithm& algorithm() noexcept {
    return *reinterpret_cast<Algorithm*>(reinterpret_cast<std::byte*>(this) + sizeof(RunHead));
  }
};

// This process's end of its heap.
struct ProcessHeap {
  std::mutex mutex;  // guards all
  HeapControl* control = nullptr;
  std::vector<RunHead*> regions;
};

ProcessHeap& process_heap() {
  static Immortal<ProcessHeap> heap;  // static containers may use it
  return *heap;
}

// The run that `block` lies in, nullptr when it is in none of a heap.
RunHead* run_of(const void* block) noexcept {
  if (!Arena::contains(block)) return nullptr;
  SpanTable& spans = Arena::instance().spans();
  std::byte* base = spans.run_of(block);
  if (base == nullptr || spans.word(spans.index_of(base)).state != SpanState::kHeap) return nullptr;
  auto* head = reinterpret_cast<RunHead*>(base);
  return head->magic == kRunMagic ? head : nullptr;
}

RunHead* make_run(std::size_t bytes, HeapControl* control) {
  SpanTable& spans = Arena::instance().spans();
  auto* head = new (spans.allocate({.bytes = bytes})) RunHead{kRunMagic, control, bytes};
  spans.publish_heap(head);
  return head;
}

HeapControl* make_control() {
  Arena& arena = Arena::instance();
  auto* control = static_cast<HeapControl*>(arena.allocate_zeroed(sizeof(HeapControl)));
  control->owner.store(self(), std::memory_order_relaxed);
  // HEAP control: release pairs with the acquire in freeze_heap()
  ProcessTable::instance().heap_of(self()).store(reinterpret_cast<std::uint64_t>(control),
                                                 std::memory_order_release);
  return control;
}

RunHead* add_region(ProcessHeap& heap, std::size_t bytes) {
  const std::size_t least = bytes + sizeof(RunHead) + kRegionOverhead;
  std::size_t size = kSpanBytes << std::min<std::size_t>(heap.regions.size(), 7);
  size =
      std::max(std::min(size, kLargestRegion), (least + kSpanBytes - 1) / kSpanBytes * kSpanBytes);
  heap.regions.reserve(heap.regions.size() + 1);
  RunHead* head = make_run(size, heap.control);
  new (&head->algorithm()) Algorithm(size - sizeof(RunHead), 0);
  heap.regions.push_back(head);
  return head;
}

void* allocate_in(RunHead& region, std::size_t bytes, std::size_t alignment) {
  Algorithm& algorithm = region.algorithm();
  return alignment <= 16 ? algorithm.allocate(bytes) : algorithm.allocate_aligned(bytes, alignment);
}

// Takes the blocks that others gave back into the regions' bookkeeping.
void drain(ProcessHeap& heap) {
  HeapControl& control = *heap.control;
  if (control.returned.load(std::memory_order_relaxed) == 0) return;
  // RETURN block: acquire pairs with the release in give_back()
  std::uint64_t next = control.returned.exchange(0, std::memory_order_acquire);
  while (next != 0) {
    void* block = reinterpret_cast<void*>(next);  // NOLINT(performance-no-int-to-ptr): arena
    RunHead* head = run_of(block);
    if (head == nullptr || head->control != &control) {
      throw Corrupt("object heap of process " + std::to_string(control.owner) +
                    ": its list of returned blocks was overwritten");
    }
    std::memcpy(&next, block, sizeof next);
    head->algorithm().deallocate(block);
  }
}

std::uint64_t blocks_in_use(const HeapControl& control) noexcept {
  // FREEZE heap: seq_cst, see freeze_heap()
  return control.allocated.load(std::memory_order_seq_cst) -
         control.released_by_owner.load(std::memory_order_seq_cst) -
         control.released_by_others.load(std::memory_order_seq_cst);
}

// Frees a frozen heap when nothing in it is in use: once, by whoever sees it first.
void free_if_unused(HeapControl& control) noexcept {
  if (blocks_in_use(control) != 0) return;
  Phase expected = Phase::kFrozen;
  // FREEZE heap: seq_cst
  if (!control.phase.compare_exchange_strong(expected, Phase::kFreed, std::memory_order_seq_cst)) {
    return;
  }
  Arena& arena = Arena::instance();
  SpanTable& spans = arena.spans();
  for (std::size_t i = spans.first(); i < spans.high();) {
    const SpanWord w = spans.word(i);
    const bool run = w.state == SpanState::kHeap || w.state == SpanState::kLive;
    const std::size_t length = run ? spans.length_at(i, w) : 1;
    auto* head = reinterpret_cast<RunHead*>(spans.address_of(i));
    if (w.state == SpanState::kHeap && head->magic == kRunMagic && head->control == &control) {
      spans.release(head);
    }
    i += length;
  }
  arena.deallocate(&control);
}

void give_back(HeapControl& control, void* block) noexcept {
  std::uint64_t next = control.returned.load(std::memory_order_relaxed);
  do {
    std::memcpy(block, &next, sizeof next);
    // RETURN block: release pairs with the acquire in drain()
  } while (!control.returned.compare_exchange_weak(next, reinterpret_cast<std::uint64_t>(block),
                                                   std::memory_order_release,
                                                   std::memory_order_relaxed));
  // FREEZE heap: seq_cst on both words, here and in freeze_heap(): either this process sees the
  // freeze, or the one that freezes sees the count
  control.released_by_others.fetch_add(1, std::memory_order_seq_cst);
  if (control.phase.load(std::memory_order_seq_cst) == Phase::kFrozen) free_if_unused(control);
}

void* allocate_direct(std::size_t bytes, std::size_t alignment) {
  const std::size_t offset = std::max(sizeof(RunHead), alignment);
  return reinterpret_cast<std::byte*>(make_run(offset + bytes, nullptr)) + offset;
}

}  // namespace

void* heap_allocate(std::size_t bytes, std::size_t alignment) {
  if (bytes > Arena::instance().size() || alignment > kPageBytes) {
    throw std::system_error(ENOMEM, std::generic_category(),
                            "allocate " + in_units(bytes) + " aligned to " +
                                std::to_string(alignment) + " in shared memory");
  }
  if (bytes > kDirectBytes) return allocate_direct(bytes, alignment);
  ProcessHeap& heap = process_heap();
  const std::lock_guard lock(heap.mutex);
  if (heap.control == nullptr) heap.control = make_control();
  drain(heap);
  bytes = std::max(bytes, sizeof(std::uint64_t));
  // Counted first: killed in between, the heap is frozen with one block too many in use.
  heap.control->allocated.fetch_add(1, std::memory_order_relaxed);
  try {
    for (std::size_t k = heap.regions.size(); k-- > 0;) {
      if (void* block = allocate_in(*heap.regions[k], bytes, alignment)) return block;
    }
    if (void* block = allocate_in(*add_region(heap, bytes + alignment), bytes, alignment)) {
      return block;
    }
  } catch (...) {
    heap.control->allocated.fetch_sub(1, std::memory_order_relaxed);
    throw;
  }
  heap.control->allocated.fetch_sub(1, std::memory_order_relaxed);
  throw std::system_error(ENOMEM, std::generic_category(),
                          "allocate " + in_units(bytes) + " in the object heap");
}

void heap_deallocate(void* block) noexcept {
  if (block == nullptr) return;
  RunHead* head = run_of(block);
  if (head == nullptr || (head->control != nullptr && !Arena::contains(head->control))) {
    Arena::instance().refuse_free();
    return;
  }
  if (head->control == nullptr) {
    Arena::instance().spans().release(head);
    return;
  }
  HeapControl& control = *head->control;
  if (control.owner.load(std::memory_order_relaxed) != self()) {
    give_back(control, block);
    return;
  }
  ProcessHeap& heap = process_heap();
  const std::lock_guard lock(heap.mutex);
  head->algorithm().deallocate(block);
  control.released_by_owner.fetch_add(1, std::memory_order_relaxed);
}

void freeze_heap(ProcessId dead) noexcept {
  // HEAP control: acquire pairs with the release in make_control()
  std::atomic<std::uint64_t>& word = ProcessTable::instance().heap_of(dead);
  const std::uint64_t at = word.load(std::memory_order_acquire);
  auto* control = reinterpret_cast<HeapControl*>(at);  // NOLINT(performance-no-int-to-ptr): arena
  word.store(0, std::memory_order_relaxed);
  if (control == nullptr || !Arena::contains(control)) return;
  Arena::instance().give(control, kNobody);
  Phase expected = Phase::kOwned;
  // FREEZE heap: seq_cst, see give_back()
  control->phase.compare_exchange_strong(expected, Phase::kFrozen, std::memory_order_seq_cst);
  free_if_unused(*control);
}

void lock_heap() noexcept { process_heap().mutex.lock(); }
void unlock_heap() noexcept { process_heap().mutex.unlock(); }

[[gnu::hot]] void forget_heap() noexcept {
  ProcessHeap& heap = process_heap();
  heap.control = nullptr;
  if (!heap.regions.empty()) heap.regions.clear();  // which writes even so
}

}  // namespace millrace::shm
