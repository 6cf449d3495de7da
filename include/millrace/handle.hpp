// Handles: objects in shared memory that live as long as anybody refers to them.
//
// A handle is exactly one pointer, to the object's payload. Where a handle lies says who holds the
// object: a handle in a process's own memory counts for that process, and when the process ends,
// however it ends, its references are dropped. A handle in shared memory (inside a callable's copy,
// a shared container, a message) counts for nobody in particular: any process may make it, move
// from it or destroy it, and it outlives its maker. fork() gives the child the references that its
// copy of the parent's memory contains.
#pragma once

#include <cstddef>
#include <cstdint>
#include <millrace/placement.hpp>
#include <millrace/type_key.hpp>

namespace millrace::shm {

struct ObjectRecord;

/// What lies in front of an object's payload. Written before the object is shared, then constant.
struct alignas(64) ObjectPrefix {
  std::uint64_t magic;
  ObjectRecord* record;
  std::uint64_t type;      // of the handle, checked when one arrives
  std::uint64_t elements;  // as the handle's type defines it
  std::uint64_t links;     // the payload begins with so many ObjectRefs, dropped with the object
};
static_assert(sizeof(ObjectPrefix) == 64);

/// The prefix of an object that the caller refers to.
inline const ObjectPrefix& prefix_of(const void* payload) noexcept {
  return *(static_cast<const ObjectPrefix*>(payload) - 1);
}

/// A number that stands for a type in the prefix of its objects.
template <class T>
std::uint64_t object_type() noexcept {
  return wire::type_hash<T>();
}

struct ObjectRequest {
  std::size_t bytes = 0;
  std::uint64_t type = 0;
  std::uint64_t elements = 0;
  Placement placement{};
  std::uint64_t links = 0;
};

/// Makes an object of zero bytes and returns its payload, aligned to 64 bytes, referred to once, by
/// the handle at `holder`. Throws std::system_error (ENOMEM) naming the request, ValueError for a
/// node that is not there.
void* create_object(const ObjectRequest& request, const void* holder);
/// One reference more, by a handle at `holder`; somebody refers to the object meanwhile. Throws
/// Corrupt when `payload` is no object, std::system_error when there is no memory to count it.
void retain_object(void* payload, const void* holder);
/// One reference less, by a handle at `holder`; the last one anywhere frees the object.
void release_object(void* payload, const void* holder) noexcept;
/// The reference moves from a handle at `from` to one at `to`.
void move_object(void* payload, const void* from, const void* to) noexcept;
/// A reference goes into a message, whose bytes are no handle: it is held by the message.
void depart_object(void* payload);
/// The message is thrown away.
void drop_departed_object(void* payload) noexcept;
/// What a message says becomes a reference by a handle at `holder`; the message's own is dropped
/// if `take`. Throws Corrupt when `address` is not that of a live object of `type`.
void* arrive_object(std::uint64_t address, std::uint64_t type, const void* holder, bool take);

/// The one pointer of a handle, counted.
class ObjectRef {
 public:
  ObjectRef() noexcept = default;
  explicit ObjectRef(const ObjectRequest& request) { payload_ = create_object(request, this); }
  ObjectRef(std::uint64_t address, std::uint64_t type, bool take) {
    payload_ = arrive_object(address, type, this, take);
  }
  ObjectRef(const ObjectRef& other) : payload_(other.payload_) {
    if (payload_ != nullptr) retain_object(payload_, this);
  }
  ObjectRef(ObjectRef&& other) noexcept : payload_(other.payload_) {
    if (payload_ != nullptr) move_object(payload_, &other, this);
    other.payload_ = nullptr;
  }
  ObjectRef& operator=(const ObjectRef& other) {
    if (payload_ == other.payload_) return *this;
    if (other.payload_ != nullptr) retain_object(other.payload_, this);
    reset();
    payload_ = other.payload_;
    return *this;
  }
  ObjectRef& operator=(ObjectRef&& other) noexcept {
    if (this == &other) return *this;
    reset();
    if (other.payload_ != nullptr) move_object(other.payload_, &other, this);
    payload_ = other.payload_;
    other.payload_ = nullptr;
    return *this;
  }
  ~ObjectRef() { reset(); }

  [[nodiscard]] void* payload() const noexcept { return payload_; }

 private:
  void reset() noexcept {
    if (payload_ != nullptr) release_object(payload_, this);
    payload_ = nullptr;
  }

  void* payload_ = nullptr;
};
static_assert(sizeof(ObjectRef) == sizeof(void*));

}  // namespace millrace::shm
