#include "runtime/values/pickle_names.hpp"

#include <algorithm>
#include <iterator>

namespace millrace::runtime {
namespace {

constexpr PickleName kNames[] = {
    {"_codecs", "encode", Callable::encode},
    {"_pickle", "PicklingError", Callable::exception},
    {"_pickle", "UnpicklingError", Callable::exception},
    {"array", "array", Callable::array},
    {"builtins", "bytearray", Callable::bytearray},
    {"builtins", "bytes", Callable::bytes},
    {"builtins", "complex", Callable::complex},
    {"builtins", "frozenset", Callable::frozenset},
    {"builtins", "getattr", Callable::opaque},
    {"builtins", "list", Callable::list},
    {"builtins", "range", Callable::range},
    {"builtins", "reversed", Callable::opaque},
    {"builtins", "set", Callable::set},
    {"builtins", "slice", Callable::slice},
    {"multiprocessing.connection", "Connection", Callable::opaque},
    {"multiprocessing.connection", "rebuild_connection", Callable::opaque},
    {"multiprocessing.context", "AuthenticationError", Callable::exception},
    {"multiprocessing.context", "BufferTooShort", Callable::exception},
    {"multiprocessing.context", "ProcessError", Callable::exception},
    {"multiprocessing.context", "TimeoutError", Callable::exception},
    {"multiprocessing.managers", "RemoteError", Callable::exception},
    {"multiprocessing.pool", "MaybeEncodingError", Callable::exception},
    {"multiprocessing.reduction", "_rebuild_partial", Callable::opaque},
    {"multiprocessing.resource_sharer", "DupFd", Callable::opaque},
    {"multiprocessing.shared_memory", "ShareableList", Callable::opaque},
    {"multiprocessing.shared_memory", "SharedMemory", Callable::opaque},
    {"queue", "Empty", Callable::exception},
    {"queue", "Full", Callable::exception},
    {"threading", "BrokenBarrierError", Callable::exception},
};

// Of multiprocessing.managers: data without behaviour, and what proxies are rebuilt from.
constexpr std::string_view kManagerNames[] = {
    "AcquirerProxy", "ArrayProxy",   "AutoProxy",      "BarrierProxy", "BaseListProxy",
    "BasePoolProxy", "BaseProxy",    "ConditionProxy", "DictProxy",    "EventProxy",
    "IteratorProxy", "ListProxy",    "MakeProxyType",  "Namespace",    "NamespaceProxy",
    "PoolProxy",     "RebuildProxy", "SetProxy",       "Token",        "Value",
    "ValueProxy",
};

// Every exception of CPython 3's builtins.
constexpr std::string_view kExceptions[] = {
    "ArithmeticError",
    "AssertionError",
    "AttributeError",
    "BaseException",
    "BaseExceptionGroup",
    "BlockingIOError",
    "BrokenPipeError",
    "BufferError",
    "BytesWarning",
    "ChildProcessError",
    "ConnectionAbortedError",
    "ConnectionError",
    "ConnectionRefusedError",
    "ConnectionResetError",
    "DeprecationWarning",
    "EOFError",
    "EncodingWarning",
    "Exception",
    "ExceptionGroup",
    "FileExistsError",
    "FileNotFoundError",
    "FloatingPointError",
    "FutureWarning",
    "GeneratorExit",
    "ImportError",
    "ImportWarning",
    "IndentationError",
    "IndexError",
    "InterruptedError",
    "IsADirectoryError",
    "KeyError",
    "KeyboardInterrupt",
    "LookupError",
    "MemoryError",
    "ModuleNotFoundError",
    "NameError",
    "NotADirectoryError",
    "NotImplementedError",
    "OSError",
    "OverflowError",
    "PendingDeprecationWarning",
    "PermissionError",
    "ProcessLookupError",
    "PythonFinalizationError",
    "RecursionError",
    "ReferenceError",
    "ResourceWarning",
    "RuntimeError",
    "RuntimeWarning",
    "StopAsyncIteration",
    "StopIteration",
    "SyntaxError",
    "SyntaxWarning",
    "SystemError",
    "SystemExit",
    "TabError",
    "TimeoutError",
    "TypeError",
    "UnboundLocalError",
    "UnicodeDecodeError",
    "UnicodeEncodeError",
    "UnicodeError",
    "UnicodeTranslateError",
    "UnicodeWarning",
    "UserWarning",
    "ValueError",
    "Warning",
    "ZeroDivisionError",
};

struct Renamed {
  std::string_view old;
  std::string_view current;
};
constexpr Renamed kModules[] = {{"Queue", "queue"},
                                {"__builtin__", "builtins"},
                                {"_queue", "queue"},
                                {"exceptions", "builtins"}};

}  // namespace

PickleName find_name(std::string_view module, std::string_view name) noexcept {
  for (const Renamed& each : kModules) {
    if (module == each.old) module = each.current;
  }
  if (module == "builtins" && name == "xrange") name = "range";
  if (module == "multiprocessing") module = "multiprocessing.context";
  for (const PickleName& each : kNames) {
    if (name == each.name && module == each.module) return each;
  }
  if (module == "builtins") {
    const auto* const found = std::ranges::lower_bound(kExceptions, name);
    if (found != std::end(kExceptions) && *found == name) {
      return {"builtins", *found, Callable::exception};
    }
  }
  if (module == "multiprocessing.managers") {
    const auto* const found = std::ranges::lower_bound(kManagerNames, name);
    if (found != std::end(kManagerNames) && *found == name) {
      return {"multiprocessing.managers", *found, Callable::opaque};
    }
  }
  return {module, name, Callable::refused};
}

}  // namespace millrace::runtime
