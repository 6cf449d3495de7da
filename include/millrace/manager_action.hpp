// A callable without arguments that runs in a manager's server, such as a Barrier's action.
#pragma once

#include <functional>
#include <memory>
#include <millrace/manager_values.hpp>
#include <utility>

namespace millrace::runtime {

/// Any callable, with its type forgotten.
struct ManagerAction {
  std::shared_ptr<const void> callable;
  void (*call)(const void*) = nullptr;
  void (*put)(wire::Writer&, const void*) = nullptr;
  FunctionId (*taker)() = nullptr;

  void run() const { call(callable.get()); }
  friend bool operator==(const ManagerAction&, const ManagerAction&) noexcept = default;
};

template <class F>
ManagerAction make_action(F f);

template <class F>
ManagerAction take_action(wire::Reader& in) {
  const wire::EndSession end{in};
  return make_action(wire::take_callable<F>(in));
}

template <class F>
ManagerAction make_action(F f) {
  return {std::make_shared<const F>(std::move(f)),
          [](const void* callable) {
            F own = *static_cast<const F*>(callable);
            static_cast<void>(own());
          },
          [](wire::Writer& out, const void* callable) {
            wire::put_callable(out, *static_cast<const F*>(callable));
            out.end_session();
          },
          [] { return id_of<&take_action<F>>(); }};
}

}  // namespace millrace::runtime

namespace millrace::wire {

template <>
struct Custom<runtime::ManagerAction> {
  static void encode(Writer& out, const runtime::ManagerAction& action) {
    out.put(action.taker());
    action.put(out, action.callable.get());
  }
  static runtime::ManagerAction decode(Reader& in) {
    using Take = runtime::ManagerAction (*)(Reader&);
    return reinterpret_cast<Take>(runtime::resolve_function(in.take<runtime::FunctionId>()))(in);
  }
};

}  // namespace millrace::wire
