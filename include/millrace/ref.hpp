// References to what a pool and its calls share within one process: the core, the jobs, what their
// contexts keep. An object is destroyed by whoever drops the last reference, on any thread.
// std::shared_ptr would do the same, but its header alone compiles in a quarter of a second.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace millrace::runtime {

/// What a Ref may refer to. Counts the references to itself; begins with none.
class Counted {
 public:
  Counted() noexcept = default;
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;

  void hold() const noexcept;
  /// Disposes of the object when no other reference is left.
  /// Memory ordering: what was done to the object before any let_go() is seen by dispose().
  void let_go() const noexcept;

 protected:
  virtual ~Counted();
  /// The last reference is gone.
  virtual void dispose() noexcept;

 private:
  mutable std::uint32_t references_ = 0;  // by every holder, atomically
};

/// One reference to a T that derives from Counted, or none.
template <class T>
class Ref {
 public:
  constexpr Ref() noexcept = default;
  constexpr Ref(std::nullptr_t) noexcept {}  // NOLINT(google-explicit-constructor)
  explicit Ref(T* object) noexcept : object_(object) { hold(); }
  Ref(const Ref& other) noexcept : object_(other.object_) { hold(); }
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  template <class U>
  requires std::is_convertible_v<U*, T*> Ref(const Ref<U>& other)
  noexcept  // NOLINT(google-explicit-constructor)
      : object_(other.get()) {
    hold();
  }
  template <class U>
  requires std::is_convertible_v<U*, T*> Ref(Ref<U>&& other)
  noexcept  // NOLINT(google-explicit-constructor)
      : object_(other.detach()) {}
  Ref& operator=(Ref other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() {
    if (object_ != nullptr) object_->let_go();
  }

  void reset() noexcept { *this = Ref(); }
  /// Gives the reference up without dropping it.
  [[nodiscard]] T* detach() noexcept { return std::exchange(object_, nullptr); }
  [[nodiscard]] T* get() const noexcept { return object_; }
  [[nodiscard]] T& operator*() const noexcept { return *object_; }
  [[nodiscard]] T* operator->() const noexcept { return object_; }
  explicit operator bool() const noexcept { return object_ != nullptr; }
  friend bool operator==(const Ref& a, const Ref& b) noexcept { return a.object_ == b.object_; }
  friend bool operator==(const Ref& a, std::nullptr_t) noexcept { return a.object_ == nullptr; }

 private:
  void hold() const noexcept {
    if (object_ != nullptr) object_->hold();
  }

  T* object_ = nullptr;
};

/// A new T and the first reference to it.
template <class T, class... A>
Ref<T> make_ref(A&&... arguments) {
  return Ref<T>(new T(std::forward<A>(arguments)...));
}

}  // namespace millrace::runtime
