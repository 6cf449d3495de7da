// What is registered with a manager: referents of the user's own types, made of a list of methods.
#pragma once

#include <cstddef>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <millrace/callable.hpp>
#include <millrace/errors.hpp>
#include <millrace/manager_values.hpp>
#include <millrace/object.hpp>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace {

namespace runtime {

/// Which methods give back a shared object, and of which type. Python: method_to_typeid.
using MethodTypes = std::map<std::string, std::string>;

/// The arguments of a call, by position.
using ManagerArguments = std::span<const Object>;

[[noreturn]] void throw_argument_count(std::size_t wanted, std::size_t given);

template <class Tuple, std::size_t Skip, class F, class... Before>
Object call_with(const F& f, ManagerArguments given, Before&... before) {
  constexpr std::size_t kCount = std::tuple_size_v<Tuple> - Skip;
  if (given.size() != kCount) throw_argument_count(kCount, given.size());
  return [&]<std::size_t... I>(std::index_sequence<I...>)->Object {
    std::tuple<std::tuple_element_t<I + Skip, Tuple>...> arguments{
        from_argument<std::tuple_element_t<I + Skip, Tuple>>(given[I])...};
    const auto invoke = [&](auto&... each) -> decltype(auto) {
      if constexpr (std::is_invocable_v<const F&, Before&..., decltype(std::move(each))...>) {
        return std::invoke(f, before..., std::move(each)...);
      } else {
        return std::invoke(f, before..., each...);
      }
    };
    using Result = decltype(std::apply(invoke, arguments));
    if constexpr (std::is_void_v<Result>) {
      std::apply(invoke, arguments);
      return {};
    } else {
      return to_result(std::apply(invoke, arguments));
    }
  }
  (std::make_index_sequence<kCount>{});
}

/// A method of a T by name: a pointer to a member, or a callable that takes T& first.
template <class T>
class NamedMethod {
 public:
  using Call = std::function<Object(T&, ManagerArguments)>;

  template <class F>
  requires wire::HasArguments<F> NamedMethod(std::string name, F f)  // NOLINT: call form
      : name_(std::move(name)), call_([f](T& object, ManagerArguments given) {
          return call_with<wire::arguments_of<F>, 1>(f, given, object);
        }) {}

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  Object operator()(T& object, ManagerArguments given) const { return call_(object, given); }

 private:
  std::string name_;
  Call call_;
};

/// The methods of a T, type-erased: what a referent of the user's needs.
struct MethodList {
  using Call = std::function<Object(void*, ManagerArguments)>;
  std::vector<std::pair<std::string, Call>> methods;

  template <class T>
  static std::shared_ptr<const MethodList> of(std::initializer_list<NamedMethod<T>> list) {
    auto all = std::make_shared<MethodList>();
    for (const NamedMethod<T>& each : list) {
      all->methods.emplace_back(each.name(), [each](void* object, ManagerArguments given) {
        return each(*static_cast<T*>(object), given);
      });
    }
    return all;
  }
};

/// "Maths" of "N::Maths": how Python would name the class.
std::string class_name_of(std::string_view type);

/// What a registered type makes: an object with its methods, or a value of Python's.
struct MadeThing {
  std::shared_ptr<void> object = {};  // null: `value` is it
  Object value = {};                  // a list, dict, set, a queue or lock of mp's ...
};

/// The referent that f() gives: the T of a shared_ptr<T>, else itself.
template <class R>
struct ReferentType {
  using type = R;
};
template <class T>
struct ReferentType<std::shared_ptr<T>> {
  using type = T;
};
template <class F>
using referent_of = typename ReferentType<std::remove_cvref_t<decltype(std::apply(
    std::declval<const F&>(), std::declval<wire::arguments_of<F>>()))>>::type;

template <class R>
MadeThing made_of(R&& result) {
  using V = std::remove_cvref_t<R>;
  MadeThing made;
  if constexpr (requires {
                  typename V::element_type;
                  result.use_count();
                }) {
    made.object = std::forward<R>(result);
  } else if constexpr (ObjectValue<V>) {
    made.value = Object(std::forward<R>(result));
  } else {
    made.object = std::make_shared<V>(std::forward<R>(result));
  }
  return made;
}

}  // namespace runtime

/// The keyword arguments of register_type and register_callable.
struct RegisterOptions {
  bool create_method = true;  ///< false: only methods of other types give such objects
  runtime::MethodTypes method_to_typeid = {};  ///< which methods give shared objects, and of what
};

}  // namespace millrace
