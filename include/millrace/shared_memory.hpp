// Named shared memory that CPython's programs open too. Python: multiprocessing.shared_memory.
//
// A segment is a file of /dev/shm with CPython's name and bytes; either side opens the other's. A
// SharedMemory is a handle: copies refer to the same segment, and wherever one travels the segment
// is mapped again by its name, though only while that name still means this segment.
//
// What happens when a process dies between any two steps: a segment gets its name only when it is
// complete and, unless `.track` is false, noted in shared memory that the program's resource
// tracker watches (runtime/segments/resource_tracker.hpp): after the last process of the program
// has ended, however it ended, the tracker unlinks what is noted. Segments that were merely opened
// are never noted.
#pragma once

#include <sys/types.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iosfwd>
#include <limits>
#include <millrace/object.hpp>
#include <millrace/shared_handle.hpp>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace {

/// A number of bytes as the user gives it: of any integer type, negative ones are refused later.
class SegmentSize {
 public:
  template <std::integral T>
  constexpr SegmentSize(T bytes) noexcept  // NOLINT(google-explicit-constructor): a number
      : bytes_(std::in_range<std::int64_t>(bytes) ? static_cast<std::int64_t>(bytes)
                                                  : std::numeric_limits<std::int64_t>::max()) {}
  [[nodiscard]] constexpr std::int64_t bytes() const noexcept { return bytes_; }

 private:
  std::int64_t bytes_;
};

/// Keyword arguments of SharedMemory.
struct SharedMemoryOptions {
  std::optional<std::string> name{};  ///< none: a new one, "psm_" and 8 hexadecimal digits
  bool create = false;                ///< false: open one that exists
  SegmentSize size = 0;               ///< bytes, of a new segment
  bool track = true;                  ///< false: a new segment outlives the program
};

/// A handle to a named segment. Any thread may call anything; close() must not meet the use of a
/// span. Python: multiprocessing.shared_memory.SharedMemory, H01-H07.
class SharedMemory : public shm::SharedHandle {
 public:
  using SharedType = SharedMemory;

  /// Makes a segment of `size` zero bytes, mode 0600, all of it backed by memory, or opens one,
  /// whose size is then what it is. Throws ValueError for a negative size, for a new segment
  /// without size, for opening without a name, and for opening an empty file; std::system_error
  /// naming the segment: EEXIST, ENOENT, ENOSPC when /dev/shm is full. Python: H01.
  explicit SharedMemory(const SharedMemoryOptions& options);
  /// For the library: a reference that arrived. Opens the segment; throws std::system_error
  /// (ENOENT) when its name is gone or means another segment. Python: H07.
  SharedMemory(shm::Existing, shm::ObjectRef object);
  SharedMemory(const SharedMemory& other);
  SharedMemory(SharedMemory&& other) noexcept;
  SharedMemory& operator=(const SharedMemory& other);
  SharedMemory& operator=(SharedMemory&& other) noexcept;
  /// The last handle of a process closes the segment there.
  ~SharedMemory();

  /// The segment's memory as elements, as many as fit. Valid until close() or until this process's
  /// last handle goes. Throws ValueError after close(), std::system_error when the segment had not
  /// been opened here and cannot be any more. Python: H02.
  template <class T = std::byte>
  [[nodiscard]] std::span<T> buf() const {
    static_assert(std::is_trivially_copyable_v<T>, "millrace: only plain bytes are shared");
    const std::span<std::byte> bytes = memory();
    return {reinterpret_cast<T*>(bytes.data()), bytes.size() / sizeof(T)};
  }
  /// Without a leading slash; also after close(). Python: H03.
  [[nodiscard]] std::string name() const;
  /// Bytes; also after close(). Python: H04.
  [[nodiscard]] std::size_t size() const;
  /// Unmaps the segment for all handles of this process; idempotent. A handle that arrives later
  /// opens it again. Python: H05, where exported views are an error.
  void close() const;
  /// Takes the name away; the memory lasts until the last process has closed it. Throws
  /// std::system_error (ENOENT) when the name is gone or means another segment. Python: H06.
  void unlink() const;
  /// "SharedMemory('psm_0123abcd', size=100)".
  [[nodiscard]] std::string repr() const;

 private:
  [[nodiscard]] std::span<std::byte> memory() const;
};

/// Keyword arguments of ShareableList.
struct ShareableListOptions {
  std::optional<std::string> name{};
};

/// A list of fixed length in a segment, its bytes laid out as CPython does: items are int, float,
/// bool, str, bytes and None. A handle. Items have no lock: who writes one while another reads it
/// may be read half done, as a wrong value or ValueError. Python: ShareableList, H08-H16.
///
/// **Beyond Python**: NULs at the end of str and bytes stay (CPython sees them stripped), and text
/// that is not ASCII gets the room that its bytes need.
class ShareableList {
 public:
  /// One item: reading and writing it read and write the segment. Lives no longer than its list.
  class Element {
   public:
    Element(const Element&) = default;
    operator Object() const { return value(); }  // NOLINT(google-explicit-constructor)
    // Assigns the value, const: the list is a handle.
    const Element& operator=(const Element& other) const {
      list_->set(at_, other.value());
      return *this;
    }
    Element& operator=(const Element& other) {
      std::as_const(*this) = other;
      return *this;
    }
    /// Its type may change. Throws TypeError for a type that cannot be shared, ValueError for text
    /// or bytes longer than its room. Python: H10.
    const Element& operator=(const Object& value) const {
      list_->set(at_, value);
      return *this;
    }
    ~Element() = default;

    template <class T>
    [[nodiscard]] T as() const {
      return value().as<T>();
    }
    template <class T>
    [[nodiscard]] bool is() const {
      return value().is<T>();
    }
    [[nodiscard]] bool is_none() const { return value().is_none(); }
    [[nodiscard]] std::string repr() const { return value().repr(); }
    friend bool operator==(const Element& a, const Object& b) { return a.value() == b; }
    friend std::ostream& operator<<(std::ostream& out, const Element& element) {
      return out << element.value();
    }

   private:
    friend class ShareableList;
    Element(const ShareableList& list, std::ptrdiff_t at) : list_(&list), at_(at) {}
    [[nodiscard]] Object value() const { return list_->get(at_); }
    const ShareableList* list_;
    std::ptrdiff_t at_;
  };

  /// A new segment, tracked, holding these items. Throws as SharedMemory does; TypeError for an
  /// item that cannot be shared, ValueError for one of more than 9,999,991 bytes. Python: H08.
  explicit ShareableList(std::initializer_list<Object> items,
                         const ShareableListOptions& options = {});
  /// The same, from whatever Python iterates over.
  template <class T>
  requires(!std::same_as<std::remove_cvref_t<T>, ShareableList>) &&
      ObjectValue<T> explicit ShareableList(T&& items, const ShareableListOptions& options = {})
      : ShareableList(elements_of(Object(std::forward<T>(items))), options) {}
  /// Opens a list by its segment's name, CPython's too. Throws std::system_error (ENOENT),
  /// Corrupt when the segment holds no list. Python: ShareableList(name=...).
  [[nodiscard]] static ShareableList attach(const std::string& name);

  /// Item `index`, from the end if negative. Throws IndexError. Python: H09.
  [[nodiscard]] Element operator[](std::ptrdiff_t index) const;
  /// How many items there are. Python: H11.
  [[nodiscard]] std::size_t size() const;
  /// How many items equal `value`. Python: H12.
  [[nodiscard]] std::size_t count(const Object& value) const;
  /// The first item that equals `value`; ValueError when there is none. Python: H13.
  [[nodiscard]] std::size_t index(const Object& value) const;
  /// The items' formats as CPython's struct has them: "8sdqxxxxxx?x". Python: H14.
  [[nodiscard]] std::string format() const;
  /// The segment. Python: H15.
  [[nodiscard]] const SharedMemory& shm() const noexcept { return memory_; }
  /// "ShareableList([1, 'a'], name='psm_0123abcd')".
  [[nodiscard]] std::string repr() const;

  friend bool operator==(const ShareableList& a, const ShareableList& b) noexcept {
    return a.memory_ == b.memory_;
  }

 private:
  friend struct wire::Custom<ShareableList>;
  explicit ShareableList(SharedMemory memory);
  struct Items {
    std::vector<Object> all;
  };
  ShareableList(const Items& items, const ShareableListOptions& options);
  static Items elements_of(const Object& items);

  [[nodiscard]] Object get(std::ptrdiff_t index) const;
  void set(std::ptrdiff_t index, const Object& value) const;

  SharedMemory memory_;
};

/// Writes repr().
std::ostream& operator<<(std::ostream& out, const ShareableList& list);

/// Segments that end together. Move-only; destroying it is shutdown(). It needs no server: the
/// program's resource tracker does what Python's does when the program dies. Python:
/// multiprocessing.managers.SharedMemoryManager, H17-H20.
class SharedMemoryManager {
 public:
  SharedMemoryManager() = default;
  SharedMemoryManager(SharedMemoryManager&& other) noexcept;
  SharedMemoryManager& operator=(SharedMemoryManager&& other) noexcept;
  SharedMemoryManager(const SharedMemoryManager&) = delete;
  SharedMemoryManager& operator=(const SharedMemoryManager&) = delete;
  ~SharedMemoryManager();

  /// Throws ProcessError when it was started before.
  void start();
  /// A new segment of `size` bytes. Throws ValueError unless started; else as SharedMemory. Not to
  /// be called by two threads at once.
  [[nodiscard]] millrace::SharedMemory SharedMemory(SegmentSize size);
  /// A new list. Throws ValueError unless started; else as ShareableList.
  [[nodiscard]] millrace::ShareableList ShareableList(std::initializer_list<Object> items);
  template <class T>
  requires(!std::same_as<std::remove_cvref_t<T>, millrace::ShareableList>) &&
      ObjectValue<T> [[nodiscard]] millrace::ShareableList ShareableList(T&& items) {
    return keep([&] { return millrace::ShareableList(std::forward<T>(items)); });
  }
  /// Unlinks every segment made through it that still has its name. Idempotent.
  void shutdown() noexcept;

 private:
  enum class State { initial, started, shut_down };
  void check_started() const;
  // Refuses before it makes; what is made is remembered.
  template <class Make>
  millrace::ShareableList keep(Make make) {
    check_started();
    segments_.reserve(segments_.size() + 1);
    millrace::ShareableList made = make();
    segments_.push_back(made.shm());
    return made;
  }

  State state_ = State::initial;
  pid_t owner_ = 0;  // a forked child's copy leaves the segments alone
  std::vector<millrace::SharedMemory> segments_;
};

namespace wire {

template <>
struct Custom<ShareableList> {
  static void encode(Writer& out, const ShareableList& list) {
    Custom<SharedMemory>::encode(out, list.memory_);
  }
  static ShareableList decode(Reader& in) {
    return ShareableList(Custom<SharedMemory>::decode(in));
  }
};

}  // namespace wire
}  // namespace millrace
