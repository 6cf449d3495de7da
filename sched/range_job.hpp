// Range job: many chunks of work over contiguous data, taken by workers without anybody handing
// them out. Works in memory it is given (shared between processes, or a test's heap).
//
// Who may call what. One starter at a time: create(), start(). Any number of workers, each with a
// seat of its own: join(), claim(), finish(). Anybody, at any time: complete(), done(), repair(),
// cancel(), cancel_all(), for_each_lost().
//
// Invariants
// 1. The claim word of a chunk {generation:32, attempts:4, owner:26, state:2} is the truth. It goes
//      FREE -> RUNNING(owner) -> DONE(owner)    worker: claim, finish
//      FREE | RUNNING -> LOST                   cancel; owner 0
//      RUNNING(dead) -> LOST(dead) | FREE, attempts + 1      repair
//    by compare-and-swap only. DONE and LOST are final. A word of an older generation counts as
//    FREE, so a record is used again without clearing; one of a newer generation counts as taken.
// 2. Cursors and counts are hints. A cursor at n says: grabs below n have been handed out, so their
//    FREE words are gaps which any worker without a grab may take. A count never exceeds the number
//    of DONE words of its seat, because it is raised after its word, by one writer.
// 3. A job is complete when every word is DONE or LOST. Counts that sum to the number of chunks
//    prove it; when somebody died or cancelled (the job is `disturbed`, said before the first word
//    is touched) the words themselves are read, from the lowest line not known to be final. So no
//    count has to be mended and completion never hangs on anybody's last increment.
// 4. start() only when the last job of the record is complete. Then all its words are final, hence
//    a worker that comes late with an older generation finds nothing to take, and its
//    compare-and-swap on a cursor fails; it harms nobody.
//
// What happens when a process dies between any two steps
// - worker, between moving a cursor and claiming: FREE words below the cursor, run by others: at
//   once where the grab was published, else after repair() made them scan.
// - worker, RUNNING: repair() gives the chunk back or makes it LOST.
// - worker, between DONE and its count: repair() has disturbed the job, complete() reads the words.
// - repair() or cancel(): each word is changed by one compare-and-swap and `disturbed` is set
//   first; whoever learns of the death repairs again. A report may be missing then:
//   for_each_lost() reads it from the words.
// - starter, in start(): the record says `writing` and no worker joins.
//
// Progress: claim, finish, cancel lock-free (a failed compare-and-swap is another's progress), the
// rest wait-free. Nothing here waits, allocates or calls the system.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "sched/range_split.hpp"

namespace millrace::sched {

/// A worker's place in a job: written once by the worker.
struct RangeSeat {
  std::uint32_t owner = 0;  ///< process id in the process table, 26 bits, not 0
  int worker = 0;           ///< whose count: below the record's worker capacity, one living holder
  int node = 0;             ///< index of the node whose cursor comes first
  /// Every node's index, by distance from `node`, itself first; must outlive the cursor. Empty: the
  /// nodes in order, beginning with `node`.
  std::span<const int> steal_order;
};

class RangeJob;

/// What one worker remembers of one job, in its own memory. Reused for job after job.
class RangeCursor {
 public:
  explicit RangeCursor(const RangeSeat& seat) noexcept : seat_(seat) {}
  /// The words that the starter passed along.
  [[nodiscard]] const std::array<std::uint64_t, 5>& user() const noexcept { return user_; }
  /// Number of chunks of the job.
  [[nodiscard]] std::uint64_t chunks() const noexcept { return split_.chunks(); }
  /// How often the chunk claimed last was begun before.
  [[nodiscard]] unsigned attempts() const noexcept {
    return static_cast<unsigned>(running_ >> 28) & 15U;
  }

 private:
  friend class RangeJob;

  RangeSeat seat_;
  std::array<std::uint64_t, 5> user_{};
  RangeSplit split_;
  std::atomic<std::uint64_t>* count_word_ = nullptr;  // the seat's count in the record
  std::uint32_t generation_ = 0;
  std::uint32_t count_ = 0;  // what it says, so that finish() need not read it
  // The grab in hand: words word_ to word_end_ of the record, chunk_ is the chunk of word_.
  std::atomic<std::uint64_t>* word_ = nullptr;
  std::atomic<std::uint64_t>* word_end_ = nullptr;
  std::uint64_t chunk_ = 0;
  // The chunk being run.
  std::atomic<std::uint64_t>* running_word_ = nullptr;
  std::uint64_t running_ = 0;
  // Where the search for more stands.
  int hop_ = 0;               // nodes before this one in steal order are exhausted
  int victim_ = 0;            // seat whose published grab gave the last stolen chunk
  bool published_ = false;    // own seat's line names a grab
  std::uint32_t rescan_ = 0;  // the repairs seen
  std::uint32_t sweep_ = 0;   // next line to look at, after a repair
};

/// One record. See the top of this file.
class alignas(64) RangeJob {
 public:
  static constexpr std::size_t kUserWords = 5;

  struct Capacity {
    std::uint64_t chunks = 0;  ///< at most kMaxRangeChunks
    int nodes = 1;             ///< 1 to kMaxRangeNodes
    int workers = 1;           ///< seats: 1 to 4096
  };

  /// What repair() found.
  struct Repaired {
    std::uint64_t lost = 0;      ///< chunks that this call made LOST
    std::uint64_t returned = 0;  ///< chunks that this call made FREE again
    bool claimable = false;      ///< FREE words lie below a cursor: some worker must claim() again
  };

  /// Bytes of a record, 64-byte aligned. ValueError for a capacity out of its limits.
  static std::size_t bytes_for(const Capacity& capacity);
  static std::size_t bytes_for(std::uint64_t chunks, int nodes, int workers) {
    return bytes_for(Capacity{chunks, nodes, workers});
  }
  /// Makes a record in bytes_for(capacity) bytes of 64-byte aligned memory, which it clears. It has
  /// no destructor to call; the memory may be given back when no worker can come late any more.
  static RangeJob* create(void* memory, const Capacity& capacity);

  /// Begins a job: `chunks` divided among nodes in proportion to `shares`, their workers.
  /// `generation` must be newer than the last one, by less than 2^30. `user`: at most kUserWords
  /// words for the workers. ValueError when it does not fit the capacity, AssertionError when
  /// `generation` is not newer. Memory ordering: what the caller wrote before is seen by a worker
  /// whose join() succeeds.
  void start(std::uint32_t generation, std::uint64_t chunks, std::span<const int> shares,
             std::span<const std::uint64_t> user = {});

  /// Worker: begins to work on job `generation`; false when it is not this record's job (any more).
  [[nodiscard]] bool join(std::uint32_t generation, RangeCursor& cursor) const noexcept;

  /// Worker: takes a chunk, from the grab in hand, else a new grab of its own node, else of the
  /// other nodes by distance, else from what others have grabbed and not begun, else, after a
  /// repair, from any gap. Nothing: all chunks are taken or final; whoever gets nothing must wake
  /// the waiter (the worker's last count is seq_cst-ordered before the return). One chunk at a
  /// time: finish() before the next claim().
  std::optional<std::uint64_t> claim(RangeCursor& cursor) noexcept;

  /// Worker: the chunk claimed last is done and its results are written; false when it was taken
  /// away meanwhile (cancelled): its results must not be used.
  bool finish(RangeCursor& cursor) noexcept;

  /// True when every chunk of job `generation` is done or lost, or the record has gone on to a
  /// newer job. Memory ordering: results of done chunks are seen after true.
  [[nodiscard]] bool complete(std::uint32_t generation) noexcept;

  /// Chunks done so far: exact while nobody died or cancelled, else a lower bound until complete.
  [[nodiscard]] std::uint64_t done(std::uint32_t generation) const noexcept;

  /// After the death of process `dead`: every chunk it ran is FREE again if it was begun fewer than
  /// `attempts_allowed` times (1: no retry; at most 15), else LOST, and `report` hears of it once.
  /// Idempotent.
  Repaired repair(std::uint32_t generation, std::uint32_t dead, unsigned attempts_allowed,
                  const std::function<void(std::uint64_t chunk)>& report);

  /// Takes `chunk` away: FREE or RUNNING becomes LOST; false when it was final already. The caller
  /// wakes the waiter.
  bool cancel(std::uint32_t generation, std::uint64_t chunk) noexcept;
  /// The same for all chunks; returns how many were taken away.
  std::uint64_t cancel_all(std::uint32_t generation) noexcept;

  /// The process that runs `chunk`, 0 when none does.
  [[nodiscard]] std::uint32_t runner(std::uint32_t generation, std::uint64_t chunk) const noexcept;

  /// Names every LOST chunk and the process that ran it then, 0 when none did.
  void for_each_lost(
      std::uint32_t generation,
      const std::function<void(std::uint64_t chunk, std::uint32_t owner)>& visit) const;

 private:
  using Word = std::atomic<std::uint64_t>;
  enum State : std::uint64_t { kFree, kRunning, kDone, kLost };

  /// A node's next grab {generation:32, grabs handed out:32}. Any worker, by compare-and-swap; a
  /// cursor of an older generation counts as 0.
  struct alignas(64) NodeCursor {
    Word next{0};
  };
  /// Written by the seat's holder only, read by waiters and thieves.
  struct alignas(64) SeatLine {
    Word count{0};  // {generation:32, chunks done:32}; a stale value only delays the waiter
    Word grab{0};   // {generation:32, line of the grab in hand + 1}; stale: a thief looks in vain
  };

  explicit RangeJob(const Capacity& capacity) noexcept;

  static constexpr std::uint64_t make_word(std::uint32_t generation, std::uint64_t low) noexcept {
    return std::uint64_t{generation} << 32 | low;
  }
  static constexpr std::uint32_t generation_of(std::uint64_t word) noexcept {
    return static_cast<std::uint32_t>(word >> 32);
  }
  static constexpr bool is_newer(std::uint32_t a, std::uint32_t b) noexcept {
    return static_cast<std::int32_t>(a - b) > 0;
  }
  /// The attempts, owner and state of a word as a member of `generation` reads it.
  static constexpr std::uint64_t low_of(std::uint64_t word, std::uint32_t generation) noexcept {
    if (generation_of(word) == generation) return word & 0xffff'ffff;
    return is_newer(generation_of(word), generation) ? kDone : kFree;
  }
  static constexpr State state_of(std::uint64_t low) noexcept { return State(low & 3); }
  static constexpr std::uint32_t owner_of(std::uint64_t low) noexcept {
    return static_cast<std::uint32_t>(low >> 2) & 0x3ff'ffffU;
  }

  // The rest of the record follows this object: cursors, seats, lines of words.
  [[nodiscard]] NodeCursor* cursors() const noexcept;
  [[nodiscard]] SeatLine* seats() const noexcept;
  [[nodiscard]] Word* line(std::uint32_t index) const noexcept;
  [[nodiscard]] Word& word_at(WordPlace place) const noexcept {
    return line(place.line)[place.word];
  }
  [[nodiscard]] std::size_t node_capacity() const noexcept;
  [[nodiscard]] std::size_t seat_capacity() const noexcept;

  bool read_fields(std::uint32_t generation, RangeSplit& split,
                   std::array<std::uint64_t, kUserWords>& user) const noexcept;
  bool is_disturbed(std::uint32_t generation) const noexcept;
  void disturb(std::uint32_t generation) noexcept;
  void scrub(std::uint32_t generation) noexcept;
  bool settle(std::uint32_t generation) noexcept;
  bool line_is_final(const Grab& grab, std::uint32_t generation) const noexcept;
  struct Repair;
  void repair_line(const Grab& grab, Repair& repair);
  static bool take_away(Word& word, std::uint32_t generation) noexcept;

  bool try_take(Word& word, RangeCursor& cursor) noexcept;
  std::optional<std::uint64_t> claim_more(RangeCursor& cursor) noexcept;
  bool grab(RangeCursor& cursor, int node) noexcept;
  void hold(RangeCursor& cursor, const Grab& grab) noexcept;
  std::optional<std::uint64_t> take_from_back(RangeCursor& cursor, const Grab& grab) noexcept;
  std::optional<std::uint64_t> steal(RangeCursor& cursor) noexcept;
  std::optional<std::uint64_t> sweep(RangeCursor& cursor) noexcept;

  // Lines 0 to 2, written by the starter in start() only; workers read line 0 (and 1, 2 with more
  // than 4, 36 nodes). A sequence lock: epoch_ says `writing` meanwhile.
  Word epoch_;  // generation:32, workers:16, nodes:15 capacity, writing:1
  Word size_;   // chunks:32, nodes:32 of this job
  std::array<Word, kUserWords> user_;
  std::array<Word, kMaxRangeNodes / 4> share_;  // four 16-bit shares a word

  // Line 3, read when somebody died or cancelled, or by a worker that finds nothing.
  alignas(64) Word disturbed_{0};         // {generation:32, 1}: the last job that was disturbed
  std::atomic<std::uint32_t> rescan_{0};  // + 1 for each repair that left FREE words
  Word settled_{0};                       // {generation:32, line}: all lines below it are final
  std::uint64_t chunk_capacity_;          // written by create() only
};

inline bool RangeJob::try_take(Word& word, RangeCursor& cursor) noexcept {
  std::uint64_t seen = word.load(std::memory_order_relaxed);  // only a guess for the exchange
  const std::uint64_t low = low_of(seen, cursor.generation_);
  if (state_of(low) != kFree) return false;
  const std::uint64_t mine = make_word(
      cursor.generation_, (low & 0xf000'0000) | std::uint64_t{cursor.seat_.owner} << 2 | kRunning);
  // TAKE chunk: acquire sees whatever the repair that RETURNed the chunk saw.
  if (!word.compare_exchange_strong(seen, mine, std::memory_order_acquire,
                                    std::memory_order_relaxed)) {
    return false;
  }
  cursor.running_word_ = &word;
  cursor.running_ = mine;
  return true;
}

inline std::optional<std::uint64_t> RangeJob::claim(RangeCursor& cursor) noexcept {
  while (cursor.word_ != cursor.word_end_) {
    Word& word = *cursor.word_++;
    const std::uint64_t chunk = cursor.chunk_++;
    if (try_take(word, cursor)) return chunk;
  }
  return claim_more(cursor);
}

inline bool RangeJob::finish(RangeCursor& cursor) noexcept {
  std::uint64_t expected = cursor.running_;
  // PUBLISH chunk: release hands the results to whoever reads the word as DONE. Exchange, not
  // store: the chunk may have been cancelled, and LOST is final.
  if (!cursor.running_word_->compare_exchange_strong(expected, cursor.running_ ^ kRunning ^ kDone,
                                                     std::memory_order_release,
                                                     std::memory_order_relaxed)) {
    return false;
  }
  ++cursor.count_;
  // PUBLISH count: release, after the word: done() in range_repair.cpp sees the results.
  cursor.count_word_->store(make_word(cursor.generation_, cursor.count_),
                            std::memory_order_release);
  return true;
}

}  // namespace millrace::sched
