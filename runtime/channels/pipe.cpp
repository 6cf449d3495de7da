// mp::Pipe: makes what pipe_body.hpp describes.
#include <sys/random.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <millrace/connection.hpp>
#include <utility>

#include "runtime/base/fd_bag.hpp"
#include "runtime/channels/pipe_end.hpp"
#include "shm/message_scope.hpp"

namespace millrace {
namespace runtime {
namespace {

// Of 128 bytes, which a cpu fetches together: so the ring counts the units of its bulk.
constexpr std::size_t up_to_unit(std::size_t bytes) { return (bytes + 127) / 128 * 128; }
static_assert(sizeof(PipeBody) % 64 == 0);

// A number that no token had before: from the clock and this process, then counted.
std::uint64_t next_serial() {
  static const std::uint64_t first = [] {
    std::uint64_t drawn = 0;
    if (::getrandom(&drawn, sizeof drawn, GRND_NONBLOCK) != sizeof drawn) drawn = shm::ticks();
    return drawn;
  }();
  static std::atomic<std::uint64_t> count{0};
  // relaxed: a number; forked children that count on from it add their own id
  const std::uint64_t serial = first + count.fetch_add(1, std::memory_order_relaxed);
  return serial ^ (std::uint64_t{shm::self()} << 38U);
}

// An end of a new pipe: its token, its object, the end in this process.
Connection make_side(const shm::ObjectRef& body_ref, unsigned side, bool readable, bool writable) {
  auto& body = *static_cast<PipeBody*>(body_ref.payload());
  void* holder = nullptr;  // an address in this process's memory is all that is asked
  void* const token = shm::create_object({64, shm::object_type<PipeSide>()}, &holder);
  std::unique_ptr<PipeEnd> end;
  try {
    PipeSide& mine = body.side[side];
    mine.serial = next_serial();
    mine.token = shm::watch_object(token);
    std::memcpy(token, &mine.serial, sizeof mine.serial);
    shm::ObjectRef object(shm::ObjectRequest{.bytes = sizeof(ConnectionObject),
                                             .type = shm::object_type<Connection>(),
                                             .elements = 1,
                                             .links = 1});
    auto& content = *static_cast<ConnectionObject*>(object.payload());
    content.kind = EndKind::pipe;
    content.side = side;
    content.readable = readable;
    content.writable = writable;
    const shm::OutsideMessage outside;  // the reference is the object's
    shm::depart_object(body_ref.payload());
    content.body = reinterpret_cast<std::uint64_t>(body_ref.payload());
    end = std::make_unique<PipeEnd>(content, token);
    return make_connection(std::move(end), std::move(object));
  } catch (...) {
    if (end == nullptr) shm::release_object(token, &holder);
    throw;
  }
}

}  // namespace
}  // namespace runtime

std::pair<Connection, Connection> Pipe(const PipeOptions& options) {
  using namespace runtime;
  const std::size_t ring = up_to_unit(shm::SpscRing::bytes_for(Direction::kGeometry));
  const shm::ObjectRef body_ref(shm::ObjectRequest{.bytes = sizeof(PipeBody) + 64 + 2 * ring,
                                                   .type = shm::object_type<PipeBody>()});
  auto& body = *static_cast<PipeBody*>(body_ref.payload());
  const auto behind = reinterpret_cast<std::uintptr_t>(&body + 1);  // a payload: a multiple of 64
  auto* const rings = reinterpret_cast<std::byte*>(&body + 1) + (up_to_unit(behind) - behind);
  for (unsigned i = 0; i < 2; ++i) {
    if (i == 0 || options.duplex) body.direction[i].make(rings + i * ring);
  }
  need_fd_bag();
  Connection first = make_side(body_ref, 0, true, options.duplex);
  return {std::move(first), make_side(body_ref, 1, options.duplex, true)};
}

}  // namespace millrace
