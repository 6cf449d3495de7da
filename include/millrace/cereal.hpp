// Types that only cereal knows how to serialise travel too: std::shared_ptr (what it is shared with
// inside one value stays shared), polymorphic types registered with CEREAL_REGISTER_TYPE,
// private serialize() with cereal::access, versioned classes; and in any serialize(): CEREAL_NVP,
// cereal::base_class, cereal::binary_data. Include it before CEREAL_REGISTER_TYPE, and in every
// file that sends such a type. cereal's headers have to be installed.
#pragma once

#include <cereal/archives/binary.hpp>
#include <cereal/cereal.hpp>
#include <cereal/types/array.hpp>
#include <cereal/types/base_class.hpp>
#include <cereal/types/bitset.hpp>
#include <cereal/types/chrono.hpp>
#include <cereal/types/complex.hpp>
#include <cereal/types/deque.hpp>
#include <cereal/types/list.hpp>
#include <cereal/types/map.hpp>
#include <cereal/types/memory.hpp>
#include <cereal/types/optional.hpp>
#include <cereal/types/polymorphic.hpp>
#include <cereal/types/queue.hpp>
#include <cereal/types/set.hpp>
#include <cereal/types/stack.hpp>
#include <cereal/types/string.hpp>
#include <cereal/types/tuple.hpp>
#include <cereal/types/unordered_map.hpp>
#include <cereal/types/unordered_set.hpp>
#include <cereal/types/utility.hpp>
#include <cereal/types/valarray.hpp>
#include <cereal/types/variant.hpp>
#include <cereal/types/vector.hpp>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <millrace/serialize.hpp>
#include <type_traits>

// A namespace of its own: the functions below must not be found for the library's own archives.
namespace millrace::wire::with_cereal {

/// cereal's binary archive, into a message.
class CerealOutput : public cereal::OutputArchive<CerealOutput, cereal::AllowEmptyClassElision> {
 public:
  explicit CerealOutput(Writer& out)
      : cereal::OutputArchive<CerealOutput, cereal::AllowEmptyClassElision>(this), out_(out) {}
  [[nodiscard]] Writer& writer() noexcept { return out_; }

 private:
  Writer& out_;
};

/// cereal's binary archive, from a message.
class CerealInput : public cereal::InputArchive<CerealInput, cereal::AllowEmptyClassElision> {
 public:
  explicit CerealInput(Reader& in)
      : cereal::InputArchive<CerealInput, cereal::AllowEmptyClassElision>(this), in_(in) {}
  [[nodiscard]] Reader& reader() noexcept { return in_; }

 private:
  Reader& in_;
};

// What travels without cereal and cereal's own archives do not take: handles, plain structs and
// aggregates, function pointers.
template <class T>
concept OnlyOurs = std::is_arithmetic_v<T> ||
    (!cereal::traits::is_output_serializable<T, cereal::BinaryOutputArchive>::value &&
     (native_kind<T>() == Kind::custom || native_kind<T>() == Kind::bytes ||
      native_kind<T>() == Kind::aggregate || native_kind<T>() == Kind::function ||
      native_kind<T>() == Kind::member_function || native_kind<T>() == Kind::opaque));

template <OnlyOurs T>
void CEREAL_SAVE_FUNCTION_NAME(CerealOutput& archive, const T& value) {
  put_value(archive.writer(), value);
}
template <OnlyOurs T>
void CEREAL_LOAD_FUNCTION_NAME(CerealInput& archive, T& value) {
  take_into(archive.reader(), value);
}
template <class T>
void CEREAL_SERIALIZE_FUNCTION_NAME(CerealOutput& archive, cereal::NameValuePair<T>& pair) {
  archive(pair.value);
}
template <class T>
void CEREAL_SERIALIZE_FUNCTION_NAME(CerealInput& archive, cereal::NameValuePair<T>& pair) {
  archive(pair.value);
}
template <class T>
void CEREAL_SERIALIZE_FUNCTION_NAME(CerealOutput& archive, cereal::SizeTag<T>& tag) {
  archive(tag.size);
}
template <class T>
void CEREAL_SERIALIZE_FUNCTION_NAME(CerealInput& archive, cereal::SizeTag<T>& tag) {
  archive(tag.size);
}
template <class T>
void CEREAL_SAVE_FUNCTION_NAME(CerealOutput& archive, const cereal::BinaryData<T>& data) {
  archive.writer().write(data.data, data.size);
}
template <class T>
void CEREAL_LOAD_FUNCTION_NAME(CerealInput& archive, cereal::BinaryData<T>& data) {
  archive.reader().read(data.data, data.size);
}

}  // namespace millrace::wire::with_cereal

namespace millrace::wire {

using with_cereal::CerealInput;
using with_cereal::CerealOutput;

// One cereal archive per value: it remembers which shared pointers it has seen.
struct CerealOutputSession final : Session {
  explicit CerealOutputSession(Writer& out) : archive(out) {}
  CerealOutput archive;
};
struct CerealInputSession final : Session {
  explicit CerealInputSession(Reader& in) : archive(in) {}
  CerealInput archive;
};

template <class T>
requires(!kRefersAway<T> && std::default_initializable<T> &&
         cereal::traits::is_output_serializable<T, CerealOutput>::value &&
         cereal::traits::is_input_serializable<T, CerealInput>::value) struct Foreign<T> {
  static void encode(Writer& out, const T& value) {
    out.session<CerealOutputSession>().archive(value);
  }
  static void decode_into(Reader& in, T& value) { in.session<CerealInputSession>().archive(value); }
};

// What a serialize() that is called with our own archives may pass besides values.

template <class T>
struct Adapter<cereal::NameValuePair<T>> {
  template <class Archive>
  static void apply(Archive& archive, const cereal::NameValuePair<T>& pair) {
    archive(const_cast<std::remove_cvref_t<T>&>(pair.value));
  }
};
template <class T>
struct Adapter<cereal::SizeTag<T>> {
  static void apply(OutputArchive& archive, const cereal::SizeTag<T>& tag) {
    archive(static_cast<std::uint64_t>(tag.size));
  }
  static void apply(InputArchive& archive, cereal::SizeTag<T>& tag) {
    std::uint64_t size = 0;
    archive(size);
    tag.size = static_cast<std::remove_cvref_t<T>>(size);
  }
};
template <class T>
struct Adapter<cereal::BinaryData<T>> {
  static void apply(OutputArchive& archive, const cereal::BinaryData<T>& data) {
    archive.writer().write(data.data, data.size);
  }
  static void apply(InputArchive& archive, const cereal::BinaryData<T>& data) {
    archive.reader().read(data.data, data.size);
  }
};
template <class K, class V>
struct Adapter<cereal::MapItem<K, V>> {
  template <class Archive>
  static void apply(Archive& archive, const cereal::MapItem<K, V>& item) {
    archive(const_cast<std::remove_cvref_t<K>&>(item.key),
            const_cast<std::remove_cvref_t<V>&>(item.value));
  }
};

// A base class may be abstract: it is never decoded on its own.
template <class Base>
struct BaseAdapter {
  static void apply(OutputArchive& archive, const auto& base) {
    if constexpr (Archived<Base>) {
      save_archived(archive, *base.base_ptr);
    } else {
      archive(*base.base_ptr);
    }
  }
  static void apply(InputArchive& archive, const auto& base) {
    if constexpr (Archived<Base>) {
      load_archived(archive, *base.base_ptr);
    } else {
      archive(*base.base_ptr);
    }
  }
};
template <class Base>
struct Adapter<cereal::base_class<Base>> : BaseAdapter<Base> {};
template <class Base>
struct Adapter<cereal::virtual_base_class<Base>> : BaseAdapter<Base> {};

}  // namespace millrace::wire

CEREAL_REGISTER_ARCHIVE(millrace::wire::with_cereal::CerealOutput)
CEREAL_REGISTER_ARCHIVE(millrace::wire::with_cereal::CerealInput)
CEREAL_SETUP_ARCHIVE_TRAITS(millrace::wire::with_cereal::CerealInput,
                            millrace::wire::with_cereal::CerealOutput)
