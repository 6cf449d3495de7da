#include "runtime/values/object_python.hpp"

#include <utility>

#include "runtime/values/object_node.hpp"
#include "runtime/values/pickle_names.hpp"

namespace millrace::runtime {

Object python_global(std::string_view module, std::string_view name) {
  Object made = Access::adopt(new_items(ValueKind::global, 2));
  auto& global = *Access::node<ItemsNode>(made);
  global.items[0] = text_of(module);
  global.items[1] = text_of(name);
  global.capacity = static_cast<std::size_t>(find_name(module, name).callable);
  return made;
}

Object made_by_python(std::string_view module, std::string_view name, Object arguments) {
  Object made = Access::adopt(new_items(ValueKind::instance, 4));
  auto& parts = *Access::node<ItemsNode>(made);
  parts.items[0] = python_global(module, name);
  parts.items[1] = std::move(arguments);
  return made;
}

Object built_by_python(PythonGlobal of, Object state) {
  Object made = made_by_python(of.module, of.name, Object(Tuple()));
  auto& parts = *Access::node<ItemsNode>(made);
  parts.items[2] = std::move(state);
  parts.items[3] = Object(true);
  return made;
}

std::optional<PythonCall> python_call(const Object& value) {
  if (!is_kind(value, ValueKind::instance)) return std::nullopt;
  const auto parts = Access::node<ItemsNode>(value)->span();
  if (!is_kind(parts[0], ValueKind::global) || !is_kind(parts[1], ValueKind::tuple)) {
    return std::nullopt;
  }
  const auto name = Access::node<ItemsNode>(parts[0])->span();
  return PythonCall{Access::text(name[0]), Access::text(name[1]), &parts[1], &parts[2]};
}

std::optional<PythonGlobal> python_name(const Object& value) {
  if (!is_kind(value, ValueKind::global)) return std::nullopt;
  const auto parts = Access::node<ItemsNode>(value)->span();
  return PythonGlobal{Access::text(parts[0]), Access::text(parts[1])};
}

}  // namespace millrace::runtime
