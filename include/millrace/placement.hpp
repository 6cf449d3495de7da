// Where shared memory lies on a machine with several memory nodes.
#pragma once

namespace millrace {

/// On which memory nodes the pages of an allocation lie. Made by mp::interleave, mp::block,
/// mp::node(k) and mp::first_touch.
struct Placement {
  enum Kind {
    first_touch,  // on the node of the cpu that writes a page first
    node,         // all on one node
    interleave,   // page by page over all nodes
    block,        // one contiguous equal part on each node, in the order of the nodes
  };
  Kind kind = first_touch;
  int index = 0;  // of the node, for `node`

  friend constexpr bool operator==(const Placement&, const Placement&) = default;
};

}  // namespace millrace
