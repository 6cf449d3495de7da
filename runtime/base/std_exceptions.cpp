// The carriers of the library's own exceptions and of the standard library's.
#include "runtime/base/std_exceptions.hpp"

#include <any>
#include <atomic>
#include <filesystem>
#include <functional>
#include <future>
#include <ios>
#include <memory>
#include <millrace/exceptions.hpp>
#include <millrace/synchronize.hpp>
#include <new>
#include <optional>
#include <regex>
#include <typeinfo>
#include <variant>

namespace millrace::runtime {
namespace {

template <class E>
void put_what(wire::Writer& out, const E& error) {
  put_text(out, error.what());
}
template <class E>
E take_what(wire::Reader& in) {
  return E(take_text(in));
}
template <class E>
void put_nothing(wire::Writer&, const E&) {}
template <class E>
E take_default(wire::Reader&) {
  return E();
}

template <class... E>
void declare_by_text() {
  (Carried<E, &put_what<E>, &take_what<E>>::declare(), ...);
}
template <class... E>
void declare_by_type() {
  (Carried<E, &put_nothing<E>, &take_default<E>>::declare(), ...);
}

// A category of error codes that this process has no object for.
class ForeignCategory final : public std::error_category {
 public:
  explicit ForeignCategory(std::string name) : name_(std::move(name)) {}
  [[nodiscard]] const char* name() const noexcept override { return name_.c_str(); }
  [[nodiscard]] std::string message(int code) const override {
    return name_ + " error " + std::to_string(code);
  }

  ForeignCategory* next = nullptr;  // made before this one

 private:
  std::string name_;
};

// Categories are compared by address and live for ever: one for each foreign name, kept in a list
// that only grows. Two threads that meet a new name at once may make two; no lock that a fork could
// copy while it is held.
const std::error_category& category_named(const std::string& name) {
  for (const std::error_category* known : {&std::generic_category(), &std::system_category(),
                                           &std::iostream_category(), &std::future_category()}) {
    if (name == known->name()) return *known;
  }
  static std::atomic<ForeignCategory*> newest{nullptr};
  // KEEP category: acquire; pairs with the release below: names may be read.
  ForeignCategory* next = newest.load(std::memory_order_acquire);
  for (ForeignCategory* one = next; one != nullptr; one = one->next) {
    if (name == one->name()) return *one;
  }
  auto* made = new ForeignCategory(name);
  made->next = next;
  // KEEP category: release; pairs with the acquire above.
  while (!newest.compare_exchange_weak(made->next, made, std::memory_order_release,
                                       std::memory_order_relaxed)) {
  }
  return *made;
}

void put_code(wire::Writer& out, const std::error_code& code) {
  put_text(out, code.category().name());
  out.put(static_cast<std::int32_t>(code.value()));
}

std::error_code take_code(wire::Reader& in) {
  const std::string category = take_text(in);
  const auto value = in.take<std::int32_t>();
  return {value, category_named(category)};
}

// The constructor of std::system_error appends the code's message to the text, so it is cut off.
std::string without_message(std::string text, const std::error_code& code) {
  const std::string message = code.message();
  if (text == message) return {};
  if (text.ends_with(": " + message)) text.resize(text.size() - message.size() - 2);
  return text;
}

template <class E>
void put_system(wire::Writer& out, const E& error) {
  put_code(out, error.code());
  put_text(out, without_message(error.std::system_error::what(), error.code()));
}

std::system_error take_system(wire::Reader& in) {
  const std::error_code code = take_code(in);
  const std::string text = take_text(in);
  return text.empty() ? std::system_error(code) : std::system_error(code, text);
}

std::ios_base::failure take_ios(wire::Reader& in) {
  const std::error_code code = take_code(in);
  return std::ios_base::failure(take_text(in), code);
}

void put_filesystem(wire::Writer& out, const std::filesystem::filesystem_error& error) {
  put_system(out, error);
  put_text(out, error.path1().native());
  put_text(out, error.path2().native());
}

std::filesystem::filesystem_error take_filesystem(wire::Reader& in) {
  const std::error_code code = take_code(in);
  const std::string text = take_text(in);
  const std::filesystem::path first = take_text(in);
  const std::filesystem::path second = take_text(in);
  return {text, first, second, code};
}

void put_future(wire::Writer& out, const std::future_error& error) {
  out.put(static_cast<std::int32_t>(error.code().value()));
}
std::future_error take_future(wire::Reader& in) {
  return std::future_error(static_cast<std::future_errc>(in.take<std::int32_t>()));
}

void put_regex(wire::Writer& out, const std::regex_error& error) {
  out.put(static_cast<std::int32_t>(error.code()));
}
std::regex_error take_regex(wire::Reader& in) {
  return std::regex_error(static_cast<std::regex_constants::error_type>(in.take<std::int32_t>()));
}

void put_lost(wire::Writer& out, const WorkerLost& error) {
  out.put(static_cast<std::int32_t>(error.pid()));
  out.put(static_cast<std::int32_t>(error.exitcode()));
  out.put(static_cast<std::uint8_t>(error.oom()));
  out.put(error.first());
  out.put(error.last());
}
WorkerLost take_lost(wire::Reader& in) {
  const auto pid = in.take<std::int32_t>();
  const auto exitcode = in.take<std::int32_t>();
  const bool oom = in.take<std::uint8_t>() != 0;
  const auto first = in.take<std::uint64_t>();
  return {pid, exitcode, oom, first, in.take<std::uint64_t>()};
}

void put_short(wire::Writer& out, const BufferTooShort& error) {
  put_text(out, std::string(error.message().view()));
}
BufferTooShort take_short(wire::Reader& in) { return BufferTooShort(Bytes(take_text(in))); }

void put_abandoned(wire::Writer& out, const AbandonedLock& error) {
  out.put(static_cast<std::int32_t>(error.pid()));
}
AbandonedLock take_abandoned(wire::Reader& in) { return AbandonedLock(in.take<std::int32_t>()); }

void put_exit(wire::Writer& out, const SystemExit& error) {
  out.put(static_cast<std::int32_t>(error.code()));
  out.put(static_cast<std::uint8_t>(error.has_text()));
  put_text(out, error.text());
}
SystemExit take_exit(wire::Reader& in) {
  const auto code = in.take<std::int32_t>();
  const bool has_text = in.take<std::uint8_t>() != 0;
  std::string text = take_text(in);
  return has_text ? SystemExit(std::move(text)) : SystemExit(code);
}

// A RemoteError that travels on keeps its type's name; its trace is the message's own.
struct RemoteErrorCarrier {
  static void encode(wire::Writer& out, const std::exception_ptr& pointer) {
    try {
      std::rethrow_exception(pointer);
    } catch (const RemoteError& error) {
      put_text(out, error.type_name());
      put_text(out, error.what());
    }
  }
  static std::exception_ptr decode(wire::Reader& in, std::string trace) {
    std::string name = take_text(in);
    const std::string what = take_text(in);
    return std::make_exception_ptr(RemoteError(std::move(name), what, std::move(trace)));
  }
};

void declare_library() {
  declare_by_text<ProcessError, TimeoutError, AuthenticationError, MaybeEncodingError,
                  PoolTerminated, ForkedError, Corrupt, ValueError, AssertionError, TypeError,
                  IndexError, KeyError, AttributeError, OverflowError, EOFError,
                  NotImplementedError, UnpicklingError, BrokenBarrierError, queue::Empty,
                  queue::Full>();
  declare_by_type<KeyboardInterrupt>();
  Carried<WorkerLost, &put_lost, &take_lost>::declare();
  Carried<BufferTooShort, &put_short, &take_short>::declare();
  Carried<AbandonedLock, &put_abandoned, &take_abandoned>::declare();
  Carried<SystemExit, &put_exit, &take_exit>::declare();
  static CarrierEntry remote{&typeid(RemoteError), &typeid(RemoteError),
                             &RemoteErrorCarrier::encode, &RemoteErrorCarrier::decode};
  add_carrier(remote);
}

void declare_standard() {
  declare_by_text<std::logic_error, std::invalid_argument, std::domain_error, std::length_error,
                  std::out_of_range, std::runtime_error, std::range_error, std::overflow_error,
                  std::underflow_error>();
  declare_by_type<std::exception, std::bad_alloc, std::bad_array_new_length, std::bad_cast,
                  std::bad_typeid, std::bad_exception, std::bad_optional_access,
                  std::bad_variant_access, std::bad_function_call, std::bad_weak_ptr,
                  std::bad_any_cast>();
  Carried<std::system_error, &put_system<std::system_error>, &take_system>::declare();
  Carried<std::ios_base::failure, &put_system<std::ios_base::failure>, &take_ios>::declare();
  Carried<std::filesystem::filesystem_error, &put_filesystem, &take_filesystem>::declare();
  Carried<std::future_error, &put_future, &take_future>::declare();
  Carried<std::regex_error, &put_regex, &take_regex>::declare();
}

}  // namespace

bool declare_known_exceptions() {
  declare_library();
  declare_standard();
  return true;
}

}  // namespace millrace::runtime
