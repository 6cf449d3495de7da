// Arguments and results of calls through a manager: any value that an mp::Object holds; inside one
// program also any Serializable one, which then travels inside an Object, decoded where it arrives.
#pragma once

#include <memory>
#include <millrace/callable.hpp>
#include <millrace/errors.hpp>
#include <millrace/function.hpp>
#include <millrace/object.hpp>
#include <millrace/serialize.hpp>
#include <millrace/type_key.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace millrace::runtime {

/// A C++ value inside an Object. Means nothing to another program.
class CarriedValue {
 public:
  CarriedValue() = default;
  CarriedValue(const CarriedValue&) = delete;
  CarriedValue& operator=(const CarriedValue&) = delete;
  virtual ~CarriedValue() = default;

  /// Its address if its type has this hash, else null.
  [[nodiscard]] virtual const void* find(std::uint64_t type) const noexcept = 0;
  [[nodiscard]] virtual std::string_view type_name() const noexcept = 0;
  /// Throws TypeError for what cannot leave the process.
  virtual void encode(wire::Writer& out) const = 0;
  /// A std::shared_ptr<const CarriedValue> (*)(wire::Reader&).
  [[nodiscard]] virtual FunctionId decoder() const = 0;
};

/// The handle by which an Object refers to it.
struct CarriedHandle {
  std::shared_ptr<const CarriedValue> value;
  [[nodiscard]] std::string repr() const;
  friend bool operator==(const CarriedHandle&, const CarriedHandle&) noexcept = default;
};

void encode_carried(wire::Writer& out, const CarriedHandle& carried);
CarriedHandle decode_carried(wire::Reader& in);

template <class T>
class CarriedOf final : public CarriedValue {
 public:
  explicit CarriedOf(T value) : value_(std::move(value)) {}
  [[nodiscard]] const void* find(std::uint64_t type) const noexcept override {
    return type == wire::type_hash<T>() ? &value_ : nullptr;
  }
  [[nodiscard]] std::string_view type_name() const noexcept override {
    return wire::type_name<T>();
  }
  void encode(wire::Writer& out) const override {
    if constexpr (Serializable<T>) {
      wire::encode(out, value_);
    } else {
      wire::put_callable(out, value_);
      out.end_session();
    }
  }
  [[nodiscard]] FunctionId decoder() const override { return id_of<&decode>(); }

 private:
  static std::shared_ptr<const CarriedValue> decode(wire::Reader& in) {
    if constexpr (Serializable<T>) {
      return std::make_shared<CarriedOf>(wire::decode<T>(in));
    } else {
      const wire::EndSession end{in};
      return std::make_shared<CarriedOf>(wire::take_callable<T>(in));
    }
  }

  T value_;
};

}  // namespace millrace::runtime

namespace millrace::wire {

template <>
struct Custom<runtime::CarriedHandle> {
  static void encode(Writer& out, const runtime::CarriedHandle& value) {
    runtime::encode_carried(out, value);
  }
  static runtime::CarriedHandle decode(Reader& in) { return runtime::decode_carried(in); }
};

}  // namespace millrace::wire

namespace millrace::runtime {

/// The C++ value in an Object, or null.
const CarriedValue* find_carried(const Object& value);
[[noreturn]] void throw_not_carried(const Object& value, std::string_view type);

/// A value as an argument or result of a call.
template <class T>
Object to_argument(T&& value) {
  using V = wire::travel_t<T>;
  if constexpr (ObjectValue<T>) {
    return Object(std::forward<T>(value));
  } else {
    static_assert(Serializable<V> || Sendable<V>,
                  "millrace: an argument or result of this type cannot travel to another process; "
                  "give it serialize(), make it an aggregate of Serializable members, or pass a "
                  "handle");
    return Object(CarriedHandle{std::make_shared<CarriedOf<V>>(V(std::forward<T>(value)))});
  }
}

/// The argument again. Throws TypeError, ValueError as Object::as() does.
template <class T>
T from_argument(const Object& value) {
  if constexpr (ObjectValue<T>) {
    return value.as<T>();
  } else {
    const CarriedValue* const carried = find_carried(value);
    const void* const found = carried != nullptr ? carried->find(wire::type_hash<T>()) : nullptr;
    if (found == nullptr) throw_not_carried(value, wire::type_name<T>());
    return *static_cast<const T*>(found);
  }
}

/// What a method gave back: a shared_ptr stays in the server, to become a shared object there.
class ServerThing final : public CarriedValue {
 public:
  explicit ServerThing(std::shared_ptr<void> of) : object(std::move(of)) {}
  const std::shared_ptr<void> object;

  [[nodiscard]] const void* find(std::uint64_t type) const noexcept override;
  [[nodiscard]] std::string_view type_name() const noexcept override;
  void encode(wire::Writer& out) const override;
  [[nodiscard]] FunctionId decoder() const override;
};

template <class R>
Object to_result(R&& result) {
  using V = std::remove_cvref_t<R>;
  if constexpr (requires {
                  typename V::element_type;
                  result.use_count();
                }) {
    return Object(CarriedHandle{std::make_shared<ServerThing>(
        std::const_pointer_cast<std::remove_const_t<typename V::element_type>>(
            std::forward<R>(result)))});
  } else {
    return to_argument(std::forward<R>(result));
  }
}

}  // namespace millrace::runtime
