// How the chunks of a range job are divided: among NUMA nodes in proportion to their workers, and
// within a node into grabs of 8, 4, 2 and at last 1 consecutive chunks. Plain arithmetic.
//
// A grab is what one step of a node's cursor hands to a worker. Sizes shrink towards the end of the
// node's range (guided self-scheduling, Polychronopoulos and Kuck 1987), but by a fixed table
// instead of by what is left at the moment: so the number of the grab alone tells which chunks it
// holds, and every grab can have a cache line of claim words to itself.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace millrace::sched {

/// Most NUMA nodes with workers that one range job is divided among.
inline constexpr int kMaxRangeNodes = 64;
/// Most chunks of one range job.
inline constexpr std::uint64_t kMaxRangeChunks = 0xffff'fff0;
/// Claim words in a cache line: the largest grab.
inline constexpr std::uint32_t kWordsPerLine = 8;

/// Consecutive chunks of one grab, and the line that holds their claim words.
struct Grab {
  std::uint64_t first = 0;
  std::uint32_t size = 0;
  std::uint32_t line = 0;
};

/// One chunk's claim word: `word` in line `line`.
struct WordPlace {
  std::uint32_t line = 0;
  std::uint32_t word = 0;
};

/// One node's part of a job: chunks [first, first + chunks), lines [line, line + grabs).
class NodeRange {
 public:
  NodeRange() = default;
  /// Divides `chunk_count` chunks for `workers` workers; both may be zero.
  NodeRange(Grab start, std::uint32_t chunk_count, std::uint32_t workers) noexcept;

  [[nodiscard]] std::uint64_t first() const noexcept { return first_; }
  [[nodiscard]] std::uint32_t chunks() const noexcept { return chunks_; }
  [[nodiscard]] std::uint32_t line() const noexcept { return line_; }
  [[nodiscard]] std::uint32_t grabs() const noexcept { return grabs_; }
  /// True when some grab holds more than one chunk.
  [[nodiscard]] bool has_shared_lines() const noexcept { return bound_[2] > 0; }
  /// Grab number `number` < grabs().
  [[nodiscard]] Grab grab(std::uint32_t number) const noexcept;
  /// Where the claim word of `chunk`, one of this node's, lies.
  [[nodiscard]] WordPlace place(std::uint64_t chunk) const noexcept;

 private:
  // Set by assign() before anything is read.
  std::uint64_t first_;
  std::uint32_t chunks_;
  std::uint32_t line_;
  std::uint32_t grabs_;
  // Grabs below bound_[0] hold 8 chunks, below bound_[1] 4, below bound_[2] 2, the others 1;
  // start_[i] is the first chunk, counted from first_, of the grabs that begin at bound_[i].
  std::array<std::uint32_t, 3> bound_;
  std::array<std::uint32_t, 3> start_;
};

/// The whole division. Every worker computes it for itself from the job's few numbers.
class RangeSplit {
 public:
  /// Divides `chunks` <= kMaxRangeChunks in proportion to `shares`, the workers of each node; all
  /// to the first node when every share is zero. 1 to kMaxRangeNodes shares. (An assignment, not a
  /// constructor: a worker's hot start must not clear the entries of 64 nodes.)
  void assign(std::uint64_t chunks, std::span<const std::uint16_t> shares) noexcept;

  [[nodiscard]] int nodes() const noexcept { return nodes_; }
  [[nodiscard]] std::uint64_t chunks() const noexcept { return chunks_; }
  [[nodiscard]] std::uint32_t lines() const noexcept { return lines_; }
  [[nodiscard]] bool has_shared_lines() const noexcept { return shared_lines_; }
  [[nodiscard]] const NodeRange& node(int index) const noexcept {
    return node_[static_cast<std::size_t>(index)];
  }
  /// The grab whose words lie in `line` < lines().
  [[nodiscard]] Grab grab_of_line(std::uint32_t line) const noexcept;
  /// Where the claim word of `chunk` < chunks() lies.
  [[nodiscard]] WordPlace place(std::uint64_t chunk) const noexcept;

  /// An upper bound of lines() over all divisions of up to `chunks` chunks among `nodes` nodes with
  /// `workers` workers in all.
  static std::uint64_t max_lines(std::uint64_t chunks, std::uint32_t nodes,
                                 std::uint32_t workers) noexcept;

 private:
  std::uint64_t chunks_ = 0;
  std::uint32_t lines_ = 0;
  int nodes_ = 0;
  bool shared_lines_ = false;
  std::array<NodeRange, kMaxRangeNodes> node_;  // only the first nodes_ are ever set
};

}  // namespace millrace::sched
