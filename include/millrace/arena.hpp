// Memory that all processes of the program see at one address: arrays, and an allocator for
// standard containers. Python: none; the nearest are multiprocessing.shared_memory and RawArray.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <millrace/errors.hpp>
#include <millrace/handle.hpp>
#include <millrace/placement.hpp>
#include <millrace/wire/buffer.hpp>
#include <span>
#include <type_traits>

namespace millrace {

namespace wire {
template <class T>
struct Custom;
}  // namespace wire

struct SharedArrayOptions {
  Placement placement{};
};

namespace shm {
[[noreturn]] void throw_array_too_long(std::size_t elements, std::size_t element_bytes);
[[noreturn]] void throw_bad_index(std::ptrdiff_t index, std::size_t elements);
}  // namespace shm

/// A contiguous array of trivially copyable elements in shared memory: every process of the program
/// sees it at the same address. A handle: a copy refers to the same array, which is freed when no
/// process refers to it any more. Elements are zero at first. Any process may read and write;
/// nothing is locked.
template <class T>
class shared_array {
  static_assert(std::is_trivially_copyable_v<T> && !std::is_const_v<T>,
                "mp::shared_array<T> holds elements that can be copied as bytes: T must be "
                "trivially copyable and not const. For strings and containers use standard "
                "containers with mp::shared_allocator");

 public:
  using value_type = T;
  using size_type = std::size_t;
  using difference_type = std::ptrdiff_t;
  using reference = T&;
  using pointer = T*;
  using iterator = T*;
  using const_iterator = T*;

  /// No array: size 0, data() null.
  shared_array() noexcept = default;
  /// An array of `n` zero elements, aligned to 64 bytes. `n` may be 0. Throws std::system_error
  /// (ENOMEM) naming the request when memory or the node cannot hold it, ValueError for a node that
  /// is not there. Does not block.
  explicit shared_array(std::size_t n, const SharedArrayOptions& options = {})
      : object_(request(n, options.placement)) {}

  /// The first element; null for no array.
  [[nodiscard]] T* data() const noexcept { return static_cast<T*>(object_.payload()); }
  [[nodiscard]] std::size_t size() const noexcept {
    return object_.payload() == nullptr
               ? 0
               : static_cast<std::size_t>(shm::prefix_of(object_.payload()).elements);
  }
  [[nodiscard]] std::size_t size_bytes() const noexcept { return size() * sizeof(T); }
  [[nodiscard]] bool empty() const noexcept { return size() == 0; }
  /// A plain pointer's: not checked.
  [[nodiscard]] T& operator[](std::size_t i) const noexcept { return data()[i]; }
  /// Checked; negative indexes count from the end. Throws IndexError.
  [[nodiscard]] T& at(std::ptrdiff_t i) const {
    const std::size_t n = size();
    const std::size_t k = static_cast<std::size_t>(i) + (i < 0 ? n : 0);
    if (k >= n) shm::throw_bad_index(i, n);
    return data()[k];
  }
  [[nodiscard]] T* begin() const noexcept { return data(); }
  [[nodiscard]] T* end() const noexcept { return data() + size(); }
  [[nodiscard]] std::span<T> span() const noexcept { return {data(), size()}; }

  /// Identity: the same array.
  friend bool operator==(const shared_array& a, const shared_array& b) noexcept {
    return a.object_.payload() == b.object_.payload();
  }

 private:
  friend struct wire::Custom<shared_array>;

  static shm::ObjectRequest request(std::size_t n, const Placement& placement) {
    if (n > std::numeric_limits<std::size_t>::max() / 2 / sizeof(T)) {
      shm::throw_array_too_long(n, sizeof(T));
    }
    return {n * sizeof(T), shm::object_type<T>(), n, placement};
  }

  shm::ObjectRef object_;
};

namespace wire {

/// An array travels as its address; the message holds a reference.
template <class T>
struct Custom<shared_array<T>> {
  static void encode(Writer& out, const shared_array<T>& value) {
    void* payload = value.object_.payload();
    const std::size_t offset = out.size();
    out.put(reinterpret_cast<std::uint64_t>(payload));
    if (payload == nullptr) return;
    shm::depart_object(payload);
    try {
      out.keep(offset, drop);
    } catch (...) {
      shm::drop_departed_object(payload);
      throw;
    }
  }
  static shared_array<T> decode(Reader& in) {
    shared_array<T> value;
    if (const auto address = in.template take<std::uint64_t>()) {
      value.object_ =
          shm::ObjectRef(address, shm::object_type<T>(), in.references() == References::take);
    }
    return value;
  }

 private:
  static void drop(std::byte* place) noexcept {
    void* payload = nullptr;
    std::memcpy(&payload, place, sizeof payload);
    shm::drop_departed_object(payload);
  }
};

}  // namespace wire

namespace shm {
/// Memory of this process's object heap, or of the arena for large requests. Throws
/// std::system_error (ENOMEM) naming the request.
void* heap_allocate(std::size_t bytes, std::size_t alignment);
/// Gives it back, in any process.
void heap_deallocate(void* block) noexcept;
}  // namespace shm

/// Allocates in shared memory, with plain pointers: std and Boost containers made with it can be
/// read by every process through their address. Nothing is locked but the allocator itself; objects
/// stay where they are when the process that allocated them ends, until they are deallocated. A
/// container made before a fork belongs to the parent: the child's copy of it refers to the same
/// elements and must not free them.
template <class T>
class shared_allocator {
 public:
  using value_type = T;
  using is_always_equal = std::true_type;
  using propagate_on_container_move_assignment = std::true_type;
  using propagate_on_container_swap = std::true_type;

  constexpr shared_allocator() noexcept = default;
  template <class U>
  constexpr shared_allocator(const shared_allocator<U>&) noexcept {}  // NOLINT: as std::allocator

  /// Room for `n` objects. Throws std::system_error (ENOMEM) naming the request. May wait for
  /// another thread of this process.
  [[nodiscard]] T* allocate(std::size_t n) {
    if (n > std::numeric_limits<std::size_t>::max() / 2 / sizeof(T)) {
      shm::throw_array_too_long(n, sizeof(T));
    }
    return static_cast<T*>(shm::heap_allocate(n * sizeof(T), alignof(T)));
  }
  void deallocate(T* block, std::size_t) noexcept { shm::heap_deallocate(block); }

  template <class U>
  friend constexpr bool operator==(const shared_allocator&, const shared_allocator<U>&) noexcept {
    return true;
  }
};

}  // namespace millrace
