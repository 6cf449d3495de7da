// A worker whose bytes a thread of its parent carries, and that dies at every instruction.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <millrace/pool_entries.hpp>
#include <vector>

#include "runtime/pool/carriers.hpp"
#include "tests/stress/step_kill.hpp"

namespace millrace::runtime {
namespace {

constexpr std::size_t kItems = 16;
using Block = std::array<double, kItems>;

// What a piece is to a worker.
void work(std::uint64_t boxes, const Block& in, Block& out) {
  const CarriedPiece piece = carry_in(boxes, reinterpret_cast<std::uint64_t>(in.data()), sizeof in);
  const auto* from = reinterpret_cast<const double*>(piece.in);
  std::transform(from, from + kItems, reinterpret_cast<double*>(piece.out),
                 [](double x) { return 2 * x; });
  carry_out(boxes, reinterpret_cast<std::uint64_t>(out.data()), sizeof out);
}

Block all(double value) {
  Block block;
  block.fill(value);
  return block;
}

// Whoever takes its seat is served; what it was doing is written as a whole or not at all.
TEST(CarrierStepKill, TheNextWorkerOfTheSeatIsServed) {
  std::vector<Block> in(3);
  std::vector<Block> out(3);
  std::unique_ptr<Carriers> carriers;
  set_carried_seat(0, -1);
  const auto r = stress::step_kill({.setup =
                                        [&] {
                                          for (std::size_t i = 0; i < in.size(); ++i)
                                            in[i] = all(static_cast<double>(i + 1));
                                          for (Block& block : out) block = all(-1);
                                          carriers = std::make_unique<Carriers>(
                                              std::vector{-1}, sizeof(Block), sizeof(Block), false);
                                          work(carriers->boxes(), in[0], out[0]);
                                        },
                                    .operation = [&] { work(carriers->boxes(), in[1], out[1]); },
                                    .check =
                                        [&](long, bool finished) {
                                          work(carriers->boxes(), in[2], out[2]);
                                          carriers.reset();
                                          const bool whole = out[1] == all(4);
                                          return out[0] == all(2) && out[2] == all(6) &&
                                                 (whole || (!finished && out[1] == all(-1)));
                                        }});
  std::printf("instructions=%ld kills=%ld broken=%ld\n", r.instructions, r.kills, r.broken);
  EXPECT_EQ(r.broken, 0);
  EXPECT_GT(r.instructions, 10) << "the operation was not finished";
}

}  // namespace
}  // namespace millrace::runtime
