// Exceptions as values: C++'s and Python's names for them, both ways.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include "runtime/values/object_node.hpp"

namespace millrace::runtime {
namespace {

struct PythonName {
  const char* module;
  const char* name;
};

// A class of Python's and the C++ type that stands for it.
struct KnownClass {
  PythonName python;
  bool (*is)(const std::exception& error);
  std::exception_ptr (*make)(const std::string& text);
};

template <class E>
constexpr KnownClass known(const char* module, const char* name) {
  return {{module, name},
          [](const std::exception& error) { return dynamic_cast<const E*>(&error) != nullptr; },
          [](const std::string& text) { return std::make_exception_ptr(E(text)); }};
}

// Derived classes before their bases; Python's of the same name agree with the first.
constexpr KnownClass kClasses[] = {
    known<ValueError>("builtins", "ValueError"),
    known<AssertionError>("builtins", "AssertionError"),
    known<TypeError>("builtins", "TypeError"),
    known<IndexError>("builtins", "IndexError"),
    known<KeyError>("builtins", "KeyError"),
    known<AttributeError>("builtins", "AttributeError"),
    known<OverflowError>("builtins", "OverflowError"),
    known<EOFError>("builtins", "EOFError"),
    known<NotImplementedError>("builtins", "NotImplementedError"),
    known<UnpicklingError>("_pickle", "UnpicklingError"),
    known<BrokenBarrierError>("threading", "BrokenBarrierError"),
    known<queue::Empty>("queue", "Empty"),
    known<queue::Full>("queue", "Full"),
    known<TimeoutError>("multiprocessing.context", "TimeoutError"),
    known<AuthenticationError>("multiprocessing.context", "AuthenticationError"),
    known<MaybeEncodingError>("multiprocessing.pool", "MaybeEncodingError"),
    known<ProcessError>("multiprocessing.context", "ProcessError"),
    known<std::invalid_argument>("builtins", "ValueError"),
    known<std::out_of_range>("builtins", "IndexError"),
    known<std::overflow_error>("builtins", "OverflowError"),
    known<std::runtime_error>("builtins", "RuntimeError"),
};

struct OsName {
  const char* name;
  int code;
};
// Subclasses of OSError with the error that stands for each; the first code is the class's own.
constexpr OsName kOsNames[] = {
    {"BlockingIOError", EAGAIN},
    {"BlockingIOError", EALREADY},
    {"BlockingIOError", EINPROGRESS},
    {"BrokenPipeError", EPIPE},
    {"BrokenPipeError", ESHUTDOWN},
    {"ChildProcessError", ECHILD},
    {"ConnectionAbortedError", ECONNABORTED},
    {"ConnectionRefusedError", ECONNREFUSED},
    {"ConnectionResetError", ECONNRESET},
    {"FileExistsError", EEXIST},
    {"FileNotFoundError", ENOENT},
    {"InterruptedError", EINTR},
    {"IsADirectoryError", EISDIR},
    {"NotADirectoryError", ENOTDIR},
    {"PermissionError", EACCES},
    {"PermissionError", EPERM},
    {"ProcessLookupError", ESRCH},
    {"TimeoutError", ETIMEDOUT},
    {"OSError", EIO},
    {"ConnectionError", EIO},
};

constexpr const char* kUnicodeErrors[] = {"UnicodeError", "UnicodeDecodeError",
                                          "UnicodeEncodeError", "UnicodeTranslateError"};

PythonName os_class_of(int code) noexcept {
  for (const OsName& each : kOsNames) {
    if (each.code == code && code != EIO) return {"builtins", each.name};
  }
  return {"builtins", "OSError"};
}

struct Described {
  PythonName python;
  Tuple arguments;
};

Described describe_system(const std::system_error& error) {
  const int code = error.code().value();
  const auto& category = error.code().category();
  if (category != std::generic_category() && category != std::system_category()) {
    return {{"builtins", "OSError"}, Tuple{error.what()}};
  }
  return {os_class_of(code), Tuple{code, error.what()}};
}

Described describe_known(const std::exception& error) {
  const std::string text = error.what();
  for (const KnownClass& each : kClasses) {
    if (!each.is(error)) continue;
    const bool plain = dynamic_cast<const queue::Empty*>(&error) != nullptr ||
                       dynamic_cast<const queue::Full*>(&error) != nullptr;
    return {each.python, plain ? Tuple() : Tuple{text}};
  }
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    return {{"builtins", "MemoryError"}, Tuple()};
  }
  return {{"builtins", "RuntimeError"}, Tuple{text}};
}

Described describe(const std::exception_ptr& pointer) {
  try {
    std::rethrow_exception(pointer);
  } catch (const BufferTooShort& error) {
    return {{"multiprocessing.context", "BufferTooShort"}, Tuple{error.message()}};
  } catch (const RemoteError& error) {
    const std::string& trace = error.traceback();
    return {{"multiprocessing.managers", "RemoteError"},
            Tuple{trace.empty() ? error.type_name() + ": " + error.what() : trace}};
  } catch (const std::system_error& error) {
    return describe_system(error);
  } catch (const std::exception& error) {
    return describe_known(error);
  } catch (const SystemExit& error) {
    return {{"builtins", "SystemExit"},
            error.has_text() ? Tuple{error.text()} : Tuple{error.code()}};
  } catch (const KeyboardInterrupt&) {
    return {{"builtins", "KeyboardInterrupt"}, Tuple()};
  } catch (...) {
    return {{"builtins", "RuntimeError"}, Tuple{"an exception of a type unknown to C++"}};
  }
}

Object new_exception(Object (&parts)[4], std::exception_ptr native) {
  auto* const node = ::new (checked(std::malloc(sizeof(ExceptionNode)))) ExceptionNode;
  for (std::size_t i = 0; i < 4; ++i) node->parts[i] = std::move(parts[i]);
  node->items = node->parts;
  node->size = 4;
  node->native = std::move(native);
  return Access::adopt(node);
}

std::exception_ptr make_system(const Object& value, const Tuple& arguments) {
  const std::string name = value.type_name();
  const auto* const own =
      std::ranges::find_if(kOsNames, [&name](const OsName& each) { return name == each.name; });
  int code = own == std::end(kOsNames) ? EIO : own->code;
  std::string text = value.str();
  if (arguments.size() >= 2 && arguments[0].is<int>()) {
    code = static_cast<int>(arguments[0].as<std::int64_t>());
    const std::string ending = ": " + std::system_category().message(code);
    text = arguments[1].str();  // what() ends in the code's message again
    if (text.ends_with(ending)) text.resize(text.size() - ending.size());
    if (text == ending.substr(2)) text = arguments.size() > 2 ? arguments[2].str() : std::string();
  }
  const std::error_code error(code, std::system_category());
  return std::make_exception_ptr(text.empty() ? std::system_error(error)
                                              : std::system_error(error, text));
}

std::exception_ptr make_builtin(const Object& value, const Tuple& arguments) {
  const std::string name = value.type_name();
  if (is_os_error(name)) return make_system(value, arguments);
  if (name == "MemoryError") return std::make_exception_ptr(std::bad_alloc());
  if (name == "KeyboardInterrupt") return std::make_exception_ptr(KeyboardInterrupt());
  if (name == "SystemExit") {
    if (arguments.empty() || arguments[0].is_none()) return std::make_exception_ptr(SystemExit(0));
    if (arguments[0].is<int>()) {
      return std::make_exception_ptr(
          SystemExit(static_cast<int>(arguments[0].as<std::int64_t>() & 0xff)));
    }
    return std::make_exception_ptr(SystemExit(value.str()));
  }
  if (std::ranges::find(kUnicodeErrors, name) != std::end(kUnicodeErrors)) {
    return std::make_exception_ptr(ValueError(value.str()));
  }
  return std::make_exception_ptr(RemoteError(name, value.str()));
}

std::exception_ptr make_native(const Object& value) {
  const auto parts = Access::node<ItemsNode>(value)->span();
  const std::string module = parts[0].str();
  const std::string name = parts[1].str();
  const auto arguments = parts[2].as<Tuple>();
  if (name == "BufferTooShort" && arguments.size() == 1 && is_byte_run(arguments[0])) {
    return std::make_exception_ptr(BufferTooShort(to_bytes(arguments[0])));
  }
  if (name == "RemoteError") {
    return std::make_exception_ptr(RemoteError(name, value.str(), value.str()));
  }
  for (const KnownClass& each : kClasses) {
    if (name == each.python.name && module == each.python.module) return each.make(value.str());
  }
  if (module == "builtins") return make_builtin(value, arguments);
  return std::make_exception_ptr(RemoteError(module + "." + name, value.str()));
}

}  // namespace

bool is_os_error(std::string_view name) noexcept {
  return std::ranges::any_of(kOsNames, [name](const OsName& each) { return name == each.name; });
}

Object object_of_exception(std::exception_ptr error) {
  if (error == nullptr) return {};
  Described described = describe(error);
  Object parts[] = {described.python.module, described.python.name, std::move(described.arguments),
                    Object()};
  return new_exception(parts, std::move(error));
}

// OSError(2, ...) is a FileNotFoundError: pickles of protocols 0 to 2 name the base.
Object exception_of_name(Object module, Object name, Object arguments, Object state) {
  const auto given = Access::node<ItemsNode>(arguments)->span();
  if (given.size() >= 2 && given.size() <= 5 && name == "OSError" &&
      (given[0].is<std::int64_t>() || given[0].is<bool>())) {  // not of 2.0
    for (const OsName& each : kOsNames) {
      if (each.code != EIO && given[0] == each.code) name = text_of(each.name);
    }
  }
  Object parts[] = {std::move(module), std::move(name), std::move(arguments), std::move(state)};
  return new_exception(parts, nullptr);
}

Object exception_with(Object exception, std::exception_ptr native) {
  Access::node<ExceptionNode>(exception)->native = std::move(native);
  return exception;
}

std::exception_ptr to_exception(const Object& value) {
  const auto* const node = Access::node<ExceptionNode>(to_own(value, ValueKind::exception));
  return node->native != nullptr ? node->native : make_native(value);
}

void raise(const Object& value) { std::rethrow_exception(to_exception(value)); }

}  // namespace millrace::runtime
