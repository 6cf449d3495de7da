#include "sched/range_job.hpp"

#include <algorithm>
#include <cassert>
#include <memory>
#include <millrace/errors.hpp>
#include <new>
#include <string>

namespace millrace::sched {
namespace {

constexpr std::size_t kLine = 64;
constexpr std::uint64_t kWriting = 1;
constexpr int kMaxSeats = 4096;

void check_capacity(const RangeJob::Capacity& capacity) {
  if (capacity.chunks > kMaxRangeChunks) {
    throw ValueError("range job: " + std::to_string(capacity.chunks) + " chunks, at most " +
                     std::to_string(kMaxRangeChunks) + " are possible: use larger chunks");
  }
  if (capacity.nodes < 1 || capacity.nodes > kMaxRangeNodes) {
    throw ValueError("range job: " + std::to_string(capacity.nodes) + " nodes, not 1 to " +
                     std::to_string(kMaxRangeNodes));
  }
  if (capacity.workers < 1 || capacity.workers > kMaxSeats) {
    throw ValueError("range job: " + std::to_string(capacity.workers) + " workers, not 1 to " +
                     std::to_string(kMaxSeats));
  }
}

std::uint64_t lines_for(const RangeJob::Capacity& capacity) {
  return RangeSplit::max_lines(capacity.chunks, static_cast<std::uint32_t>(capacity.nodes),
                               static_cast<std::uint32_t>(capacity.workers));
}

std::array<std::uint64_t, kMaxRangeNodes / 4> pack_shares(std::span<const int> shares) {
  std::array<std::uint64_t, kMaxRangeNodes / 4> packed{};
  for (std::size_t i = 0; i < shares.size(); ++i) {
    packed[i / 4] |= static_cast<std::uint64_t>(shares[i]) << (i % 4 * 16);
  }
  return packed;
}

}  // namespace

RangeJob::NodeCursor* RangeJob::cursors() const noexcept {
  auto* after = reinterpret_cast<std::byte*>(const_cast<RangeJob*>(this)) + sizeof(RangeJob);
  return std::launder(reinterpret_cast<NodeCursor*>(after));
}

RangeJob::SeatLine* RangeJob::seats() const noexcept {
  auto* after = reinterpret_cast<std::byte*>(cursors() + node_capacity());
  return std::launder(reinterpret_cast<SeatLine*>(after));
}

RangeJob::Word* RangeJob::line(std::uint32_t index) const noexcept {
  auto* after = reinterpret_cast<std::byte*>(seats() + seat_capacity()) + index * kLine;
  return std::launder(reinterpret_cast<Word*>(after));
}

// The capacities in epoch_ never change after create(): relaxed.
std::size_t RangeJob::node_capacity() const noexcept {
  return static_cast<std::size_t>(epoch_.load(std::memory_order_relaxed) >> 1 & 0x7fff);
}

std::size_t RangeJob::seat_capacity() const noexcept {
  return static_cast<std::size_t>(epoch_.load(std::memory_order_relaxed) >> 16 & 0xffff);
}

std::size_t RangeJob::bytes_for(const Capacity& capacity) {
  check_capacity(capacity);
  return sizeof(RangeJob) + kLine * (static_cast<std::size_t>(capacity.nodes) +
                                     static_cast<std::size_t>(capacity.workers) +
                                     static_cast<std::size_t>(lines_for(capacity)));
}

RangeJob::RangeJob(const Capacity& capacity) noexcept
    : epoch_(std::uint64_t(capacity.workers) << 16 | std::uint64_t(capacity.nodes) << 1),
      size_(0),
      chunk_capacity_(capacity.chunks) {
  for (Word& word : user_) word.store(0, std::memory_order_relaxed);
  for (Word& word : share_) word.store(0, std::memory_order_relaxed);
}

RangeJob* RangeJob::create(void* memory, const Capacity& capacity) {
  static_assert(Word::is_always_lock_free && sizeof(Word) == 8);
  static_assert(sizeof(NodeCursor) == kLine && sizeof(SeatLine) == kLine);
  static_assert(sizeof(RangeJob) == 4 * kLine);
  check_capacity(capacity);
  assert(reinterpret_cast<std::uintptr_t>(memory) % kLine == 0);
  auto* job = ::new (memory) RangeJob(capacity);
  auto* at = static_cast<std::byte*>(memory) + sizeof(RangeJob);
  std::uninitialized_value_construct_n(reinterpret_cast<NodeCursor*>(at), capacity.nodes);
  at += kLine * static_cast<std::size_t>(capacity.nodes);
  std::uninitialized_value_construct_n(reinterpret_cast<SeatLine*>(at), capacity.workers);
  at += kLine * static_cast<std::size_t>(capacity.workers);
  std::uninitialized_value_construct_n(reinterpret_cast<Word*>(at),
                                       lines_for(capacity) * kWordsPerLine);
  return job;
}

void RangeJob::start(std::uint32_t generation, std::uint64_t chunks, std::span<const int> shares,
                     std::span<const std::uint64_t> user) {
  std::uint64_t workers = 0;
  for (const int share : shares) workers += static_cast<std::uint64_t>(std::max(share, 0));
  if (chunks > chunk_capacity_ || shares.empty() || shares.size() > node_capacity() ||
      workers > seat_capacity() || user.size() > kUserWords ||
      std::any_of(shares.begin(), shares.end(), [](int share) { return share < 0; })) {
    throw ValueError("range job: " + std::to_string(chunks) + " chunks for " +
                     std::to_string(workers) + " workers on " + std::to_string(shares.size()) +
                     " nodes do not fit a record for " + std::to_string(chunk_capacity_) + ", " +
                     std::to_string(seat_capacity()) + " and " + std::to_string(node_capacity()));
  }
  const std::uint64_t last = epoch_.load(std::memory_order_relaxed);  // written by starters only
  const bool first = size_.load(std::memory_order_relaxed) == 0;
  if (!first && !is_newer(generation, generation_of(last))) {
    throw AssertionError("range job: generation " + std::to_string(generation) +
                         " is not newer than " + std::to_string(generation_of(last)));
  }
  const std::uint64_t epoch = make_word(generation, last & 0xffff'fffe);
  epoch_.store(epoch | kWriting, std::memory_order_relaxed);
  if (generation >> 30 != generation_of(last) >> 30) scrub(generation);
  // FIELD record: release, so that a reader that sees one new field also sees `writing` and drops
  // what it read.
  size_.store(chunks << 32 | shares.size(), std::memory_order_release);
  const auto packed = pack_shares(shares);
  for (std::size_t i = 0; i * 4 < shares.size(); ++i) {
    share_[i].store(packed[i], std::memory_order_release);  // FIELD record: as above
  }
  for (std::size_t i = 0; i < kUserWords; ++i) {
    // FIELD record: as above
    user_[i].store(i < user.size() ? user[i] : 0, std::memory_order_release);
  }
  // PUBLISH record: release, everything the starter wrote before.
  epoch_.store(epoch, std::memory_order_release);
}

// Once in 2^30 generations: makes every tag recent, so that comparing tags modulo 2^32 never calls
// an old one new. What is written is final for a late worker of generation - 1, newer for all
// earlier ones and older for the job that starts.
void RangeJob::scrub(std::uint32_t generation) noexcept {
  const std::uint64_t old = make_word(generation - 1, 0xffff'fffc | kDone);
  for (std::size_t i = 0; i < node_capacity(); ++i) {
    cursors()[i].next.store(old, std::memory_order_relaxed);
  }
  for (std::size_t i = 0; i < seat_capacity(); ++i) {
    seats()[i].count.store(old, std::memory_order_relaxed);
    seats()[i].grab.store(make_word(generation - 1, 0), std::memory_order_relaxed);
  }
  const std::uint64_t lines =
      RangeSplit::max_lines(chunk_capacity_, static_cast<std::uint32_t>(node_capacity()),
                            static_cast<std::uint32_t>(seat_capacity()));
  Word* const words = line(0);
  for (std::uint64_t i = 0; i < lines * kWordsPerLine; ++i) {
    words[i].store(old, std::memory_order_relaxed);
  }
  disturbed_.store(make_word(generation - 1, 0), std::memory_order_relaxed);
  settled_.store(make_word(generation - 1, 0), std::memory_order_relaxed);
}

bool RangeJob::read_fields(std::uint32_t generation, RangeSplit& split,
                           std::array<std::uint64_t, kUserWords>& user) const noexcept {
  // OBSERVE record: acquire, pairs with PUBLISH record.
  const std::uint64_t epoch = epoch_.load(std::memory_order_acquire);
  if (generation_of(epoch) != generation || (epoch & kWriting) != 0) return false;
  // FIELD record: acquire, so that a newer field makes the epoch below differ.
  const std::uint64_t size = size_.load(std::memory_order_acquire);
  const auto nodes = std::min<std::size_t>(size & 0xffff'ffff, kMaxRangeNodes);
  if (nodes == 0) return false;
  std::array<std::uint16_t, kMaxRangeNodes> shares;
  for (std::size_t i = 0; i < nodes; i += 4) {
    std::uint64_t packed = share_[i / 4].load(std::memory_order_acquire);  // FIELD record: as above
    for (std::size_t j = i; j < i + 4; ++j, packed >>= 16) {
      shares[j] = static_cast<std::uint16_t>(packed);
    }
  }
  for (std::size_t i = 0; i < kUserWords; ++i) {
    user[i] = user_[i].load(std::memory_order_acquire);  // FIELD record: as above
  }
  if (epoch_.load(std::memory_order_relaxed) != epoch) return false;
  split.assign(size >> 32, std::span(shares).first(nodes));
  return true;
}

bool RangeJob::join(std::uint32_t generation, RangeCursor& cursor) const noexcept {
  if (!read_fields(generation, cursor.split_, cursor.user_)) return false;
  cursor.generation_ = generation;
  cursor.word_ = cursor.word_end_ = nullptr;
  cursor.hop_ = 0;
  cursor.published_ = false;
  SeatLine& seat = seats()[cursor.seat_.worker];
  cursor.count_word_ = &seat.count;
  // A predecessor in this seat may have counted; it is dead, so nobody else writes: relaxed.
  const std::uint64_t count = seat.count.load(std::memory_order_relaxed);
  cursor.count_ = generation_of(count) == generation ? static_cast<std::uint32_t>(count) : 0;
  // OBSERVE repair: first the number of repairs, then whether there was one in this job; so a
  // repair is seen here, or changes the number later.
  cursor.rescan_ = rescan_.load(std::memory_order_acquire);
  cursor.sweep_ = is_disturbed(generation) ? 0 : cursor.split_.lines();
  return true;
}

void RangeJob::hold(RangeCursor& cursor, const Grab& grab) noexcept {
  cursor.word_ = line(grab.line);
  cursor.word_end_ = cursor.word_ + grab.size;
  cursor.chunk_ = grab.first;
  const bool publish = grab.size > 1;
  if (publish || cursor.published_) {
    // Relaxed: it only tells thieves where to look, the words decide.
    seats()[cursor.seat_.worker].grab.store(
        make_word(cursor.generation_, publish ? grab.line + 1 : 0), std::memory_order_relaxed);
    cursor.published_ = publish;
  }
}

bool RangeJob::grab(RangeCursor& cursor, int node) noexcept {
  const NodeRange& range = cursor.split_.node(node);
  if (range.grabs() == 0) return false;
  Word& next = cursors()[node].next;
  // Relaxed throughout: a cursor only keeps workers apart, the words decide. A compare-and-swap
  // with the generation in it, so that a late worker of an older job takes nothing from this one.
  std::uint64_t seen = next.load(std::memory_order_relaxed);
  for (;;) {
    const std::uint32_t tag = generation_of(seen);
    if (tag != cursor.generation_ && is_newer(tag, cursor.generation_)) return false;
    const std::uint32_t number =
        tag == cursor.generation_ ? static_cast<std::uint32_t>(seen) : std::uint32_t{0};
    if (number >= range.grabs()) return false;
    if (next.compare_exchange_weak(seen, make_word(cursor.generation_, number + 1),
                                   std::memory_order_relaxed)) {
      hold(cursor, range.grab(number));
      return true;
    }
  }
}

std::optional<std::uint64_t> RangeJob::claim_more(RangeCursor& cursor) noexcept {
  const auto& order = cursor.seat_.steal_order;
  const int nodes = cursor.split_.nodes();
  const int hops = order.empty() ? nodes : static_cast<int>(order.size());
  while (cursor.hop_ < hops) {
    const int node = order.empty() ? (cursor.seat_.node + cursor.hop_) % nodes
                                   : order[static_cast<std::size_t>(cursor.hop_)];
    if (node < 0 || node >= nodes || !grab(cursor, node)) {
      ++cursor.hop_;
      continue;
    }
    while (cursor.word_ != cursor.word_end_) {
      Word& word = *cursor.word_++;
      const std::uint64_t chunk = cursor.chunk_++;
      if (try_take(word, cursor)) return chunk;
    }
  }
  if (cursor.split_.has_shared_lines()) {
    if (auto chunk = steal(cursor)) return chunk;
  }
  // OBSERVE repair: acquire, pairs with RETURN chunk: a changed number shows the FREE words.
  const std::uint32_t repairs = rescan_.load(std::memory_order_acquire);
  if (repairs != cursor.rescan_) {
    cursor.rescan_ = repairs;
    cursor.sweep_ = 0;
  }
  if (auto chunk = sweep(cursor)) return chunk;
  // LEAVE count: seq_cst (the other end is done() in range_repair.cpp), so that the count precedes
  // whatever the worker reads next (is the waiter asleep?) as the waiter's own announcement
  // precedes its reading of the counts.
  cursor.count_word_->exchange(make_word(cursor.generation_, cursor.count_),
                               std::memory_order_seq_cst);
  return std::nullopt;
}

std::optional<std::uint64_t> RangeJob::take_from_back(RangeCursor& cursor,
                                                      const Grab& grab) noexcept {
  Word* const words = line(grab.line);
  for (std::uint32_t i = grab.size; i-- > 0;) {
    if (try_take(words[i], cursor)) return grab.first + i;
  }
  return std::nullopt;
}

// What others hold but have not begun: one look at each seat's published grab.
std::optional<std::uint64_t> RangeJob::steal(RangeCursor& cursor) noexcept {
  const int count = static_cast<int>(seat_capacity());
  SeatLine* const lines = seats();
  for (int i = 0; i < count; ++i) {
    const int victim = (cursor.victim_ + i) % count;
    if (victim == cursor.seat_.worker) continue;
    const std::uint64_t seen = lines[victim].grab.load(std::memory_order_relaxed);
    const auto number = static_cast<std::uint32_t>(seen);
    if (generation_of(seen) != cursor.generation_ || number == 0) continue;
    if (number > cursor.split_.lines()) continue;  // damaged: not ours to judge
    if (auto chunk = take_from_back(cursor, cursor.split_.grab_of_line(number - 1))) {
      cursor.victim_ = victim;
      return chunk;
    }
  }
  return std::nullopt;
}

// After a repair, when all cursors are at their ends: every line once.
std::optional<std::uint64_t> RangeJob::sweep(RangeCursor& cursor) noexcept {
  const std::uint64_t settled = settled_.load(std::memory_order_relaxed);  // only saves time
  if (generation_of(settled) == cursor.generation_) {
    cursor.sweep_ = std::max(cursor.sweep_, static_cast<std::uint32_t>(settled));
  }
  for (; cursor.sweep_ < cursor.split_.lines(); ++cursor.sweep_) {
    if (auto chunk = take_from_back(cursor, cursor.split_.grab_of_line(cursor.sweep_))) {
      return chunk;
    }
  }
  return std::nullopt;
}

}  // namespace millrace::sched
