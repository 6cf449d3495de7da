// The archives that a type's own serialize(), or save() and load(), is called with. They take what
// cereal's take - archive(a, b), archive & a, archive << a, archive >> a - so that a type written
// for cereal needs no cereal here.
#pragma once

#include <millrace/wire/codecs.hpp>
#include <type_traits>
#include <utility>

namespace millrace::wire {

/// Specialised by <millrace/cereal.hpp> for what is passed to an archive without being a value:
/// `static void apply(Archive&, const T&)`.
template <class T>
struct Adapter {};

/// What save(), and serialize() on the sender's side, writes to. Python: pickle's __reduce__.
class OutputArchive {
 public:
  using is_saving = std::true_type;
  using is_loading = std::false_type;

  explicit OutputArchive(Writer& out) noexcept : out_(out) {}

  template <class... T>
  OutputArchive& operator()(const T&... values) {
    (put(values), ...);
    return *this;
  }
  template <class T>
  OutputArchive& operator&(const T& value) {
    put(value);
    return *this;
  }
  template <class T>
  OutputArchive& operator<<(const T& value) {
    put(value);
    return *this;
  }
  [[nodiscard]] Writer& writer() noexcept { return out_; }

 private:
  template <class T>
  void put(const T& value) {
    if constexpr (requires { Adapter<T>::apply(*this, value); }) {
      Adapter<T>::apply(*this, value);
    } else {
      put_value(out_, value);
    }
  }

  Writer& out_;
};

/// What load(), and serialize() on the receiver's side, reads from.
class InputArchive {
 public:
  using is_saving = std::false_type;
  using is_loading = std::true_type;

  explicit InputArchive(Reader& in) noexcept : in_(in) {}

  template <class... T>
  InputArchive& operator()(T&&... values) {
    (take(values), ...);
    return *this;
  }
  template <class T>
  InputArchive& operator&(T&& value) {
    take(value);
    return *this;
  }
  template <class T>
  InputArchive& operator>>(T&& value) {
    take(value);
    return *this;
  }
  [[nodiscard]] Reader& reader() noexcept { return in_; }

 private:
  template <class T>
  void take(T& value) {
    if constexpr (requires { Adapter<std::remove_const_t<T>>::apply(*this, value); }) {
      Adapter<std::remove_const_t<T>>::apply(*this, value);
    } else {
      take_into(in_, value);
    }
  }

  Reader& in_;
};

/// Calls a type's own function for the sender's side.
template <class T>
void save_archived(OutputArchive& archive, const T& value) {
  auto& object = const_cast<T&>(value);  // serialize() is one function for both directions
  if constexpr (MemberSaveLoad<T>) {
    value.save(archive);
  } else if constexpr (MemberSerialize<T>) {
    object.serialize(archive);
  } else if constexpr (FreeSaveLoad<T>) {
    save(archive, value);
  } else {
    serialize(archive, object);
  }
}

/// Calls a type's own function for the receiver's side.
template <class T>
void load_archived(InputArchive& archive, T& value) {
  if constexpr (MemberSaveLoad<T>) {
    value.load(archive);
  } else if constexpr (MemberSerialize<T>) {
    value.serialize(archive);
  } else if constexpr (FreeSaveLoad<T>) {
    load(archive, value);
  } else {
    serialize(archive, value);
  }
}

template <class T>
struct Codec<T, Kind::archived> {
  static void encode(Writer& out, const T& value) {
    const Nesting level(out);
    OutputArchive archive(out);
    save_archived(archive, value);
  }
  static void decode_into(Reader& in, T& value) {
    const Nesting level(in);
    InputArchive archive(in);
    load_archived(archive, value);
  }
  static T decode(Reader& in) {
    T value{};
    decode_into(in, value);
    return value;
  }
};

}  // namespace millrace::wire
