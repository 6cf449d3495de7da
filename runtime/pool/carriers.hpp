// Threads of a pool's parent that carry a large map_into's private bytes, one beside each worker.
//
// One thread that copies for all workers is what binds such a call, and every line it copies has to
// change cpus twice. So each seat gets a carrier: a thread of the parent on the cpu of the seat's
// worker, and a box in the arena small enough for that cpu's second-level cache. The worker names
// what it needs and sleeps; the carrier copies it into the box and wakes the worker; results go the
// same way. Both never run at one time, and nothing goes from cpu to cpu.
//
//   worker                                        carrier
//   1 from, from_bytes; asked += 1 (release)      a asked (acquire), then posted (acquire)
//   2 bell += 1, wake; sleep until served==asked  b posted != stored: copy out -> to; stored
//   3 f over in -> out                            c asked != served: copy from -> in; served, wake
//   4 to, to_bytes; posted += 1 (release)         d neither: sleep on the bell
//   5 the piece's reply; on to the next piece
//
// Invariants
//  1. Whoever sees a request sees the post before it (a: asked first), so a box is emptied before
//     it is filled again, and one post at a time is enough. A post wakes nobody: it is carried with
//     the next request, or when the call ends.
//  2. The call ends (finish()) when every piece has its reply and every worker that was told to end
//     is dead: nobody asks or posts any more. Then all posts are carried, so every result whose
//     reply came is in the output, and the boxes are the parent's again.
//  3. Carriers run no user code and take no lock; they are there during one call only. All signals
//     are blocked in them but those of faults, which are the program's to handle.
//
// When a worker dies between any two steps
//  - before 1 is complete: nobody has seen anything;
//  - after 1 or 2: the carrier fills a box that nobody reads. The worker that takes the seat finds
//     asked != served and rings and waits until they are equal (it does not matter who rang);
//  - in 3: what is in the box is lost with the piece, as WorkerLost tells;
//  - after 4, before its reply is given: the piece is lost, its results are written all the same,
//     before the call ends. A call with retries has no carriers, so no other worker writes there.
// The parent's death ends its threads, and the workers as ever.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace millrace::runtime {

/// What a carrier and its worker share; the bytes lie behind it.
struct alignas(64) CarrierBox {
  // Written by the worker.
  std::atomic<std::uint32_t> asked{0};   ///< requests so far
  std::atomic<std::uint32_t> posted{0};  ///< results to be carried so far
  std::uint64_t from = 0, from_bytes = 0;
  std::uint64_t to = 0, to_bytes = 0;
  // Written by the carrier.
  alignas(64) std::atomic<std::uint32_t> served{0};  ///< futex: requests carried
  std::atomic<std::uint32_t> stored{0};              ///< results carried
  // Written by whoever rings.
  alignas(64) std::atomic<std::uint32_t> bell{0};  ///< futex: the carrier sleeps here
  // Written once, by the parent.
  std::byte* in = nullptr;
  std::byte* out = nullptr;
};

/// In the parent: the carriers of one call.
class Carriers {
 public:
  /// A carrier on each of `cpus`, the seats' own, with room for `in` and `out` bytes. `stream`: the
  /// results go past the cache. Throws what the arena or the system throws, and leaves nothing.
  Carriers(const std::vector<int>& cpus, std::size_t in, std::size_t out, bool stream);
  Carriers(const Carriers&) = delete;
  Carriers& operator=(const Carriers&) = delete;
  /// Carries what is posted and ends the threads (invariant 2). Blocks meanwhile.
  ~Carriers();

  /// The boxes, by seat, for CarriedPiece.
  [[nodiscard]] std::uint64_t boxes() const noexcept {
    return reinterpret_cast<std::uint64_t>(boxes_);
  }

 private:
  void start(int cpu, std::size_t seat);
  void carry(CarrierBox& box);
  void finish() noexcept;

  std::byte* memory_;
  CarrierBox* boxes_;
  bool stream_;
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_{};
};

/// In a worker: the seat it has in its pool, and the cpu it rests on, -1: none of its own.
void set_carried_seat(int seat, int home) noexcept;

}  // namespace millrace::runtime
