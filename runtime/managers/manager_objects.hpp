// Referents of what a registered function makes.
#pragma once

#include <functional>
#include <memory>
#include <millrace/manager_types.hpp>
#include <string>

#include "runtime/managers/manager_referent.hpp"

namespace millrace::runtime {

/// While it lives this thread calls that method, which errors about the number of arguments name:
/// "Maths.add()", or "Maths()" without one. The texts must outlive it.
class NamedCall {
 public:
  explicit NamedCall(std::string_view class_name, std::string_view method = {}) noexcept;
  ~NamedCall();
  NamedCall(const NamedCall&) = delete;
  NamedCall& operator=(const NamedCall&) = delete;

 private:
  std::string_view outer_class_;
  std::string_view outer_method_;
};

/// The referent of an object with its methods, or of a value of Python's: a list, dict or set, or
/// one of mp's own handles, which then has Python's methods.
std::shared_ptr<Referent> referent_of_thing(MadeThing made,
                                            const std::shared_ptr<const MethodList>& methods,
                                            const std::string& class_name);
/// The same for one of mp's handles; null for any other value.
std::shared_ptr<Referent> referent_of_handle(const Object& value);
/// What a proxy of this process's own server stands for; null for any other value.
std::shared_ptr<Referent> referent_of_proxy(const Object& value);
/// A callable that was sent as an argument. Throws TypeError for anything else.
std::function<void()> action_of(const Object& value);

}  // namespace millrace::runtime
