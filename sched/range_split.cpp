#include "sched/range_split.hpp"

#include <algorithm>

namespace millrace::sched {
namespace {

// Chunks per worker that are left when grabs of 8, 4 and 2 end: remaining / (8 * workers) is then
// below the grab's size.
constexpr std::array<std::uint64_t, 3> kKeepPerWorker = {64, 32, 16};
constexpr std::array<std::uint32_t, 4> kShift = {3, 2, 1, 0};

}  // namespace

NodeRange::NodeRange(Grab start, std::uint32_t chunk_count, std::uint32_t workers) noexcept
    : first_(start.first), chunks_(chunk_count), line_(start.line) {
  std::uint64_t left = chunk_count;
  std::uint32_t grabs = 0;
  const std::uint64_t sharers = std::max<std::uint32_t>(workers, 1);
  for (std::size_t zone = 0; zone < bound_.size(); ++zone) {
    const std::uint64_t keep = kKeepPerWorker[zone] * sharers;
    const std::uint64_t count = left > keep ? (left - keep) >> kShift[zone] : 0;
    grabs += static_cast<std::uint32_t>(count);
    left -= count << kShift[zone];
    bound_[zone] = grabs;
    start_[zone] = chunk_count - static_cast<std::uint32_t>(left);
  }
  grabs_ = grabs + static_cast<std::uint32_t>(left);
}

Grab NodeRange::grab(std::uint32_t number) const noexcept {
  if (number < bound_[0]) {
    return {first_ + (std::uint64_t{number} << kShift[0]), kWordsPerLine, line_ + number};
  }
  std::size_t zone = 1;
  while (zone < bound_.size() && number >= bound_[zone]) ++zone;
  const std::uint64_t offset = std::uint64_t{number - bound_[zone - 1]} << kShift[zone];
  return {first_ + start_[zone - 1] + offset, 1U << kShift[zone], line_ + number};
}

WordPlace NodeRange::place(std::uint64_t chunk) const noexcept {
  const auto offset = static_cast<std::uint32_t>(chunk - first_);
  if (offset < start_[0]) return {line_ + (offset >> kShift[0]), offset & (kWordsPerLine - 1)};
  std::size_t zone = 1;
  while (zone < start_.size() && offset >= start_[zone]) ++zone;
  const std::uint32_t inside = offset - start_[zone - 1];
  return {line_ + bound_[zone - 1] + (inside >> kShift[zone]), inside & ((1U << kShift[zone]) - 1)};
}

void RangeSplit::assign(std::uint64_t chunks, std::span<const std::uint16_t> shares) noexcept {
  chunks_ = chunks;
  nodes_ = static_cast<int>(shares.size());
  shared_lines_ = false;
  std::uint64_t total = 0;
  for (const std::uint16_t share : shares) total += share;
  std::uint64_t before = 0;
  Grab start;
  for (std::size_t i = 0; i < shares.size(); ++i) {
    before += shares[i];
    const std::uint64_t end = total == 0 ? chunks : chunks * before / total;
    node_[i] = NodeRange(start, static_cast<std::uint32_t>(end - start.first), shares[i]);
    start.first = end;
    start.line += node_[i].grabs();
    shared_lines_ = shared_lines_ || node_[i].has_shared_lines();
  }
  lines_ = start.line;
}

Grab RangeSplit::grab_of_line(std::uint32_t line) const noexcept {
  int i = 0;
  while (i + 1 < nodes_ && line >= node(i).line() + node(i).grabs()) ++i;
  return node(i).grab(line - node(i).line());
}

WordPlace RangeSplit::place(std::uint64_t chunk) const noexcept {
  int i = 0;
  while (i + 1 < nodes_ && chunk >= node(i).first() + node(i).chunks()) ++i;
  return node(i).place(chunk);
}

std::uint64_t RangeSplit::max_lines(std::uint64_t chunks, std::uint32_t nodes,
                                    std::uint32_t workers) noexcept {
  // A node of n chunks and w workers has at most n / 8 grabs of eight, 8w + 1 of four, 8w + 1 of
  // two and 16w + 1 of one chunk, where w counts as 1 when it is 0.
  const std::uint64_t tail = 32 * (std::uint64_t{workers} + nodes) + 4 * std::uint64_t{nodes};
  return std::min(chunks, chunks / kWordsPerLine + tail);
}

}  // namespace millrace::sched
