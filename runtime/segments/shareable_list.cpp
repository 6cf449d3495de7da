// ShareableList: CPython 3.11's bytes, and behind them what CPython does not read.
//
//   q N | (N+1) q offsets into the data | data | N 8s formats | N i8 codes | [8] q magic, N notes
//
// int "q", float "d", bool "xxxxxxx?", None "xxxxxx?x": 8 bytes; str and bytes "<room>s", NULs to
// the end, which CPython strips when it reads. A note says how long a value with NULs at its end
// is, and holds a hash of the slot's bytes and code: once CPython has written the slot the note no
// longer fits and is ignored (unless it wrote the very same bytes).
//
// All that is read may be damaged or half written by others: numbers are checked before use.
#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>
#include <millrace/errors.hpp>
#include <millrace/shared_memory.hpp>
#include <ostream>
#include <string_view>

#include "runtime/base/utf8.hpp"

namespace millrace {
namespace {

static_assert(std::endian::native == std::endian::little, "as CPython's files of this machine");

constexpr std::size_t kWord = 8;
constexpr std::size_t kMostRoom = 9'999'992;  // "9999992s" fills the 8 bytes of a format
constexpr std::uint64_t kNotesMagic = 0x736c756e2d72696d;  // "mir-nuls"
enum Code : unsigned char { kNumber, kText, kBytes, kNone };

using Bytewise = std::span<std::byte>;

template <class T>
T load(Bytewise memory, std::size_t at) {
  T value;
  std::memcpy(&value, memory.data() + at, sizeof value);
  return value;
}
template <class T>
void store(Bytewise memory, std::size_t at, const T& value) {
  std::memcpy(memory.data() + at, &value, sizeof value);
}

// How one value is laid out.
struct Form {
  std::string format;
  std::size_t room = kWord;
  Code code = kNumber;
  std::string bytes;  // what fills the room, without NULs at its end
};

std::string scalar(const void* value, std::size_t bytes, std::size_t at) {
  std::string slot(kWord, '\0');
  std::memcpy(slot.data() + at, value, bytes);
  return slot;
}

Form form_of(const Object& value) {
  Form form;
  if (value.is_none()) return {"xxxxxx?x", kWord, kNone, std::string(kWord, '\0')};
  if (value.is<bool>()) {
    const char set = value.as<bool>() ? 1 : 0;
    return {"xxxxxxx?", kWord, kNumber, scalar(&set, 1, kWord - 1)};
  }
  if (value.is<std::int64_t>()) {
    const auto number = value.as<std::int64_t>();
    return {"q", kWord, kNumber, scalar(&number, kWord, 0)};
  }
  if (value.is<double>()) {
    const auto number = value.as<double>();
    return {"d", kWord, kNumber, scalar(&number, kWord, 0)};
  }
  std::size_t units = 0;
  if (value.is<std::string>()) {
    form.bytes = value.as<std::string>();
    form.code = kText;
    units = runtime::count_code_points(form.bytes);
  } else if (value.is<Bytes>()) {
    form.bytes = std::string(value.as<Bytes>().view());
    form.code = kBytes;
    units = form.bytes.size();
  } else {
    throw TypeError("a ShareableList holds int, float, bool, str, bytes and None, not " +
                    value.type_name());
  }
  // CPython counts code points; where the bytes do not fit it cuts them off.
  form.room = kWord * (units / kWord + 1);
  if (form.room < form.bytes.size()) form.room = kWord * (form.bytes.size() / kWord + 1);
  if (form.room > kMostRoom) {
    throw ValueError("item of " + std::to_string(form.bytes.size()) +
                     " bytes: a ShareableList holds up to 9999991");
  }
  form.format = std::to_string(form.room) + "s";
  return form;
}

constexpr std::size_t up(std::size_t bytes) { return (bytes + kWord - 1) / kWord * kWord; }

[[noreturn]] void throw_damaged(const SharedMemory& memory, const std::string& what) {
  throw Corrupt("shared memory '" + memory.name() + "' holds no ShareableList: " + what);
}

// Where things lie in a list's segment. Read anew for each access, and checked.
class Layout {
 public:
  explicit Layout(const SharedMemory& memory) : bytes_(memory.buf()), memory_(memory) {
    if (bytes_.size() < 2 * kWord) throw_damaged(memory, "too short");
    const auto count = load<std::uint64_t>(bytes_, 0);
    // An item takes at least an offset, 8 bytes of data, a format and a code.
    if (count > bytes_.size() / (3 * kWord)) throw_damaged(memory, "too many items");
    count_ = static_cast<std::size_t>(count);
    data_ = (count_ + 2) * kWord;
    if (data_ > bytes_.size()) throw_damaged(memory, "too many items");
    const std::size_t data_bytes = offset(count_);
    if (data_bytes > bytes_.size() || bytes_.size() - data_ < data_bytes ||
        bytes_.size() - data_ - data_bytes < count_ * (kWord + 1)) {
      throw_damaged(memory, "offsets");
    }
    formats_ = data_ + data_bytes;
    codes_ = formats_ + count_ * kWord;
    notes_ = up(codes_ + count_);
    has_notes_ = notes_ + kWord + count_ * 2 * kWord <= bytes_.size() &&
                 load<std::uint64_t>(bytes_, notes_) == kNotesMagic;
  }

  // The bytes of a segment for these items.
  static std::size_t bytes_for(std::span<const Form> items) {
    std::size_t bytes = (items.size() + 2) * kWord + items.size() * (kWord + 1);
    for (const Form& each : items) bytes += each.room;
    return items.empty() ? bytes : up(bytes) + kWord + items.size() * 2 * kWord;
  }

  [[nodiscard]] std::size_t count() const { return count_; }

  [[nodiscard]] Bytewise slot(std::size_t i) const {
    const std::size_t begin = offset(i);
    const std::size_t end = offset(i + 1);
    if (begin > end || end > formats_ - data_ || end - begin < kWord) {
      throw_damaged(memory_, "offsets");
    }
    return bytes_.subspan(data_ + begin, end - begin);
  }

  [[nodiscard]] std::string format(std::size_t i) const {
    std::array<char, kWord> text{};
    std::memcpy(text.data(), bytes_.data() + formats_ + i * kWord, kWord);
    std::size_t length = text.size();
    while (length > 0 && text[length - 1] == 0) --length;
    return {text.data(), length};
  }

  [[nodiscard]] Code code(std::size_t i) const {
    const auto code = load<unsigned char>(bytes_, codes_ + i);
    if (code > kNone) throw_damaged(memory_, "code " + std::to_string(code));
    return static_cast<Code>(code);
  }

  void write(std::size_t i, const Form& form) const;
  [[nodiscard]] std::string_view value(std::size_t i, std::size_t room) const;

 private:
  [[nodiscard]] std::size_t offset(std::size_t i) const {
    return static_cast<std::size_t>(load<std::uint64_t>(bytes_, (1 + i) * kWord));
  }
  [[nodiscard]] std::uint64_t hash(std::size_t i) const;

  Bytewise bytes_;
  const SharedMemory& memory_;
  std::size_t count_ = 0;
  std::size_t data_ = 0;
  std::size_t formats_ = 0;
  std::size_t codes_ = 0;
  std::size_t notes_ = 0;
  bool has_notes_ = false;
};

std::uint64_t Layout::hash(std::size_t i) const {
  std::uint64_t hash = 0xcbf29ce484222325 ^ load<unsigned char>(bytes_, codes_ + i);
  for (const std::byte each : slot(i)) {
    hash = (hash ^ static_cast<unsigned char>(each)) * 0x100000001b3;
  }
  return hash | 1;  // 0 is no note
}

// The order does not matter to a reader that comes in between: it checks all it reads.
void Layout::write(std::size_t i, const Form& form) const {
  const Bytewise slot = this->slot(i);
  std::array<char, kWord> format{};
  form.format.copy(format.data(), format.size());
  std::memcpy(bytes_.data() + formats_ + i * kWord, format.data(), format.size());
  store(bytes_, codes_ + i, static_cast<unsigned char>(form.code));
  std::memcpy(slot.data(), form.bytes.data(), form.bytes.size());
  const bool run = form.code == kText || form.code == kBytes;
  if (run) std::memset(slot.data() + form.bytes.size(), 0, slot.size() - form.bytes.size());
  if (!has_notes_) return;
  const bool noted = run && !form.bytes.empty() && form.bytes.back() == '\0';
  const std::size_t note = notes_ + kWord + i * 2 * kWord;
  store(bytes_, note, std::uint64_t{noted ? form.bytes.size() : 0});
  store(bytes_, note + kWord, noted ? hash(i) : std::uint64_t{0});
}

// The bytes of a str or bytes.
std::string_view Layout::value(std::size_t i, std::size_t room) const {
  const Bytewise slot = this->slot(i);
  const std::string_view all(reinterpret_cast<const char*>(slot.data()),
                             std::min(slot.size(), room));
  const std::size_t stripped = all.find_last_not_of('\0') + 1;
  if (has_notes_) {
    const std::size_t note = notes_ + kWord + i * 2 * kWord;
    const auto length = load<std::uint64_t>(bytes_, note);
    const auto noted = load<std::uint64_t>(bytes_, note + kWord);
    if (noted != 0 && length > stripped && length <= all.size() && noted == hash(i)) {
      return all.substr(0, length);
    }
  }
  return all.substr(0, stripped);
}

std::size_t room_in(const std::string& format, const SharedMemory& memory) {
  std::size_t room = 0;
  const char* const end = format.data() + format.size() - (format.empty() ? 0 : 1);
  const auto read = std::from_chars(format.data(), end, room);
  if (format.empty() || format.back() != 's' || read.ec != std::errc() || read.ptr != end) {
    throw_damaged(memory, "format '" + format + "'");
  }
  return room;
}

std::size_t place(const Layout& layout, std::ptrdiff_t index) {
  const std::size_t at =
      static_cast<std::size_t>(index) + (index < 0 ? layout.count() : std::size_t{0});
  if (at < layout.count()) return at;
  throw IndexError("index " + std::to_string(index) + " in a ShareableList of " +
                   std::to_string(layout.count()));
}

Object read(const Layout& layout, std::size_t i, const SharedMemory& memory) {
  const Code code = layout.code(i);
  if (code == kNone) return None;
  const std::string format = layout.format(i);
  if (code == kNumber) {
    const Bytewise slot = layout.slot(i);
    if (format == "q") return load<std::int64_t>(slot, 0);
    if (format == "d") return load<double>(slot, 0);
    if (format == "xxxxxxx?") return load<char>(slot, kWord - 1) != 0;
    throw_damaged(memory, "format '" + format + "'");
  }
  const std::string bytes(layout.value(i, room_in(format, memory)));
  if (code == kBytes) return Bytes(bytes);
  if (!runtime::is_utf8(bytes)) {
    throw ValueError("item " + std::to_string(i) + " of shared memory '" + memory.name() +
                     "' is no UTF-8");
  }
  return bytes;
}

std::vector<Form> forms_of(std::span<const Object> items) {
  std::vector<Form> forms;
  forms.reserve(items.size());
  for (const Object& each : items) forms.push_back(form_of(each));
  return forms;
}

SharedMemory make_list(std::span<const Object> items, const ShareableListOptions& options) {
  const std::vector<Form> forms = forms_of(items);
  const SharedMemory memory(
      {.name = options.name, .create = true, .size = Layout::bytes_for(forms)});
  const Bytewise bytes = memory.buf();
  store(bytes, 0, std::uint64_t{forms.size()});
  std::uint64_t offset = 0;
  std::size_t at = kWord;
  for (const Form& each : forms) {
    store(bytes, at, offset);
    offset += each.room;
    at += kWord;
  }
  store(bytes, at, offset);
  if (!forms.empty()) {
    store(bytes, up(at + kWord + offset + forms.size() * (kWord + 1)), kNotesMagic);
  }
  const Layout layout(memory);
  for (std::size_t i = 0; i < forms.size(); ++i) layout.write(i, forms[i]);
  return memory;
}

}  // namespace

ShareableList::ShareableList(SharedMemory memory) : memory_(std::move(memory)) {}

ShareableList::ShareableList(std::initializer_list<Object> items,
                             const ShareableListOptions& options)
    : memory_(make_list({items.begin(), items.size()}, options)) {}

ShareableList::ShareableList(const Items& items, const ShareableListOptions& options)
    : memory_(make_list(items.all, options)) {}

ShareableList::Items ShareableList::elements_of(const Object& items) {
  Items found;
  for (const Object& each : items) found.all.push_back(each);
  return found;
}

ShareableList ShareableList::attach(const std::string& name) {
  // Not in braces: those would make a list of one item.
  ShareableList list(SharedMemory(SharedMemoryOptions{.name = name}));
  const Layout checked(list.memory_);
  return list;
}

ShareableList::Element ShareableList::operator[](std::ptrdiff_t index) const {
  return {*this, static_cast<std::ptrdiff_t>(place(Layout(memory_), index))};
}

std::size_t ShareableList::size() const { return Layout(memory_).count(); }

Object ShareableList::get(std::ptrdiff_t index) const {
  const Layout layout(memory_);
  return read(layout, place(layout, index), memory_);
}

void ShareableList::set(std::ptrdiff_t index, const Object& value) const {
  const Layout layout(memory_);
  const std::size_t at = place(layout, index);
  Form form = form_of(value);
  if (form.code == kText || form.code == kBytes) {
    const std::size_t room = layout.slot(at).size();
    if (form.bytes.size() > room) {
      throw ValueError(
          "bytes/str item exceeds available storage: " + std::to_string(form.bytes.size()) +
          " bytes, " + std::to_string(room) + " in item " + std::to_string(at));
    }
    form.format = std::to_string(room) + "s";
  }
  layout.write(at, form);
}

std::size_t ShareableList::count(const Object& value) const {
  const Layout layout(memory_);
  std::size_t equal = 0;
  for (std::size_t i = 0; i < layout.count(); ++i) {
    if (read(layout, i, memory_) == value) ++equal;
  }
  return equal;
}

std::size_t ShareableList::index(const Object& value) const {
  const Layout layout(memory_);
  for (std::size_t i = 0; i < layout.count(); ++i) {
    if (read(layout, i, memory_) == value) return i;
  }
  throw ValueError(value.repr() + " not in this container");
}

std::string ShareableList::format() const {
  const Layout layout(memory_);
  std::string all;
  for (std::size_t i = 0; i < layout.count(); ++i) all += layout.format(i);
  return all;
}

std::string ShareableList::repr() const {
  const Layout layout(memory_);
  std::string text = "ShareableList([";
  for (std::size_t i = 0; i < layout.count(); ++i) {
    text += (i == 0 ? "" : ", ") + read(layout, i, memory_).repr();
  }
  text += "], name=";
  runtime::put_text_repr(text, memory_.name());
  return text + ")";
}

std::ostream& operator<<(std::ostream& out, const ShareableList& list) {
  return out << list.repr();
}

}  // namespace millrace
