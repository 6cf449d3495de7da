#include "shm/spsc_ring.hpp"

#include <bit>
#include <millrace/errors.hpp>
#include <new>
#include <string>

namespace millrace::shm {
namespace {

constexpr std::uint64_t kMagic = 0x32676e697263706dULL;
constexpr std::size_t kPrefetchBytes = 1024;
constexpr std::uint64_t kReadAhead = 8;  // lines asked for before they are read,
constexpr unsigned kBehind = 8;          // once so many were there at the first look
constexpr std::size_t kUnit = 128;           // of bulk: a line and the one fetched beside it
constexpr std::size_t kMostKept = 1U << 20;  // of bulk that stays in a cache until its next use

SpscGeometry rounded(const SpscGeometry& wanted) {
  constexpr std::size_t kMostLines = std::size_t{1} << 30;
  constexpr std::size_t kMostBulk = std::size_t{1} << 32;
  if (wanted.line_count > kMostLines || wanted.bulk_bytes > kMostBulk) {
    throw ValueError("a ring of " + std::to_string(wanted.line_count) + " lines and " +
                     std::to_string(wanted.bulk_bytes) + " bytes of bulk is too large");
  }
  const std::size_t lines =
      std::bit_ceil(wanted.line_count < 2 ? std::size_t{2} : wanted.line_count);
  const std::size_t bulk =
      std::bit_ceil(wanted.bulk_bytes < kUnit ? kUnit : wanted.bulk_bytes);
  return {lines, bulk};
}

// Where the next bulk message may begin. Not in the line beside the last one's end: the consumer,
// reading that, would be given the line which the producer is writing.
constexpr std::uint64_t up_to_unit(std::uint64_t bytes) {
  return (bytes + kUnit - 1) & ~std::uint64_t{kUnit - 1};
}

// Asks for the lines of the block exclusively before they are written.
inline void prefetch_for_write(const std::byte* from, std::size_t bytes) noexcept {
  for (std::size_t at = 0; at < bytes; at += 64) __builtin_prefetch(from + at, 1, 3);
}

}  // namespace

std::size_t SpscRing::bytes_for(const SpscGeometry& geometry) {
  const SpscGeometry size = rounded(geometry);
  return sizeof(Header) + size.line_count * kSlotBytes + size.bulk_bytes;
}

SpscRing::SpscRing(void* memory, const SpscGeometry& geometry) noexcept
    : header_(static_cast<Header*>(memory)),
      slots_(reinterpret_cast<Slot*>(header_ + 1)),
      bulk_(reinterpret_cast<std::byte*>(slots_ + geometry.line_count)),
      line_count_(geometry.line_count),
      stride_((geometry.line_count * 5 / 8) | 1),
      bulk_bytes_(geometry.bulk_bytes),
      line_shift_(static_cast<unsigned>(std::countr_zero(geometry.line_count))) {}

SpscRing SpscRing::create(void* memory, const SpscGeometry& geometry) {
  const SpscGeometry size = rounded(geometry);
  SpscRing ring(memory, size);
  for (std::size_t i = 0; i < size.line_count; ++i) new (&ring.slots_[i]) Slot{};
  auto* header = new (memory) Header{};
  header->line_count = size.line_count;
  header->bulk_bytes = size.bulk_bytes;
  header->magic = kMagic;
  return ring;
}

SpscRing SpscRing::attach(void* memory, std::size_t bytes) {
  const auto* header = static_cast<const Header*>(memory);
  if (bytes < sizeof(Header) || header->magic != kMagic) throw Corrupt("no SPSC ring is there");
  const SpscGeometry found{header->line_count, header->bulk_bytes};
  const bool sane = found.line_count <= bytes / kSlotBytes && found.bulk_bytes <= bytes &&
                    std::has_single_bit(found.line_count) && std::has_single_bit(found.bulk_bytes);
  if (!sane || bytes_for(found) > bytes) {
    throw Corrupt("SPSC ring: its geometry does not fit its " + std::to_string(bytes) + " bytes");
  }
  return {memory, found};
}

void SpscRing::corrupt(const char* what, std::uint64_t value) const {
  throw Corrupt("SPSC ring at " + std::to_string(reinterpret_cast<std::uintptr_t>(header_)) +
                " is damaged: " + what + " is " + std::to_string(value));
}

SpscRing::Bulk SpscRing::decode(std::uint64_t cell, std::uint64_t tail) const {
  const std::uint64_t bytes = cell & ((1ULL << kSizeBits) - 1);
  const std::uint64_t ahead = ((cell >> kSizeBits) - tail / kUnit) & kStartMask;
  const std::uint64_t start = tail + ahead * kUnit;
  const std::uint64_t offset = start & (bulk_bytes_ - 1);
  const bool inside = ahead * kUnit <= bulk_bytes_ && bytes <= bulk_bytes_ - offset;
  if (!inside) corrupt("place of a message", cell);
  return {start, bytes};
}

// The consumer writes claims of both tails, then the tails: cursor claim, bulk claim, cursor, bulk.
// So the bulk tail of a cursor is its claim if the claims are those of that cursor, else the tail.
SpscRing::Tails SpscRing::tails() const {
  // A live consumer moves on at most once per message that is still there, and once per line.
  const std::uint64_t most = line_count_ * (kCellCount + 1) + 2;
  for (std::uint64_t tries = 0; tries < most; ++tries) {
    // OBSERVE tail: acquire; whoever sees a cursor sees its claims, and what was read before it may
    // be overwritten.
    const std::uint64_t cursor = header_->cursor_tail.load(std::memory_order_acquire);
    // OBSERVE claim: acquire, each ahead of the next: who sees the bulk claim of a later cursor
    // sees the claim of that cursor too; who sees that one, the bulk tail of this cursor; who sees
    // a later bulk tail, the later cursor.
    const std::uint64_t claim = header_->bulk_claim.load(std::memory_order_acquire);
    // OBSERVE claim: after the bulk's.
    const std::uint64_t claimed = header_->cursor_claim.load(std::memory_order_acquire);
    // OBSERVE tail: after the claims.
    const std::uint64_t tail = header_->bulk_tail.load(std::memory_order_acquire);
    // OBSERVE tail: last: nothing of it moved meanwhile.
    if (header_->cursor_tail.load(std::memory_order_acquire) != cursor) continue;
    const std::uint64_t bulk = claimed == cursor ? claim : tail;
    if (bulk % kUnit != 0 || bulk - tail > 2 * bulk_bytes_) corrupt("bulk tail", bulk);
    return {cursor, bulk};
  }
  corrupt("line tail", header_->cursor_tail.load(std::memory_order_relaxed));  // for the message
}

// ---- producer

SpscRing::Producer::Producer(const SpscRing& ring) : SpscRing(ring) {
  // OBSERVE tail: the word as it stands, which may be behind: then the ring looks fuller. Ahead of
  // tails(), so that it is not beyond the bulk that is found from there on.
  seen_bulk_tail_ = header_->bulk_tail.load(std::memory_order_acquire);
  const auto [cursor, bulk] = tails();
  bulk_head_ = bulk;
  seen_line_tail_ = cursor / 8;
  unsigned first = static_cast<unsigned>(cursor % 8);
  for (position_ = seen_line_tail_; position_ - seen_line_tail_ < line_count_; ++position_) {
    const bool used = take_up_line(first);
    first = 0;
    if (!used || (control_ & kClosed) == 0) return;
  }
  --position_;  // every line is full: behind the last one
  cell_ = kCellCount;
}

// Finds out what a predecessor published in the line, from one of its cells on; false: nothing.
bool SpscRing::Producer::take_up_line(unsigned first) {
  line_ = &line(position_);
  cell_ = first;
  // OBSERVE line: acquire, the cells of a dead predecessor are read below.
  control_ = line_->control.load(std::memory_order_acquire);
  if ((control_ & ~(kClosed | kCodes)) != lap(position_)) {
    control_ = lap(position_);
    published_ = control_;
    cell_ = 0;
    return false;
  }
  published_ = control_;
  for (std::uint64_t codes = (control_ & kCodes) >> (kCodeBits * cell_);
       (codes & kCodeMask) != 0;) {
    const std::uint64_t code = codes & kCodeMask;
    if (code > kBulkCode) corrupt("code of a message", code);
    unsigned cells = 1;
    if (code == kBulkCode) {
      const Bulk bulk = decode(line_->cell[cell_], bulk_head_);
      bulk_head_ = bulk.start + up_to_unit(bulk.bytes);
    } else {
      cells = cells_for(code - 1);
    }
    cell_ += cells;
    codes >>= kCodeBits * cells;
  }
  if (cell_ > kCellCount) corrupt("control word of a line", control_);
  return true;
}

void SpscRing::Producer::observe_tails() {
  // OBSERVE tail: acquire; the consumer has finished with everything before it.
  const std::uint64_t lines = header_->cursor_tail.load(std::memory_order_acquire) / 8;
  const std::uint64_t bulk = header_->bulk_tail.load(std::memory_order_acquire);  // OBSERVE tail
  if (lines < seen_line_tail_ || lines > position_ + 1) corrupt("line tail", lines);
  if (bulk < seen_bulk_tail_ || bulk > bulk_head_) corrupt("bulk tail", bulk);
  seen_line_tail_ = lines;
  seen_bulk_tail_ = bulk;
}

void SpscRing::Producer::next_line() noexcept {
  ++position_;
  line_ = &line(position_);
  control_ = lap(position_);
  published_ = control_;
  cell_ = 0;
}

// For a message that finds no room in the line; false when the ring is full.
bool SpscRing::Producer::open_next_line() {
  if (!has_next_line()) {
    flush();
    observe_tails();
    if (!has_next_line()) return false;
  }
  if ((control_ & kClosed) == 0) {  // a message too long for what is left of the line
    control_ |= kClosed;
    publish_line();
  }
  next_line();
  return true;
}

std::byte* SpscRing::Producer::reserve_bulk(std::size_t bytes) {
  if (bytes > bulk_bytes_) {
    throw ValueError("a message of " + std::to_string(bytes) + " bytes is longer than the ring's " +
                     std::to_string(bulk_bytes_));
  }
  const std::uint64_t size = up_to_unit(bytes);
  const std::uint64_t offset = bulk_head_ & (bulk_bytes_ - 1);
  const std::uint64_t start = bulk_head_ + (offset + size > bulk_bytes_ ? bulk_bytes_ - offset : 0);
  if (start + size - seen_bulk_tail_ > bulk_bytes_) {
    flush();
    observe_tails();
    // An empty bulk area takes anything: the part skipped holds nothing.
    if (start + size - seen_bulk_tail_ > bulk_bytes_ && seen_bulk_tail_ != bulk_head_)
      return nullptr;
  }
  bulk_start_ = start;
  bulk_reserved_ = bytes;
  std::byte* place = bulk_ + (start & (bulk_bytes_ - 1));
  prefetch_for_write(place, bytes < kPrefetchBytes ? bytes : kPrefetchBytes);
  return place;
}

void SpscRing::Producer::commit_bulk(std::size_t bytes, Publish when) noexcept {
  line_->cell[cell_] = ((bulk_start_ / kUnit) & kStartMask) << kSizeBits | bytes;
  bulk_head_ = bulk_start_ + up_to_unit(bytes);
  bulk_reserved_ = 0;
  append(kBulkCode, 1, when);
}

// The lines to be written were read by the other cpu last: ask for them a kilobyte ahead.
void SpscRing::Producer::copy_in(std::byte* to, const void* from, std::size_t bytes) noexcept {
  const auto* source = static_cast<const std::byte*>(from);
  while (bytes > kPrefetchBytes) {
    const std::size_t ahead = bytes - kPrefetchBytes;
    prefetch_for_write(to + kPrefetchBytes, ahead < kPrefetchBytes ? ahead : kPrefetchBytes);
    std::memcpy(to, source, kPrefetchBytes);
    to += kPrefetchBytes;
    source += kPrefetchBytes;
    bytes -= kPrefetchBytes;
  }
  std::memcpy(to, source, bytes);
}

std::byte* SpscRing::Producer::reserve(std::size_t bytes, const WaitPolicy& policy,
                                       Timeout::Clock::time_point deadline) {
  std::byte* place = try_reserve(bytes);
  if (place != nullptr) return place;
  wake();  // a consumer that sleeps would never make room
  wait_until(
      header_->room, [&] { return (place = try_reserve(bytes)) != nullptr; }, policy, deadline);
  return place;
}

// ---- consumer

SpscRing::Consumer::Consumer(const SpscRing& ring) : SpscRing(ring) {
  const auto [cursor, bulk] = tails();
  cursor_ = given_cursor_ = cursor;
  bulk_done_ = bulk_end_ = given_bulk_ = bulk;
  // PUBLISH tail: release; what a predecessor had not come to.
  header_->bulk_tail.store(bulk, std::memory_order_release);
  line_ = &line(position());
}

// KEEP order: the cursor is the truth, the bulk follows it (release_bulk(), peek_bulk()).
void SpscRing::Consumer::resume() noexcept {
  if (cursor_ > bulk_at_) bulk_done_ = up_to_unit(bulk_end_);  // whatever came of its bulk
  given_bulk_ = ~std::uint64_t{0};                 // as good as not given: publish all
  publish_tails();
  line_ = &line(position());
  codes_ = 0;
  closed_ = false;
}

// To OWN a line before it is given back, the consumer writes what stands there. The producer takes
// a line that its peer has written as fast as it can write; one that both have read it can only
// write once the other copy is gone, line after line: 40 ns each between near cpus, 150 far ones.
void SpscRing::Consumer::next_line() noexcept {
  // OWN line: relaxed, nothing writes a closed control word until PUBLISH tail. PUBLISH line again:
  // release, so that OBSERVE line of a new producer or of has_message() still sees the cells, which
  // this end has observed.
  line_->control.store(line_->control.load(std::memory_order_relaxed), std::memory_order_release);
  codes_ = 0;
  closed_ = false;
  // PLACE reader: relaxed, see has_message()
  std::atomic_ref(cursor_).store((cursor_ | 7) + 1, std::memory_order_relaxed);
  line_ = &line(position());
  if (position() - given_cursor_ / 8 >= line_count_ / 4) publish_tails();
  // Only while the producer is well ahead: else this would take from it the line it writes.
  if (++ready_lines_ > kBehind) __builtin_prefetch(&line(position() + kReadAhead), 0, 3);
}

// Looks for a message behind those seen: false when there is none.
bool SpscRing::Consumer::look() {
  for (;;) {
    if (closed_) next_line();
    // OBSERVE line: acquire; pairs with PUBLISH line, the cells and the bulk may be read after it.
    const std::uint64_t seen = line_->control.load(std::memory_order_acquire);
    const std::uint64_t seen_lap = seen >> kLapShift << kLapShift;
    if (seen_lap == lap(position())) {
      codes_ = (seen & kCodes) >> (kCodeBits * (cursor_ & 7));
      closed_ = (seen & kClosed) != 0;
      if ((codes_ & kCodeMask) != 0) return true;
      if (closed_) continue;
    } else if (position() < line_count_ ? seen != 0 : seen_lap != lap(position() - line_count_)) {
      corrupt("control word of a line", seen);
    }
    ready_lines_ = 0;
    if (cursor_ != given_cursor_) publish_tails();
    // The producer may have parked on the room just given back. No barrier is needed here: this
    // runs again and again, and once more behind the barrier of ParkingSpot::prepare().
    if (header_->room.maybe_asleep()) header_->room.notify_all();
    return false;
  }
}

bool SpscRing::Consumer::has_message() noexcept {
  // PLACE reader: relaxed: the lines before it were read, what is in that one is looked at below
  std::uint64_t cursor = std::atomic_ref(cursor_).load(std::memory_order_relaxed);
  for (;; cursor = (cursor | 7) + 1) {
    // OBSERVE line: acquire, as in look()
    const std::uint64_t seen = line(cursor / 8).control.load(std::memory_order_acquire);
    if (seen >> kLapShift << kLapShift != lap(cursor / 8)) return false;
    if (((seen & kCodes) >> (kCodeBits * (cursor & 7)) & kCodeMask) != 0) return true;
    if ((seen & kClosed) == 0) return false;
  }
}

SpscMessage SpscRing::Consumer::peek_bulk(std::uint64_t code) {
  if (code != kBulkCode) corrupt("code of a message", code);
  const Bulk bulk = decode(line_->cell[cursor_ & 7], bulk_done_);
  bulk_at_ = cursor_;
  // KEEP order: an end that is not yet written belongs to no message that was released.
  std::atomic_signal_fence(std::memory_order_seq_cst);
  bulk_end_ = bulk.start + bulk.bytes;
  return {bulk_ + (bulk.start & (bulk_bytes_ - 1)), bulk.bytes};
}

// First the message, then its bulk: a successor finds the message gone, or there with its bytes.
void SpscRing::Consumer::release_bulk() noexcept {
  advance(1);
  // KEEP order: only the compiler could turn the two around, and only a kill between them tells;
  // pairs with the reading of both in resume().
  std::atomic_signal_fence(std::memory_order_seq_cst);
  if (bulk_bytes_ <= kMostKept) own_bulk();
  bulk_done_ = up_to_unit(bulk_end_);
  if (bulk_done_ - given_bulk_ >= bulk_bytes_ / 4) publish_tails();
}

// OWN bulk: as next_line() does; bytes that are not given back are nobody else's.
void SpscRing::Consumer::own_bulk() noexcept {
  if (bulk_end_ - bulk_done_ > 2 * bulk_bytes_) return;  // only if this end itself is damaged
  for (std::uint64_t at = bulk_done_; at < bulk_end_; at += kLineBytes) {
    volatile std::byte& first = bulk_[at & (bulk_bytes_ - 1)];
    first = first;
  }
}

void SpscRing::Consumer::publish_tails() noexcept {
  const bool bulk_moved = bulk_done_ != given_bulk_;
  given_cursor_ = cursor_;
  given_bulk_ = bulk_done_;
  if (bulk_moved) {
    // PUBLISH claim: release, in this order; pairs with OBSERVE claim in tails().
    header_->cursor_claim.store(given_cursor_, std::memory_order_release);
    header_->bulk_claim.store(given_bulk_, std::memory_order_release);  // PUBLISH claim
  }
  // PUBLISH tail: release; pairs with OBSERVE tail in Producer::observe_tails(). The cells and the
  // bulk before it have been read.
  header_->cursor_tail.store(given_cursor_, std::memory_order_release);
  if (bulk_moved) {
    header_->bulk_tail.store(given_bulk_, std::memory_order_release);  // PUBLISH tail
  }
}

void SpscRing::Consumer::give_back() noexcept {
  publish_tails();
  header_->room.notify_all();
}

SpscMessage SpscRing::Consumer::peek(const WaitPolicy& policy,
                                     Timeout::Clock::time_point deadline) {
  SpscMessage message = try_peek();
  if (message) return message;
  wait_until(
      header_->items, [&] { return static_cast<bool>(message = try_peek()); }, policy, deadline);
  return message;
}

}  // namespace millrace::shm
