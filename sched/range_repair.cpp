// The parts of RangeJob that waiters and reapers call: completion, repair, cancel.
#include <algorithm>

#include "sched/range_job.hpp"

namespace millrace::sched {
namespace {

constexpr unsigned kMaxAttempts = 15;
constexpr int kAttemptsShift = 28;

}  // namespace

struct RangeJob::Repair {
  std::uint32_t generation;
  std::uint32_t dead;
  unsigned attempts_allowed;
  const std::function<void(std::uint64_t)>& report;
  Repaired outcome;
};

bool RangeJob::is_disturbed(std::uint32_t generation) const noexcept {
  // OBSERVE disturbance: seq_cst, as the counts: see complete().
  return disturbed_.load(std::memory_order_seq_cst) == make_word(generation, 1);
}

void RangeJob::disturb(std::uint32_t generation) noexcept {
  std::uint64_t seen = disturbed_.load(std::memory_order_relaxed);
  while (seen != make_word(generation, 1) && !is_newer(generation_of(seen), generation)) {
    // PUBLISH disturbance: seq_cst, before any word changes: a waiter that misses it also misses
    // the change, and is woken after it.
    if (disturbed_.compare_exchange_weak(seen, make_word(generation, 1),
                                         std::memory_order_seq_cst)) {
      return;
    }
  }
}

std::uint64_t RangeJob::done(std::uint32_t generation) const noexcept {
  std::uint64_t sum = 0;
  const SeatLine* const lines = seats();
  for (std::size_t i = 0; i < seat_capacity(); ++i) {
    // OBSERVE count: acquire pairs with finish() in range_job.hpp and shows the results; seq_cst
    // keeps the read behind the waiter's announcement that it is about to sleep.
    const std::uint64_t count = lines[i].count.load(std::memory_order_seq_cst);
    if (generation_of(count) == generation) sum += static_cast<std::uint32_t>(count);
  }
  return sum;
}

bool RangeJob::complete(std::uint32_t generation) noexcept {
  // OBSERVE record: acquire, pairs with PUBLISH record.
  const std::uint64_t epoch = epoch_.load(std::memory_order_acquire);
  if (generation_of(epoch) != generation) return is_newer(generation_of(epoch), generation);
  if ((epoch & 1) != 0) return false;
  // FIELD record: a newer job's size here means that this job is complete: true, or next time.
  const std::uint64_t chunks = size_.load(std::memory_order_relaxed) >> 32;
  if (done(generation) == chunks) return true;
  return is_disturbed(generation) && settle(generation);
}

bool RangeJob::line_is_final(const Grab& grab, std::uint32_t generation) const noexcept {
  const Word* const words = line(grab.line);
  for (std::uint32_t i = 0; i < grab.size; ++i) {
    // OBSERVE chunk: acquire, pairs with PUBLISH chunk: the results of a done chunk.
    const std::uint64_t low = low_of(words[i].load(std::memory_order_acquire), generation);
    if (state_of(low) != kDone && state_of(low) != kLost) return false;
  }
  return true;
}

// Reads the words from the lowest line not known to be final. All calls of a job together read each
// line about once.
bool RangeJob::settle(std::uint32_t generation) noexcept {
  RangeSplit split;
  std::array<std::uint64_t, kUserWords> user{};
  if (!read_fields(generation, split, user)) return complete(generation);
  // OBSERVE settled: acquire, pairs with PUBLISH settled: whoever skips a line sees its results.
  std::uint64_t seen = settled_.load(std::memory_order_acquire);
  auto first = generation_of(seen) == generation ? static_cast<std::uint32_t>(seen) : 0U;
  while (first < split.lines() && line_is_final(split.grab_of_line(first), generation)) ++first;
  while (!is_newer(generation_of(seen), generation) &&
         (generation_of(seen) != generation || static_cast<std::uint32_t>(seen) < first)) {
    // PUBLISH settled: release, acquire for what another settled: it only rises.
    if (settled_.compare_exchange_weak(seen, make_word(generation, first),
                                       std::memory_order_acq_rel)) {
      break;
    }
  }
  return first >= split.lines();
}

void RangeJob::repair_line(const Grab& grab, Repair& repair) {
  Word* const words = line(grab.line);
  for (std::uint32_t i = 0; i < grab.size; ++i) {
    std::uint64_t seen = words[i].load(std::memory_order_relaxed);  // a guess for the exchange
    std::uint64_t low = low_of(seen, repair.generation);
    if (state_of(low) == kRunning && owner_of(low) == repair.dead) {
      const unsigned begun = static_cast<unsigned>(low >> kAttemptsShift) + 1;
      const bool again = begun < repair.attempts_allowed;
      const std::uint64_t next = again ? std::uint64_t{begun} << kAttemptsShift | kFree
                                       : (low & ~std::uint64_t{3}) | kLost;
      // RETURN chunk: release, to the worker that TAKEs it; acquire nothing. It fails only when
      // another has repaired or cancelled it.
      if (words[i].compare_exchange_strong(seen, make_word(repair.generation, next),
                                           std::memory_order_seq_cst)) {
        ++(again ? repair.outcome.returned : repair.outcome.lost);
        if (!again && repair.report) repair.report(grab.first + i);
        seen = make_word(repair.generation, next);
      }
      low = low_of(seen, repair.generation);
    }
    if (state_of(low) == kFree) repair.outcome.claimable = true;
  }
}

RangeJob::Repaired RangeJob::repair(std::uint32_t generation, std::uint32_t dead,
                                    unsigned attempts_allowed,
                                    const std::function<void(std::uint64_t chunk)>& report) {
  Repair repair{generation, dead, std::min(attempts_allowed, kMaxAttempts), report, {}};
  RangeSplit split;
  std::array<std::uint64_t, kUserWords> user{};
  if (!read_fields(generation, split, user)) return repair.outcome;
  disturb(generation);
  for (int node = 0; node < split.nodes(); ++node) {
    // Relaxed: the dead moved the cursor before it died, which the caller knows of.
    const std::uint64_t next = cursors()[node].next.load(std::memory_order_relaxed);
    if (generation_of(next) != generation) continue;
    const std::uint32_t taken =
        std::min(static_cast<std::uint32_t>(next), split.node(node).grabs());
    for (std::uint32_t i = 0; i < taken; ++i) repair_line(split.node(node).grab(i), repair);
  }
  // RETURN chunk: release: a worker that sees the new number sees the FREE words.
  if (repair.outcome.claimable) rescan_.fetch_add(1, std::memory_order_acq_rel);
  return repair.outcome;
}

bool RangeJob::take_away(Word& word, std::uint32_t generation) noexcept {
  std::uint64_t seen = word.load(std::memory_order_relaxed);  // a guess for the exchange
  for (;;) {
    const std::uint64_t low = low_of(seen, generation);
    if (state_of(low) == kDone || state_of(low) == kLost) return false;
    const std::uint64_t lost = (low & ~std::uint64_t{3}) | kLost;  // who ran it stays
    // CANCEL chunk: seq_cst, so that the caller's wake-up follows it.
    if (word.compare_exchange_weak(seen, make_word(generation, lost), std::memory_order_seq_cst)) {
      return true;
    }
  }
}

bool RangeJob::cancel(std::uint32_t generation, std::uint64_t chunk) noexcept {
  RangeSplit split;
  std::array<std::uint64_t, kUserWords> user{};
  if (!read_fields(generation, split, user) || chunk >= split.chunks()) return false;
  disturb(generation);
  return take_away(word_at(split.place(chunk)), generation);
}

std::uint64_t RangeJob::cancel_all(std::uint32_t generation) noexcept {
  RangeSplit split;
  std::array<std::uint64_t, kUserWords> user{};
  if (!read_fields(generation, split, user)) return 0;
  disturb(generation);
  std::uint64_t taken = 0;
  for (std::uint32_t i = split.lines(); i-- > 0;) {
    const Grab grab = split.grab_of_line(i);
    for (std::uint32_t j = 0; j < grab.size; ++j) {
      if (take_away(line(i)[j], generation)) ++taken;
    }
  }
  return taken;
}

std::uint32_t RangeJob::runner(std::uint32_t generation, std::uint64_t chunk) const noexcept {
  RangeSplit split;
  std::array<std::uint64_t, kUserWords> user{};
  if (!read_fields(generation, split, user) || chunk >= split.chunks()) return 0;
  // Relaxed: an answer about a moment that is over when it arrives.
  const std::uint64_t low =
      low_of(word_at(split.place(chunk)).load(std::memory_order_relaxed), generation);
  return state_of(low) == kRunning ? owner_of(low) : 0;
}

void RangeJob::for_each_lost(
    std::uint32_t generation,
    const std::function<void(std::uint64_t chunk, std::uint32_t owner)>& visit) const {
  RangeSplit split;
  std::array<std::uint64_t, kUserWords> user{};
  if (!read_fields(generation, split, user)) return;
  for (std::uint32_t i = 0; i < split.lines(); ++i) {
    const Grab grab = split.grab_of_line(i);
    for (std::uint32_t j = 0; j < grab.size; ++j) {
      // Relaxed: LOST is final and carries no data.
      const std::uint64_t low = low_of(line(i)[j].load(std::memory_order_relaxed), generation);
      if (state_of(low) == kLost) visit(grab.first + j, owner_of(low));
    }
  }
}

}  // namespace millrace::sched
