#include "runtime/managers/manager_wire.hpp"

#include <sys/random.h>

#include <array>
#include <charconv>
#include <millrace/errors.hpp>
#include <system_error>

#include "runtime/values/pickle.hpp"
#include "shm/arena.hpp"

namespace millrace::runtime {

namespace {

constexpr std::string_view kMark = "|millrace:";
constexpr std::size_t kNameSlot = shm::ArenaRoot::kUser - 1;

std::string hex_of(std::uint64_t number) {
  std::array<char, 16> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), number, 16).ptr;
  return {text.data(), end};
}

// The number up to the next ':' or the end; cut off from `text`.
bool take_number(std::string_view& text, std::uint64_t& number) {
  const std::size_t end = std::min(text.find(':'), text.size());
  const auto result = std::from_chars(text.data(), text.data() + end, number, 16);
  const bool whole = result.ec == std::errc() && result.ptr == text.data() + end;
  text.remove_prefix(std::min(end + 1, text.size()));
  return whole;
}

}  // namespace

Object value_of_frame(std::span<const std::byte> frame, bool own) {
  if (own && !frame.empty() && frame[0] == kOwnFrame) {
    wire::Reader in(frame.data() + 1, frame.size() - 1);
    return decode_object(in);
  }
  PickleLimits limits;
  limits.handles = true;
  return unpickle({reinterpret_cast<const char*>(frame.data()), frame.size()}, limits);
}

void put_frame(wire::Writer& out, const Object& value, bool own) {
  if (!own) return pickle(out, value);
  const std::size_t start = out.size();
  try {
    out.put(kOwnFrame);
    encode_object(out, value);
    out.end_session();
  } catch (...) {
    out.revert(start);
    throw;
  }
}

std::string program_name() {
  auto& word = shm::Arena::instance().root().word[kNameSlot];
  // relaxed: a number by itself; whoever comes second takes the first one's.
  std::uint64_t number = word.load(std::memory_order_relaxed);
  while (number == 0) {
    std::uint64_t fresh = 0;
    if (::getrandom(&fresh, sizeof fresh, 0) != sizeof fresh) {
      throw std::system_error(errno, std::generic_category(), "getrandom");
    }
    if (word.compare_exchange_strong(number, fresh, std::memory_order_relaxed)) number = fresh;
  }
  return hex_of(number);
}

std::string text_of_hello(const std::string& process_name, const ManagerHello& hello) {
  return process_name + std::string(kMark) + hello.program + ":" + hex_of(hello.client) + ":" +
         hex_of(hello.parent) + ":" + hex_of(static_cast<std::uint64_t>(hello.pid));
}

bool hello_of_text(std::string_view text, ManagerHello& hello) {
  const std::size_t at = text.rfind(kMark);
  if (at == std::string_view::npos) return false;
  text.remove_prefix(at + kMark.size());
  const std::size_t end = text.find(':');
  if (end == std::string_view::npos) return false;
  hello.program = std::string(text.substr(0, end));
  text.remove_prefix(end + 1);
  std::uint64_t pid = 0;
  if (!take_number(text, hello.client) || !take_number(text, hello.parent) ||
      !take_number(text, pid) || pid > INT32_MAX) {
    return false;
  }
  hello.pid = static_cast<int>(pid);
  return hello.client != 0;
}

std::string reply_to_hello(const std::string& program) { return std::string(kMark) + program; }

bool is_reply_to_hello(const Object& value) {
  return value.is<std::string>() && value.as<std::string>().starts_with(kMark);
}

}  // namespace millrace::runtime
