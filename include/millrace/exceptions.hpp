// How exceptions cross a process boundary as themselves: the part of MILLRACE_EXCEPTION that knows
// the type. The registry and the standard types are in runtime/base/exceptions.cpp.
//
// An exception travels as {type name, payload, trace}. The receiver finds the type's carrier by
// name, rebuilds the object from the payload and throws Traced<E>, a class derived from E that also
// holds the trace, so handlers for E match. A final E is rebuilt as it is, without its trace.
#pragma once

#include <concepts>
#include <exception>
#include <memory>
#include <millrace/errors.hpp>
#include <millrace/serialize.hpp>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <utility>

namespace millrace::runtime {

/// The trace that a rebuilt exception brings along.
class RemoteTrace {
 public:
  explicit RemoteTrace(std::string text)
      : text_(std::make_shared<const std::string>(std::move(text))) {}
  RemoteTrace(const RemoteTrace&) noexcept = default;
  RemoteTrace& operator=(const RemoteTrace&) noexcept = default;
  virtual ~RemoteTrace() = default;
  [[nodiscard]] const std::string& remote_trace() const noexcept { return *text_; }

 private:
  std::shared_ptr<const std::string> text_;
};

/// What is thrown for an E that came from another process.
template <class E>
class Traced final : public E, public RemoteTrace {
 public:
  Traced(E error, std::string trace) : E(std::move(error)), RemoteTrace(std::move(trace)) {}
};

/// One carriable type. Objects of it live for ever: entries are linked, never removed.
struct CarrierEntry {
  using Encode = void (*)(wire::Writer&, const std::exception_ptr&);
  using Decode = std::exception_ptr (*)(wire::Reader&, std::string trace);

  const std::type_info* type = nullptr;         // E
  const std::type_info* traced_type = nullptr;  // Traced<E>, or E again
  Encode encode = nullptr;                      // writes E's payload
  Decode decode = nullptr;                      // rebuilds it
  const CarrierEntry* next = nullptr;           // set once, before the entry is published
};

/// Adds an entry unless its type has one. Any thread, also during static initialisation.
void add_carrier(CarrierEntry& entry) noexcept;

/// Text on the wire, for carriers: written with its length, read with its bounds checked.
void put_text(wire::Writer& out, const std::string& text);
std::string take_text(wire::Reader& in);

/// The rebuilt object with its trace, as the pointer that rethrows it.
template <class E>
std::exception_ptr traced(E error, std::string trace) {
  if constexpr (std::is_final_v<E> || !std::is_class_v<E> || std::derived_from<E, RemoteTrace>) {
    return std::make_exception_ptr(std::move(error));
  } else {
    return std::make_exception_ptr(Traced<E>(std::move(error), std::move(trace)));
  }
}

template <class E>
struct TracedType {
  using type = Traced<E>;
};
template <class E>
requires(std::is_final_v<E> || !std::is_class_v<E>) struct TracedType<E> {
  using type = E;
};

/// An entry for E from the pair of functions that write and read one E.
template <class E, void (*Put)(wire::Writer&, const E&), E (*Take)(wire::Reader&)>
struct Carried {
  static void encode(wire::Writer& out, const std::exception_ptr& pointer) {
    try {
      std::rethrow_exception(pointer);
    } catch (const E& error) {
      Put(out, error);
    }
  }
  static std::exception_ptr decode(wire::Reader& in, std::string trace) {
    return traced<E>(Take(in), std::move(trace));
  }
  static bool declare() noexcept {
    static CarrierEntry entry{&typeid(E), &typeid(typename TracedType<E>::type), &encode, &decode};
    add_carrier(entry);
    return true;
  }
};

/// The general carrier: the serialised value, else the text of what().
template <class E>
struct ExceptionCarrier {
  static constexpr bool kByText =
      std::derived_from<E, std::exception> && std::constructible_from<E, const std::string&>;
  static_assert(Serializable<E> || kByText,
                "MILLRACE_EXCEPTION: the type must be Serializable or constructible from its "
                "what(); give it a constructor that takes a std::string, or serialize()");

  static void put(wire::Writer& out, const E& error) {
    if constexpr (Serializable<E>) {
      wire::encode(out, error);
    } else {
      put_text(out, error.what());
    }
  }
  static E take(wire::Reader& in) {
    if constexpr (Serializable<E>) {
      return wire::decode<E>(in);
    } else {
      return E(take_text(in));
    }
  }
  static bool declare() noexcept { return Carried<E, &put, &take>::declare(); }
};

}  // namespace millrace::runtime
