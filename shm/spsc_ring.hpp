// A ring for messages of any size from one producer to one consumer, over memory it is handed: the
// heap for threads, the arena between processes. Copies nothing by itself: messages are written and
// read in place (reserve/commit, peek/release); push and pop are copies on top.
//
// Two areas. *Lines* are cache lines of one control word and seven 8-byte cells; a message of up to
// 56 bytes lies in the cells of one line, so its flag and its payload cross between two cpus as one
// cache line, and several small messages share a line while the consumer is behind. Longer messages
// lie in *bulk*, contiguous (the end of bulk is skipped where they do not fit) and 128 bytes or a
// multiple of it apart; one cell says where. All order is in the lines.
//
//   header  | geometry | tails (consumer writes) | items spot | room spot |     one line each
//   lines   | control: lap:21, closed:1, 7 codes of 6 bits | cell 0 | ... | cell 6 |, 64 B free
//   code of the cell where a message begins: 0 nothing yet, 1..57 a message of code-1 bytes in this
//   and the following cells, 58 a bulk message, its cell {start in 128-byte units:28, size:36}
//   bulk    | bytes |
//
// A cpu that reads a line also fetches the other half of its 128 bytes and what look like the next
// lines of a stream: here, those that the other cpu writes next and has to fetch back. So all is
// 128 bytes apart, and lines that follow each other far apart (line()); neither alone helps them. A
// round trip of 48 bytes between near cpus takes 100 to 120 ns so, 155 otherwise. No line is asked
// for before it is needed either, but by a consumer that is well behind.
//
// Any thread of any process may hold an end, one Producer and one Consumer at a time; an end is a
// plain object, on a stack, or in shared memory if several processes take turns with it.
//
// Invariants
//  1. Only the producer changes lines and bulk, only the consumer writes the tails. A line of
//     position p has p / line_count + 1 as its lap once something is published in it and one less
//     before, since the producer passes every line on every lap; all else is damage. What it has
//     consumed and not given back the consumer writes as it stands, so that its cpu owns it.
//  2. PUBLISH line (release store of the control word) is the one instant at which messages come
//     into being; OBSERVE line (acquire load) sees their cells and their bulk bytes.
//  3. PUBLISH tail (release) / OBSERVE tail (acquire) gives lines and bulk back; the producer
//     writes nothing at or beyond tail + capacity. Tails are published late (a quarter of the ring,
//     or when the consumer finds nothing): a stale tail only makes the ring look fuller.
//  4. A closed line is followed by the next one. Close before the next line's publication, so a
//     message is never published where the consumer may not look yet.
//  5. Nothing read from the ring is trusted: every size and position is read once and checked
//     against the geometry each end has copied; damage throws Corrupt and never leads elsewhere.
//
// When a process dies between any two steps
//  - producer: before PUBLISH line the message does not exist, after it is whole. Messages pushed
//    but not flushed die with it. A new Producer finds the place from the tails and the lines.
//  - consumer: a message peeked but not released is still there. If its end lay in shared memory
//    the successor goes on at that message; the position moves on by one store, before the bulk is
//    given back. A new Consumer starts at the published tail and may see messages again. Tails that
//    were half published are made whole by either.
//
// Wake-ups: a consumer that found nothing parks on the items spot, a producer without room on the
// room spot (shm/parking.hpp). Publishing does not look for sleepers, wake() does: once after the
// last message of a burst. Progress: everything but the wait functions is wait-free.
//
// After: Giacomoni et al., FastForward (2008): flag and data in one line; Lee et al., MCRingBuffer
// (2010): cached and late indexes.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "shm/end_look.hpp"
#include "shm/spsc_layout.hpp"

namespace millrace::shm {

/// When a message becomes visible to the consumer.
enum class Publish {
  now,    ///< at once
  later,  ///< with its line, with flush(), or when the ring is full: batches small messages
};

/// The writing end. One at a time; not thread-safe.
class SpscRing::Producer : private SpscRing {
 public:
  /// Takes up the writing end, also after a dead producer: O(lines in use). Corrupt if damaged.
  explicit Producer(const SpscRing& ring);
  using SpscRing::max_message;

  /// Room for a message of `bytes`, to be filled in place, or nullptr when the ring is full (what
  /// was pushed is visible then). 8-byte aligned up to 56 bytes, else 64. Replaces an earlier
  /// reservation. ValueError if the ring can never take it.
  std::byte* try_reserve(std::size_t bytes) {
    const bool small = bytes <= kInlineBytes;
    const unsigned cells = small ? cells_for(bytes) : 1U;
    if (cell_ + cells > kCellCount && !open_next_line()) [[unlikely]]
      return nullptr;
    if (!small) return reserve_bulk(bytes);
    bulk_reserved_ = 0;
    return reinterpret_cast<std::byte*>(&line_->cell[cell_]);
  }

  /// Makes the first `bytes` of the reservation a message; not more than was reserved.
  void commit(std::size_t bytes, Publish when = Publish::now) noexcept {
    if (bulk_reserved_ != 0) return commit_bulk(bytes, when);
    append(bytes + 1, cells_for(bytes), when);
  }

  /// Copies a message in; false when the ring is full.
  bool try_push(const void* data, std::size_t bytes, Publish when = Publish::now) {
    std::byte* place = try_reserve(bytes);
    if (place == nullptr) return false;
    if (bytes > kFewBytes) {
      copy_in(place, data, bytes);
    } else {
      copy_words(place, data, bytes);
    }
    commit(bytes, when);
    return true;
  }

  /// Copies up to `count` messages of `bytes` each in, which lie one after the other at `data`, and
  /// returns how many found room. Small ones go a line at a time, each published by one store.
  std::size_t try_push_all(const void* data, std::size_t bytes, std::size_t count,
                           Publish when = Publish::now) {
    const auto* from = static_cast<const std::byte*>(data);
    std::size_t done = 0;
    while (done < count) {
      const std::size_t whole = cell_ == 0 ? messages_of_a_line(bytes) : 0;
      if (whole != 0 && whole <= count - done) {
        push_line(from, bytes, whole);
        done += whole;
        from += whole * bytes;
      } else if (try_push(from, bytes, Publish::later)) {
        ++done;
        from += bytes;
      } else {
        break;
      }
    }
    if (when == Publish::now) flush();
    return done;
  }

  /// Makes everything pushed visible.
  void flush() noexcept {
    if (control_ != published_) publish_line();
  }
  /// Flushes, then wakes the consumer if it sleeps; no system call otherwise. To be called after
  /// the last message of a burst.
  void wake() noexcept {
    flush();
    header_->items.notify_all();
  }
  /// Waits for room for a message of `bytes` and reserves it; nullptr when the deadline passed.
  std::byte* reserve(std::size_t bytes, const WaitPolicy& policy,
                     Timeout::Clock::time_point deadline = Timeout::Clock::time_point::max());

 private:
  void publish_line() noexcept {
    // PUBLISH line: release; pairs with OBSERVE line in Consumer::look().
    line_->control.store(control_, std::memory_order_release);
    published_ = control_;
  }
  void close_line() noexcept {
    control_ |= kClosed;
    cell_ = kCellCount;
    publish_line();
    if (has_next_line()) next_line();  // now, not when the next message is in a hurry
  }
  // Fills a line of which nothing is used.
  void push_line(const std::byte* from, std::size_t bytes, std::size_t count) noexcept {
    bulk_reserved_ = 0;
    std::memcpy(line_->cell, from, count * bytes);
    control_ |= codes_of(bytes, count);
    close_line();
  }
  // Adds a message's code. A line without room for another message of the same size is closed in
  // the same store, so equal messages never touch a line twice.
  void append(std::uint64_t code, unsigned cells, Publish when) noexcept {
    control_ |= code << (kCodeBits * cell_);
    cell_ += cells;
    if (cell_ + cells > kCellCount) {
      close_line();
    } else if (when == Publish::now) {
      publish_line();
    }
  }
  // Copies whole words into room for them, one by one: a message is often filled word by word just
  // before, and a wider load of such words waits until the stores, and all before them, are done.
  static void copy_words(std::byte* to, const void* from, std::size_t bytes) noexcept {
    const auto* source = static_cast<const std::byte*>(from);
    auto* words = reinterpret_cast<volatile std::uint64_t*>(to);  // volatile: not made wider
    std::uint64_t word = 0;
    for (; bytes >= sizeof word; bytes -= sizeof word, source += sizeof word, ++words) {
      std::memcpy(&word, source, sizeof word);
      *words = word;
    }
    if (bytes == 0) return;
    word = 0;
    std::memcpy(&word, source, bytes);
    *words = word;
  }
  // As far as this end knows.
  [[nodiscard]] bool has_next_line() const noexcept {
    return position_ + 1 - seen_line_tail_ < line_count_;
  }
  bool take_up_line(unsigned first);
  void next_line() noexcept;
  bool open_next_line();
  std::byte* reserve_bulk(std::size_t bytes);
  void commit_bulk(std::size_t bytes, Publish when) noexcept;
  static void copy_in(std::byte* to, const void* from, std::size_t bytes) noexcept;
  void observe_tails();

  // Only the producer touches these.
  Line* line_ = nullptr;              // being filled
  std::uint64_t position_ = 0;        // of it
  std::uint64_t control_ = 0;         // of that line, as it will be published
  std::uint64_t published_ = 0;       // as it was published last
  unsigned cell_ = 0;                 // the next free one of the line; kCellCount once it is closed
  std::uint64_t bulk_head_ = 0;       // position after the last bulk message
  std::uint64_t bulk_start_ = 0;      // of the reservation
  std::uint64_t bulk_reserved_ = 0;   // bytes of it, 0 when it lies in the line
  std::uint64_t seen_line_tail_ = 0;  // what the tails were; older is harmless, it looks fuller
  std::uint64_t seen_bulk_tail_ = 0;
};

/// A message in place; false when there is none.
struct SpscMessage {
  const std::byte* data = nullptr;
  std::size_t size = 0;
  explicit operator bool() const noexcept { return data != nullptr; }
};

/// The reading end. One at a time; not thread-safe.
class SpscRing::Consumer : private SpscRing {
 public:
  /// Takes up the reading end at the last published tail.
  explicit Consumer(const SpscRing& ring);

  /// The oldest message, in place until release(), or none. Aligned as try_reserve() says. Corrupt
  /// if the ring is damaged.
  SpscMessage try_peek() {
    if ((codes_ & kCodeMask) == 0 && !look()) [[unlikely]]
      return {};
    const std::uint64_t code = codes_ & kCodeMask;
    if (code >= kBulkCode) return peek_bulk(code);
    const std::size_t bytes = code - 1;
    const auto cell = static_cast<unsigned>(cursor_ & 7);
    if (cell + cells_for(bytes) > kCellCount) [[unlikely]]
      corrupt("length of a message", code);
    return {reinterpret_cast<const std::byte*>(&line_->cell[cell]), bytes};
  }

  /// Gives the room of the message that try_peek() returned last back.
  void release() noexcept {
    const std::uint64_t code = codes_ & kCodeMask;
    if (code == kBulkCode) return release_bulk();
    advance(cells_for(code - 1));
  }

  /// Copies the oldest message out, at most `capacity` bytes of it, and returns its size; -1 when
  /// there is none. May be called again at once then: its look is over.
  std::ptrdiff_t try_pop(void* to, std::size_t capacity) {
    if ((codes_ & kCodeMask) == 0 && !look()) [[unlikely]] {
      end_look();
      return -1;
    }
    if (capacity != 0 && capacity <= kInlineBytes && (codes_ & kCodeMask) == capacity + 1) {
      // A small message of just this size, often known when this is inlined: nothing that the next
      // call waits for is computed from the code, and its copy is some moves; one of a length not
      // known takes as long as the line took to come.
      const auto cell = static_cast<unsigned>(cursor_ & 7);
      if (cell + cells_for(capacity) > kCellCount) [[unlikely]]
        corrupt("length of a message", capacity + 1);
      std::memcpy(to, &line_->cell[cell], capacity);
      advance(cells_for(capacity));
      return static_cast<std::ptrdiff_t>(capacity);
    }
    const SpscMessage message = try_peek();
    if (capacity != 0) {
      std::memcpy(to, message.data, message.size < capacity ? message.size : capacity);
    }
    release();
    return static_cast<std::ptrdiff_t>(message.size);
  }

  /// Copies the oldest messages out, one after the other, at most `most` of them and as long as
  /// they are of `bytes` each; returns how many. Whole lines go by one copy.
  std::size_t try_pop_all(void* to, std::size_t bytes, std::size_t most) {
    const std::size_t whole = messages_of_a_line(bytes);
    auto* at = static_cast<std::byte*>(to);
    std::size_t done = 0;
    while (done < most && ((codes_ & kCodeMask) != 0 || look())) {
      const bool line = whole != 0 && codes_ == codes_of(bytes, whole) && (cursor_ & 7) == 0;
      if (line && whole <= most - done) {
        std::memcpy(at, line_->cell, whole * bytes);
        advance(static_cast<unsigned>(whole) * cells_for(bytes));
        done += whole;
        at += whole * bytes;
      } else {
        const SpscMessage message = try_peek();
        if (message.size != bytes) break;
        if (bytes != 0) std::memcpy(at, message.data, bytes);
        release();
        ++done;
        at += bytes;
      }
    }
    return done;
  }

  /// Waits for a message; none when the deadline passed.
  SpscMessage peek(const WaitPolicy& policy,
                   Timeout::Clock::time_point deadline = Timeout::Clock::time_point::max());

  /// Gives all consumed room back at once and wakes a producer that waits for it.
  void give_back() noexcept;

  /// Goes on where a dead process left this end, when the end lies in shared memory.
  void resume() noexcept;

  /// For those who have not this end, which lies in shared memory: true when a message is there
  /// that was not released yet. Whoever has the end may take it meanwhile. Wait-free.
  [[nodiscard]] bool has_message() noexcept;

 private:
  void advance(unsigned cells) noexcept {
    codes_ >>= kCodeBits * cells;
    // The one store by which messages are consumed. PLACE reader: relaxed, see has_message()
    std::atomic_ref(cursor_).store(cursor_ + cells, std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint64_t position() const noexcept { return cursor_ / 8; }
  bool look();
  void next_line() noexcept;
  SpscMessage peek_bulk(std::uint64_t code);
  void release_bulk() noexcept;
  void own_bulk() noexcept;
  void publish_tails() noexcept;

  // Only the consumer touches these.
  std::uint64_t cursor_ = 0;        // line * 8 + cell of the next message; codes_ etc. follow it
  unsigned ready_lines_ = 0;        // in a row that were there at the first look
  Line* line_ = nullptr;            // its line
  std::uint64_t codes_ = 0;         // of the line, as seen last, from the next message on
  bool closed_ = false;             // the line's closed bit as seen last
  std::uint64_t bulk_at_ = 0;       // the cursor of the bulk message that was peeked last
  std::uint64_t bulk_end_ = 0;      // position after it
  std::uint64_t bulk_done_ = 0;     // position after the last released one
  std::uint64_t given_cursor_ = 0;  // the tails as published last
  std::uint64_t given_bulk_ = 0;
};

}  // namespace millrace::shm
