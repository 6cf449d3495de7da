// Where shared memory lies on a machine with several memory nodes.
#pragma once

namespace millrace {

enum PlacementName : int;

/// On which memory nodes the pages of an allocation lie: mp::interleave, mp::block, mp::node(k) or
/// mp::first_touch.
struct Placement {
  enum Kind : int { first_touch, interleave, block, node };

  Kind kind = first_touch;
  int index = 0;  // of the node, by the system's number, for `node`

  constexpr Placement() noexcept = default;
  constexpr Placement(Kind how, int node_index = 0) noexcept : kind(how), index(node_index) {}
  constexpr Placement(PlacementName name) noexcept : kind(static_cast<Kind>(name)) {}  // NOLINT

  friend constexpr bool operator==(const Placement&, const Placement&) = default;
};

/// The placements that need no number. Enumerators rather than constants: no variable that somebody
/// calls `block` shadows them.
enum PlacementName : int {
  first_touch,  ///< pages go to the node of the cpu that writes them first
  interleave,   ///< page by page over all nodes
  block         ///< one contiguous equal part on each node, in their order, in units of 2 MiB
};
static_assert(Placement(first_touch) == Placement(Placement::first_touch));
static_assert(Placement(interleave) == Placement(Placement::interleave));
static_assert(Placement(block) == Placement(Placement::block));

/// All pages on one memory node, by the system's number.
constexpr Placement node(int index) noexcept { return {Placement::node, index}; }

}  // namespace millrace
