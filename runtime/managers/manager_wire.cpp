#include "runtime/managers/manager_wire.hpp"

#include <array>
#include <charconv>
#include <millrace/errors.hpp>

#include "runtime/managers/manager_travel.hpp"
#include "runtime/values/pickle.hpp"

namespace millrace::runtime {

namespace {

constexpr std::string_view kMark = "|millrace:";

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
    const ProxiesByName frame;
    encode_object(out, value);
    out.end_session();
  } catch (...) {
    out.revert(start);
    throw;
  }
}

std::string hex_of(std::uint64_t number) {
  std::array<char, 16> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), number, 16).ptr;
  return {text.data(), end};
}

std::uint64_t number_of_hex(std::string_view text) {
  const std::string all(text);
  std::uint64_t number = 0;
  if (!take_number(text, number) || !text.empty()) throw ValueError(all + " is no number");
  return number;
}

std::string text_of_hello(const std::string& process_name, const ManagerHello& hello) {
  return process_name + std::string(kMark) + hello.proof + ":" + hex_of(hello.client) + ":" +
         hex_of(hello.parent) + ":" + hex_of(static_cast<std::uint64_t>(hello.pid));
}

bool hello_of_text(std::string_view text, ManagerHello& hello) {
  const std::size_t at = text.rfind(kMark);
  if (at == std::string_view::npos) return false;
  text.remove_prefix(at + kMark.size());
  const std::size_t end = text.find(':');
  if (end == std::string_view::npos) return false;
  hello.proof = std::string(text.substr(0, end));
  text.remove_prefix(end + 1);
  std::uint64_t pid = 0;
  if (!take_number(text, hello.client) || !take_number(text, hello.parent) ||
      !take_number(text, pid) || pid > INT32_MAX) {
    return false;
  }
  hello.pid = static_cast<int>(pid);
  return hello.client != 0;
}

std::string reply_to_hello(const std::string& proof) { return std::string(kMark) + proof; }

std::optional<std::string> proof_in_reply(const Object& value) {
  if (!value.is<std::string>()) return std::nullopt;
  auto text = value.as<std::string>();
  if (!text.starts_with(kMark)) return std::nullopt;
  return text.substr(kMark.size());
}

}  // namespace millrace::runtime
