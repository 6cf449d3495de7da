// What a process will call: a callable with its arguments, stored as the callee will own them.
#pragma once

#include <concepts>
#include <memory>
#include <millrace/callable.hpp>
#include <millrace/function.hpp>
#include <millrace/serialize.hpp>
#include <tuple>
#include <type_traits>
#include <utility>

namespace millrace {

class Process;
struct ProcessOptions;

namespace runtime {

/// Something to call, once or more often.
class Deferred {
 public:
  Deferred() = default;
  Deferred(const Deferred&) = delete;
  Deferred& operator=(const Deferred&) = delete;
  virtual ~Deferred() = default;
  /// Calls it; it can be called again.
  virtual void call() = 0;
  /// Calls it for the last time: what it stores may be moved into the callee.
  virtual void call_last() { call(); }
};

/// What a Process calls. Inherited by fork; sent to processes that do not begin as a copy.
class ProcessTarget : public Deferred {
 public:
  /// Makes a target from what encode() wrote.
  using Decode = std::unique_ptr<ProcessTarget> (*)(wire::Reader&);

  /// Appends the callable and its arguments. Returns the id of their Decode. Throws what their
  /// serialize() throws, TypeError for a callable that holds a private address.
  virtual FunctionId encode(wire::Writer& out) const = 0;
};

/// An argument that can go to another process.
template <class A>
concept SendableArgument = Serializable<wire::travel_t<A>>;

template <class F>
inline constexpr bool kIsProcessOrOptions = std::same_as<std::remove_cvref_t<F>, ProcessOptions> ||
                                            std::derived_from<std::remove_cvref_t<F>, Process>;

/// A callable that can go to another process together with its arguments.
template <class F, class... Args>
concept Target =
    !kIsProcessOrOptions<F> && Sendable<std::decay_t<F>> && (SendableArgument<Args> && ...);

/// What somebody may take for one: the callable is move-only or a std::function, or an argument
/// cannot travel.
template <class F, class... Args>
concept NoTarget = !kIsProcessOrOptions<F> && !Target<F, Args...>;

/// A callable and its arguments, as what the Base is.
template <class Base, class F, class... Args>
class StoredCall : public Base {
 public:
  template <class G, class... As>
  explicit StoredCall(std::in_place_t, G&& f, As&&... args)
      : f_(std::forward<G>(f)), args_(std::forward<As>(args)...) {}
  // Braces: the members are taken in the order in which encode() put them.
  explicit StoredCall(wire::Reader& in)
      : f_(wire::take_callable<F>(in)), args_{wire::decode<Args>(in)...} {}

  void call() override {
    if constexpr ((std::copy_constructible<Args> && ...)) {
      auto own = args_;
      invoke(own);
    } else {
      invoke(args_);
    }
  }
  void call_last() override { invoke(args_); }

 protected:
  [[nodiscard]] const F& function() const noexcept { return f_; }
  [[nodiscard]] const std::tuple<Args...>& arguments() const noexcept { return args_; }

 private:
  // Not inlined: g++ 12 would warn of reading a vtable pointer out of an empty object on the stack.
  [[gnu::noinline]] void invoke(std::tuple<Args...>& args) { (void)wire::call_tuple(f_, args); }

  F f_;
  std::tuple<Args...> args_;
};

template <class F, class... Args>
class StoredTarget final : public StoredCall<ProcessTarget, F, Args...> {
 public:
  using StoredCall<ProcessTarget, F, Args...>::StoredCall;

  FunctionId encode(wire::Writer& out) const override {
    wire::put_callable(out, this->function());
    out.end_session();
    std::apply([&](const Args&... each) { (wire::encode(out, each), ...); }, this->arguments());
    return id_of<&decode>();
  }

 private:
  static std::unique_ptr<ProcessTarget> decode(wire::Reader& in) {
    return std::make_unique<StoredTarget>(in);
  }
};

/// Compiles if f may be called with the arguments, otherwise says what to do.
template <class F, class... Args>
consteval void check_target() {
  static_assert(wire::CallableWith<F, Args...>,
                "mp::Process: the callable cannot be called with these arguments (text literals "
                "arrive as std::string)");
}

/// What a Process calls, in this or another process.
template <class F, class... Args>
std::unique_ptr<ProcessTarget> make_target(F&& f, Args&&... args) {
  check_target<F, Args...>();
  return std::make_unique<StoredTarget<std::decay_t<F>, wire::travel_t<Args>...>>(
      std::in_place, std::forward<F>(f), std::forward<Args>(args)...);
}

/// What a thread of this process calls: a callable and arguments of any type.
template <class F, class... Args>
std::unique_ptr<Deferred> make_call(F&& f, Args&&... args) {
  check_target<F, Args...>();
  return std::make_unique<StoredCall<Deferred, std::decay_t<F>, wire::travel_t<Args>...>>(
      std::in_place, std::forward<F>(f), std::forward<Args>(args)...);
}

template <class F>
class StoredDeferred final : public Deferred {
 public:
  template <class G>
  explicit StoredDeferred(std::in_place_t, G&& f) : f_(std::forward<G>(f)) {}
  void call() override { (void)f_(); }

 private:
  F f_;
};

template <class F>
std::unique_ptr<Deferred> make_deferred(F&& f) {
  return std::make_unique<StoredDeferred<std::decay_t<F>>>(std::in_place, std::forward<F>(f));
}

}  // namespace runtime
}  // namespace millrace
