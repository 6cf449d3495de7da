#include "runtime/base/exceptions.hpp"

#include <cxxabi.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <new>
#include <string_view>

#include "runtime/base/std_exceptions.hpp"
#include "runtime/base/throw_trace.hpp"
#include "runtime/process/child.hpp"

namespace millrace {
namespace runtime {
namespace {

// The newest entry; entries are only ever added. Writers: static initialisation of any module, so
// possibly a thread in dlopen(). Constant-initialised, so that it is there before any of them.
std::atomic<const CarrierEntry*> g_entries{nullptr};

[[maybe_unused]] const bool g_known = declare_known_exceptions();

const CarrierEntry* entries() noexcept {
  // OBSERVE carrier: the entry's fields were written before it was linked.
  return g_entries.load(std::memory_order_acquire);
}

// Names, not type_info objects: a plugin has its own copy of a type's type_info.
const CarrierEntry* find(std::string_view mangled) noexcept {
  for (const CarrierEntry* e = entries(); e != nullptr; e = e->next) {
    if (mangled == e->type->name() || mangled == e->traced_type->name()) return e;
  }
  return nullptr;
}

bool is_standard(const std::type_info& type) noexcept {
  return std::strncmp(type.name(), "St", 2) == 0 || std::strncmp(type.name(), "NSt", 3) == 0;
}

// Types that the standard library derives behind its own names (throw_with_nested, iostreams)
// reduce to the first public base that is not std::nested_exception.
const std::type_info* reduced(const std::type_info& type) noexcept {
  if (!is_standard(type)) return nullptr;
  if (const auto* single = dynamic_cast<const abi::__si_class_type_info*>(&type)) {
    return single->__base_type;
  }
  const auto* multiple = dynamic_cast<const abi::__vmi_class_type_info*>(&type);
  if (multiple == nullptr) return nullptr;
  for (unsigned i = 0; i < multiple->__base_count; ++i) {
    const auto& base = multiple->__base_info[i];
    if (*base.__base_type != typeid(std::nested_exception) && base.__is_public_p()) {
      return base.__base_type;
    }
  }
  return nullptr;
}

struct Kind {
  const CarrierEntry* entry;    // null: nobody knows the type
  const std::type_info* named;  // the type to name, null: thrown by another language
};

Kind kind_of_current() noexcept {
  const std::type_info* type = abi::__cxa_current_exception_type();
  const std::type_info* named = type;
  while (type != nullptr) {
    if (const CarrierEntry* entry = find(type->name())) return {entry, type};
    type = reduced(*type);
    if (type != nullptr) named = type;
  }
  return {nullptr, named};
}

std::string what_of(const std::exception_ptr& pointer) {
  try {
    std::rethrow_exception(pointer);
  } catch (const std::exception& error) {
    return error.what();
  } catch (const SystemExit& error) {
    return error.has_text() ? error.text() : std::to_string(error.code());
  } catch (const std::string& text) {
    return text;
  } catch (const char* text) {
    return text;
  } catch (int value) {
    return std::to_string(value);
  } catch (...) {
    return {};
  }
}

std::exception_ptr cause_of(const std::exception_ptr& pointer) noexcept {
  try {
    std::rethrow_exception(pointer);
  } catch (const std::nested_exception& nested) {
    return nested.nested_ptr();
  } catch (...) {
    return nullptr;
  }
}

std::string type_name_of(const std::exception_ptr& pointer) {
  try {
    std::rethrow_exception(pointer);
  } catch (const RemoteError& error) {
    return error.type_name();
  } catch (...) {
    const Kind kind = kind_of_current();
    if (kind.entry != nullptr) return demangle(*kind.entry->type);
    return kind.named != nullptr ? demangle(*kind.named) : "foreign exception";
  }
}

// What the other side will show: who raised it, where, what; then the trace it came with itself.
std::string trace_of(const std::exception_ptr& pointer) {
  std::string text = "Process " + process_name() + " (pid " + std::to_string(::getpid()) + "):\n";
  text += throw_trace_text(pointer);
  text += describe_exception(pointer);
  if (const std::string earlier = remote_traceback(pointer); !earlier.empty()) {
    text = earlier + "\n" + text;
  }
  return text;
}

constexpr std::uint8_t kTyped = 1;    // {type name, payload length, payload}
constexpr std::uint8_t kUntyped = 2;  // {type name, what}

void put_untyped(wire::Writer& out, const std::exception_ptr& error) {
  out.put(kUntyped);
  put_text(out, type_name_of(error));
  put_text(out, what_of(error));
}

// Writes {length, what `fill` writes}; whatever fill throws leaves `out` as it was.
template <class Fill>
void put_sized(wire::Writer& out, Fill&& fill) {
  const std::size_t start = out.size();
  out.extend(sizeof(std::uint32_t));
  try {
    fill();
  } catch (...) {
    out.revert(start);
    throw;
  }
  const auto size = static_cast<std::uint32_t>(out.size() - start - sizeof(std::uint32_t));
  std::memcpy(out.data() + start, &size, sizeof size);
}

void put_failed(wire::Writer& out, const std::exception_ptr& error, const std::string& why) {
  out.put(kTyped);
  put_text(out, typeid(MaybeEncodingError).name());
  put_sized(out, [&] {
    put_text(out, "an exception of type " + type_name_of(error) + " (" + what_of(error) +
                      ") could not be serialised: " + why);
  });
}

// A type's own serialiser may throw; that is then what the other side is told.
void put_typed(wire::Writer& out, const CarrierEntry& entry, const std::exception_ptr& error) {
  const std::size_t start = out.size();
  std::string failure;
  try {
    out.put(kTyped);
    put_text(out, entry.type->name());
    return put_sized(out, [&] { entry.encode(out, error); });
  } catch (...) {
    const std::exception_ptr why = std::current_exception();
    failure = type_name_of(why) + ": " + what_of(why);
  }
  out.revert(start);
  put_failed(out, error, failure);
}

std::exception_ptr unknown(const std::string& mangled, const std::string& why, std::string trace) {
  const std::string name = demangle(mangled.c_str());
  return std::make_exception_ptr(
      RemoteError(name, "an exception of type " + name + " could not be rebuilt here: " + why,
                  std::move(trace)));
}

std::exception_ptr take_typed(const std::string& mangled, wire::Reader& payload,
                              std::string trace) {
  const CarrierEntry* entry = find(mangled);
  if (entry == nullptr) return unknown(mangled, "the type is not declared", std::move(trace));
  try {
    return entry->decode(payload, trace);
  } catch (const std::exception& failure) {
    return unknown(mangled, failure.what(), std::move(trace));
  } catch (...) {
    return unknown(mangled, "its constructor threw", std::move(trace));
  }
}

}  // namespace

void add_carrier(CarrierEntry& entry) noexcept {
  // OBSERVE carrier: the fields of the entries it is compared with.
  const CarrierEntry* head = g_entries.load(std::memory_order_acquire);
  do {
    for (const CarrierEntry* e = head; e != nullptr; e = e->next) {
      if (e == &entry || std::strcmp(e->type->name(), entry.type->name()) == 0) return;
    }
    entry.next = head;
    // PUBLISH carrier: the fields, `next` too, become visible with the link.
  } while (!g_entries.compare_exchange_weak(head, &entry, std::memory_order_release,
                                            std::memory_order_acquire));
}

void put_text(wire::Writer& out, const std::string& text) {
  out.put(static_cast<std::uint64_t>(text.size()));
  out.write(text.data(), text.size());
}

std::string take_text(wire::Reader& in) {
  const auto size = in.take<std::uint64_t>();
  if (size > in.remaining()) throw Corrupt("exception message: a text exceeds the message");
  std::string text(static_cast<std::size_t>(size), '\0');
  in.read(text.data(), text.size());
  return text;
}

std::string describe_exception(const std::exception_ptr& error) {
  std::string text;
  int depth = 0;
  for (std::exception_ptr e = error; e != nullptr && depth < 16; e = cause_of(e), ++depth) {
    if (depth > 0) text += "caused by ";
    const std::string what = what_of(e);
    text += type_name_of(e) + (what.empty() ? "" : ": " + what) + "\n";
  }
  return text;
}

void encode_exception(wire::Writer& out, const std::exception_ptr& error) {
  Kind kind{nullptr, nullptr};
  try {
    std::rethrow_exception(error);
  } catch (...) {
    kind = kind_of_current();
  }
  put_text(out, trace_of(error));
  if (kind.entry != nullptr) {
    put_typed(out, *kind.entry, error);
  } else {
    put_untyped(out, error);
  }
}

std::exception_ptr decode_exception(wire::Reader& in) try {
  std::string trace = take_text(in);
  const auto form = in.take<std::uint8_t>();
  const std::string name = take_text(in);
  if (form == kUntyped) {
    const std::string what = take_text(in);
    return std::make_exception_ptr(RemoteError(name, what, std::move(trace)));
  }
  const auto size = in.take<std::uint32_t>();
  wire::Reader payload(in.skip(size), size, in.references());
  return take_typed(name, payload, std::move(trace));
} catch (const std::exception& damage) {
  return std::make_exception_ptr(
      RemoteError("unknown", std::string("an exception arrived damaged: ") + damage.what()));
}

}  // namespace runtime

std::string remote_traceback(const std::exception& error) {
  if (const auto* remote = dynamic_cast<const RemoteError*>(&error)) return remote->traceback();
  const auto* trace = dynamic_cast<const runtime::RemoteTrace*>(&error);
  return trace != nullptr ? trace->remote_trace() : std::string();
}

std::string remote_traceback(const std::exception_ptr& error) {
  if (error == nullptr) return {};
  try {
    std::rethrow_exception(error);
  } catch (const RemoteError& remote) {
    return remote.traceback();
  } catch (const runtime::RemoteTrace& trace) {
    return trace.remote_trace();
  } catch (...) {
    return {};
  }
}

}  // namespace millrace
