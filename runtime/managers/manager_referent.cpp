#include "runtime/managers/manager_referent.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>

#include "runtime/values/object_node.hpp"

namespace millrace::runtime {

void ManagerClient::holds(const std::shared_ptr<Referent>& referent) {
  if (!ends_with_process) return;
  const std::scoped_lock guard(mutex);
  // Bounded by what is alive: dead entries make room before the list grows.
  if (held.size() == held.capacity()) {
    std::erase_if(held, [](const auto& each) { return each.expired(); });
  }
  for (const auto& each : held) {
    if (!each.owner_before(referent) && !referent.owner_before(each)) return;
  }
  held.push_back(referent);
}

namespace {

std::uint64_t next_caller() noexcept {
  static std::atomic<std::uint64_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;  // a number, nothing is ordered by it
}

}  // namespace

ManagerCaller::ManagerCaller(std::shared_ptr<ManagerClient> of, Watch watch)
    : id_(next_caller()), client_(std::move(of)), watch_(std::move(watch)) {}

void ManagerCaller::leave() {
  // PUBLISH gone: a call that parks after this looks at it (manager_referent.hpp)
  gone_.store(true, std::memory_order_release);
  std::shared_ptr<Monitor> waits_at;
  {
    const std::scoped_lock guard(mutex_);
    waits_at = parked_;
  }
  if (waits_at == nullptr) return;
  const std::unique_lock guard(*waits_at);
  waits_at->changed();
}

ManagerCaller::Parked::Parked(ManagerCaller& of, const std::shared_ptr<Monitor>& monitor)
    : caller(of) {
  {
    const std::scoped_lock guard(caller.mutex_);
    caller.parked_ = monitor;
  }
  if (caller.watch_) caller.watch_(true);
}

ManagerCaller::Parked::~Parked() {
  if (caller.watch_) caller.watch_(false);
  const std::scoped_lock guard(caller.mutex_);
  caller.parked_.reset();
}

const Object& Parameters::operator[](std::size_t i) const noexcept {
  static const Object none;
  return given_[i] != nullptr ? *given_[i] : none;
}

bool Parameters::flag(std::size_t i, bool otherwise) const {
  if (!has(i)) return otherwise;
  const Object& value = *given_[i];
  if (value.is_none()) return false;
  if (value.is<bool>()) return value.as<bool>();
  if (value.is<double>()) return value.as<double>() != 0;
  return value.as<std::int64_t>() != 0;
}

Parameters ManagerCall::bind(std::initializer_list<std::string_view> names,
                             std::size_t required) const {
  const std::string call_text = std::string(method) + "()";
  if (arguments.size() > names.size()) {
    throw TypeError(call_text + " takes at most " + std::to_string(names.size()) + " arguments (" +
                    std::to_string(arguments.size()) + " given)");
  }
  Parameters bound;
  for (std::size_t i = 0; i < arguments.size(); ++i) bound.given_[i] = &arguments[i];
  std::size_t used = 0;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const Object* const found = keywords.find(Object(names.begin()[i]));
    if (found == nullptr) continue;
    ++used;
    if (bound.given_[i] != nullptr) {
      throw TypeError(call_text + " got multiple values for argument '" +
                      std::string(names.begin()[i]) + "'");
    }
    bound.given_[i] = found;
  }
  if (used != keywords.size()) {
    for (const Object& name : keywords) {
      if (std::ranges::find(names, name.str()) != names.end()) continue;
      throw TypeError(call_text + " got an unexpected keyword argument " + name.repr());
    }
  }
  for (std::size_t i = 0; i < required; ++i) {
    if (bound.given_[i] == nullptr) {
      throw TypeError(call_text + " missing required argument: '" + std::string(names.begin()[i]) +
                      "'");
    }
  }
  return bound;
}

std::string Referent::repr() {
  return "<" + class_name() + " object at " + address_text(this) + ">";
}

Object Referent::value(const ManagerCaller&) {
  throw TypeError("cannot pickle '" + class_name() + "' object");
}

void raise_python(const char* name, Object argument) {
  throw RaisedValue{
      exception_of_name(text_of("builtins"), text_of(name), Object(Tuple{std::move(argument)}))};
}

void raise_stop_iteration() {
  throw RaisedValue{
      exception_of_name(text_of("builtins"), text_of("StopIteration"), Object(Tuple()))};
}

Timeout timeout_of(const Object& seconds) {
  if (seconds.is_none()) return {};
  return std::chrono::duration<double>(seconds.as<double>());
}

bool is_negative(const Object& number) { return number.as<double>() < 0; }

std::string address_text(const void* of) {
  std::array<char, 24> text{};
  const int size = std::snprintf(text.data(), text.size(), "%p", of);
  return {text.data(), static_cast<std::size_t>(size)};
}

}  // namespace millrace::runtime
