// What a manager's Pool is asked to do: a typed call of mp::Pool's, made here, run in the server.
#pragma once

#include <memory>
#include <millrace/manager_values.hpp>
#include <millrace/pool.hpp>
#include <millrace/timeout.hpp>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace::runtime {

/// A result that is still being computed, in the server.
class PoolPromise {
 public:
  PoolPromise() = default;
  PoolPromise(const PoolPromise&) = delete;
  PoolPromise& operator=(const PoolPromise&) = delete;
  virtual ~PoolPromise() = default;
  virtual Object get(Timeout timeout) = 0;
  virtual bool wait(Timeout timeout) = 0;
  virtual bool ready() = 0;
  virtual bool successful() = 0;
};

template <class R>
class PoolPromiseOf final : public PoolPromise {
 public:
  explicit PoolPromiseOf(AsyncResult<R> result) : result_(std::move(result)) {}
  Object get(Timeout timeout) override {
    if constexpr (std::is_void_v<R>) {
      result_.get(timeout);
      return {};
    } else {
      return to_argument(R(result_.get(timeout)));
    }
  }
  bool wait(Timeout timeout) override { return result_.wait(timeout); }
  bool ready() override { return result_.ready(); }
  bool successful() override { return result_.successful(); }

 private:
  AsyncResult<R> result_;
};

/// One call, with its types forgotten.
class PoolCall {
 public:
  PoolCall() = default;
  PoolCall(const PoolCall&) = delete;
  PoolCall& operator=(const PoolCall&) = delete;
  virtual ~PoolCall() = default;
  /// The result, or, of an asynchronous call, an object of the server: a PoolPromise.
  virtual Object run(Pool& pool) const = 0;
  virtual void encode(wire::Writer& out) const = 0;
  [[nodiscard]] virtual FunctionId decoder() const = 0;
};

/// The handle by which it travels.
struct PoolCallHandle {
  std::shared_ptr<const PoolCall> call;
  friend bool operator==(const PoolCallHandle&, const PoolCallHandle&) noexcept = default;
};

/// Do::run(pool, f, input) is the call.
template <class Do, class F, class Input>
class PoolCallOf final : public PoolCall {
 public:
  PoolCallOf(F f, Input input) : f_(std::move(f)), input_(std::move(input)) {}
  Object run(Pool& pool) const override {
    F f = f_;
    Input input = input_;
    return Do::run(pool, f, input);
  }
  void encode(wire::Writer& out) const override {
    wire::put_callable(out, f_);
    out.end_session();
    wire::encode(out, input_);
  }
  [[nodiscard]] FunctionId decoder() const override { return id_of<&decode>(); }

 private:
  static std::shared_ptr<const PoolCall> decode(wire::Reader& in) {
    F f = wire::take_callable<F>(in);
    in.end_session();
    return std::make_shared<PoolCallOf>(std::move(f), wire::decode<Input>(in));
  }

  F f_;
  Input input_;
};

template <class Do, class F, class Input>
PoolCallHandle pool_call(F f, Input input) {
  return {std::make_shared<PoolCallOf<Do, F, Input>>(std::move(f), std::move(input))};
}

template <class R>
Object promise_of(AsyncResult<R> result) {
  return Object(CarriedHandle{std::make_shared<ServerThing>(std::static_pointer_cast<PoolPromise>(
      std::make_shared<PoolPromiseOf<R>>(std::move(result))))});
}

template <class Call>
Object value_of_call(Call call) {
  if constexpr (std::is_void_v<decltype(call())>) {
    call();
    return {};
  } else {
    return to_argument(call());
  }
}

struct DoApply {
  template <class F, class Input>
  static Object run(Pool& pool, F& f, Input& input) {
    return std::apply(
        [&](auto&... each) { return value_of_call([&] { return pool.apply(f, each...); }); },
        input);
  }
};
struct DoApplyAsync {
  template <class F, class Input>
  static Object run(Pool& pool, F& f, Input& input) {
    return std::apply([&](auto&... each) { return promise_of(pool.apply_async(f, each...)); },
                      input);
  }
};
struct DoMap {
  template <class F, class Input>
  static Object run(Pool& pool, F& f, Input& input) {
    return value_of_call([&] { return pool.map(f, input); });
  }
};
struct DoMapAsync {
  template <class F, class Input>
  static Object run(Pool& pool, F& f, Input& input) {
    return promise_of(pool.map_async(f, input));
  }
};
struct DoStarmap {
  template <class F, class Input>
  static Object run(Pool& pool, F& f, Input& input) {
    return value_of_call([&] { return pool.starmap(f, input); });
  }
};

struct DoStarmapAsync {
  template <class F, class Input>
  static Object run(Pool& pool, F& f, Input& input) {
    return promise_of(pool.starmap_async(f, input));
  }
};

void encode_pool_call(wire::Writer& out, const PoolCallHandle& handle);
PoolCallHandle decode_pool_call(wire::Reader& in);

}  // namespace millrace::runtime

namespace millrace::wire {

template <>
struct Custom<runtime::PoolCallHandle> {
  static void encode(Writer& out, const runtime::PoolCallHandle& value) {
    runtime::encode_pool_call(out, value);
  }
  static runtime::PoolCallHandle decode(Reader& in) { return runtime::decode_pool_call(in); }
};

}  // namespace millrace::wire
