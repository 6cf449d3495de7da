// Hostile bytes on a Connection over a socket: whatever comes in, each call gives the message that
// is there, or the error that CPython would, and never more memory than was asked for.
//
// An input is {settings, number of calls, calls ..., stream ...}. What must come out is found by a
// second reading of the framing, which shares no code with the first.
#include <cstddef>
#include <cstdint>
#include <millrace/connection.hpp>
#include <millrace/errors.hpp>
#include <millrace/object.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "runtime/channels/socket_end.hpp"
#include "tests/fuzz/fuzz_script.hpp"

namespace millrace::fuzz {
namespace {

constexpr std::size_t kMostCalls = 16;
constexpr std::uint64_t kMostBytes = 1U << 16;  // what a call asks for at most

// What is next in a stream.
struct Next {
  enum What { end, end_inside, no_length, message } what = end;
  std::uint64_t size = 0;    // as announced
  std::string_view bytes{};  // of a message
};

// The stream as its sender meant it.
class Stream {
 public:
  explicit Stream(std::string_view bytes) : left_(bytes) {}

  // `most`: what the caller takes.
  Next next(std::uint64_t most) {
    if (left_.empty()) return {};
    const auto header = take(4);
    if (!header) return {Next::end_inside};
    std::uint64_t size = number_of(*header);
    if (size == 0xffff'ffffU) {
      const auto longer = take(8);
      if (!longer) return {Next::end_inside};
      size = number_of(*longer);
    } else if (size > 0x7fff'ffffU) {
      return {Next::no_length};
    }
    if (size > most || size >> 63U != 0) return {Next::no_length, size};
    const auto bytes = take(size);
    if (!bytes) return {Next::end_inside, size};
    return {Next::message, size, *bytes};
  }
  [[nodiscard]] bool empty() const { return left_.empty(); }

 private:
  std::optional<std::string_view> take(std::uint64_t size) {
    const bool all = left_.size() >= size;
    const std::string_view taken = left_.substr(0, size);
    left_.remove_prefix(taken.size());
    return all ? std::optional(taken) : std::nullopt;
  }
  std::string_view left_;
};

enum Call : std::uint8_t { kBytes, kFewBytes, kInto, kObject, kPoll, kCalls };

// What a call came to; `value` of a message.
struct Outcome {
  Next::What what;
  std::string value{};
};

template <class Act>
Outcome outcome_of(Act&& act) {
  try {
    return {Next::message, act()};
  } catch (const EOFError&) {
    return {Next::end};
  } catch (const BufferTooShort& error) {
    return {Next::message, std::string(error.message().view())};
  } catch (const std::system_error& error) {
    if (error.code().value() == EIO) return {Next::end_inside};
    require(error.code().value() == EMSGSIZE);
    return {Next::no_length};
  }
}

// A value is checked by itself (pickle_fuzz); here it counts which bytes were taken for one.
Outcome outcome_of_object(const Connection& here) {
  return outcome_of([&] {
    try {
      (void)here.recv();
    } catch (const UnpicklingError&) {
    } catch (const OverflowError&) {
    }
    return std::string();
  });
}

Outcome call(Call which, const Connection& here, std::uint64_t most) {
  switch (which) {
    case kInto: {
      std::vector<char> room(most);
      return outcome_of([&] {
        const std::size_t got = here.recv_bytes_into(room);
        return std::string(room.data(), got);
      });
    }
    case kObject:
      return outcome_of_object(here);
    default:
      return outcome_of(
          [&] { return std::string(here.recv_bytes(static_cast<std::ptrdiff_t>(most)).view()); });
  }
}

void play(Script& script) {
  SocketPair ends = socket_pair();
  const std::uint8_t settings = script.byte();
  const std::size_t calls = script.byte() % kMostCalls;
  const std::string_view wanted = script.bytes(calls);
  const std::string_view bytes = script.rest();
  const Connection here = runtime::socket_connection({std::move(ends.ours), {}, {}});
  // In pieces: each is a packet of its own to the reader.
  const std::size_t piece = (settings & 7U) == 0 ? bytes.size() : settings & 7U;
  for (std::size_t at = 0; at < bytes.size(); at += piece) {
    if (at / piece < 64) {
      require(feed(ends.theirs, bytes.substr(at, piece)));
    } else {
      require(feed(ends.theirs, bytes.substr(at)));
      break;
    }
  }
  ends.theirs.reset();

  Stream stream(bytes);
  for (const char each : wanted) {
    auto which = static_cast<Call>(static_cast<std::uint8_t>(each) % kCalls);
    if (which == kPoll) {
      require(here.poll());  // a message, or the end
      continue;
    }
    const std::uint64_t most = which == kFewBytes || which == kInto
                                   ? static_cast<std::uint8_t>(each) / std::uint64_t{kCalls}
                                   : kMostBytes;
    // What takes any length may ask for as much: not from here.
    Stream ahead = stream;
    if (ahead.next(std::uint64_t{1} << 62U).size > kMostBytes) which = kBytes;
    const bool any = which == kInto || which == kObject;
    const Next next = stream.next(any ? std::uint64_t{1} << 62U : most);
    const Outcome came = call(which, here, most);
    require(came.what == next.what);
    if (came.what == Next::message && which != kObject) require(came.value == next.bytes);
    require(here.readable() == (came.what != Next::no_length));
    if (came.what == Next::no_length) return;
  }
}

}  // namespace
}  // namespace millrace::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  millrace::fuzz::Script script(data, size);
  millrace::fuzz::play(script);
  return 0;
}
