// The exceptions of the library: Python's multiprocessing errors and builtins under their own
// names, and those that have no counterpart in Python because Python hangs there.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <exception>
#include <millrace/bytes.hpp>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace millrace {

/// Base of the library's own errors. Python: multiprocessing.ProcessError.
class ProcessError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A wait ended before what was waited for; the item is still obtainable.
/// Python: multiprocessing.TimeoutError (not the builtin).
class TimeoutError : public ProcessError {
 public:
  using ProcessError::ProcessError;
};

/// A message was longer than the buffer it was to be received into; it is consumed, whole, and the
/// connection goes on. Python: multiprocessing.BufferTooShort.
class BufferTooShort : public ProcessError {
 public:
  explicit BufferTooShort(Bytes message)
      : ProcessError("the buffer is too short for a message of " + std::to_string(message.size()) +
                     " bytes"),
        message_(std::move(message)) {}
  /// The whole message.
  [[nodiscard]] const Bytes& message() const noexcept { return message_; }

 private:
  Bytes message_;
};

/// Python: multiprocessing.AuthenticationError.
class AuthenticationError : public ProcessError {
 public:
  using ProcessError::ProcessError;
};

/// A worker or server raised something that this program has no type for: its type's name, what()
/// and stack trace as text. Python: multiprocessing.managers.RemoteError.
class RemoteError : public ProcessError {
 public:
  RemoteError(std::string type_name, const std::string& what, std::string traceback = {})
      : ProcessError(what), type_name_(std::move(type_name)), traceback_(std::move(traceback)) {}
  [[nodiscard]] const std::string& type_name() const noexcept { return type_name_; }
  [[nodiscard]] const std::string& traceback() const noexcept { return traceback_; }

 private:
  std::string type_name_;
  std::string traceback_;
};

/// A result or exception that could not be serialised; the worker lives on.
/// Python: multiprocessing.pool.MaybeEncodingError.
class MaybeEncodingError : public ProcessError {
 public:
  using ProcessError::ProcessError;
};

/// A worker ended (signal, exit, out of memory) while it ran items first() to last(), both
/// inclusive; those items have no result. Python: none, its Pool waits for ever.
class WorkerLost : public ProcessError {
 public:
  WorkerLost(pid_t pid, int exitcode, bool oom, std::uint64_t first, std::uint64_t last);
  /// The process id of the worker that ended.
  [[nodiscard]] pid_t pid() const noexcept { return pid_; }
  /// Its exit code, or minus the number of the signal that ended it.
  [[nodiscard]] int exitcode() const noexcept { return exitcode_; }
  /// True when the kernel's out-of-memory killer ended it.
  [[nodiscard]] bool oom() const noexcept { return oom_; }
  /// Index of the first item that was lost.
  [[nodiscard]] std::uint64_t first() const noexcept { return first_; }
  /// Index of the last item that was lost.
  [[nodiscard]] std::uint64_t last() const noexcept { return last_; }

 private:
  pid_t pid_;
  int exitcode_;
  bool oom_;
  std::uint64_t first_;
  std::uint64_t last_;
};

/// What pending results get after Pool::terminate(). Python: none, they hang.
class PoolTerminated : public ProcessError {
 public:
  using ProcessError::ProcessError;
};

/// A lock's owner ended while it held it. Python: none, the lock stays locked for ever.
class AbandonedLock;  // synchronize.hpp

/// State inherited by fork was used in the child, where it cannot work.
class ForkedError : public ProcessError {
 public:
  using ProcessError::ProcessError;
};

/// Shared memory was damaged: the message names the structure and its owner.
class Corrupt : public ProcessError {
 public:
  using ProcessError::ProcessError;
};

/// Python: ValueError.
class ValueError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// Python: AssertionError.
class AssertionError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

/// Python: TypeError.
class TypeError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

/// Python: IndexError.
class IndexError : public std::out_of_range {
 public:
  using std::out_of_range::out_of_range;
};

/// Python: KeyError.
class KeyError : public std::out_of_range {
 public:
  using std::out_of_range::out_of_range;
};

/// Python: AttributeError.
class AttributeError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

/// Python: OverflowError.
class OverflowError : public std::overflow_error {
 public:
  using std::overflow_error::overflow_error;
};

/// Python: EOFError.
class EOFError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Python: NotImplementedError.
class NotImplementedError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

/// Python: pickle.UnpicklingError.
class UnpicklingError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Python: threading.BrokenBarrierError.
class BrokenBarrierError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace queue {

/// Python: queue.Empty.
class Empty : public std::runtime_error {
 public:
  Empty() : std::runtime_error("queue is empty") {}
  using std::runtime_error::runtime_error;
};

/// Python: queue.Full.
class Full : public std::runtime_error {
 public:
  Full() : std::runtime_error("queue is full") {}
  using std::runtime_error::runtime_error;
};

}  // namespace queue

/// Ends the process that throws it with the given exit code (mod 256), or with code 1 after
/// printing the text, be it empty, to stderr as a line. No base class, so
/// `catch (const std::exception&)` lets it pass. Python: SystemExit.
class SystemExit {
 public:
  explicit SystemExit(int code = 0) noexcept : code_(code) {}
  explicit SystemExit(std::string text) : code_(1), has_text_(true), text_(std::move(text)) {}
  [[nodiscard]] int code() const noexcept { return code_; }
  /// Whether it was made of a text.
  [[nodiscard]] bool has_text() const noexcept { return has_text_; }
  [[nodiscard]] const std::string& text() const noexcept { return text_; }

 private:
  int code_;
  bool has_text_ = false;
  std::string text_;
};

/// Python: KeyboardInterrupt. No base class; ends a child with exit code 1.
class KeyboardInterrupt {};

/// The stack trace of the process in which an exception was raised, as text; "" for an exception
/// that was raised in this process. Python: the RemoteTraceback that is the exception's __cause__.
[[nodiscard]] std::string remote_traceback(const std::exception& error);
/// The same for any exception, also one that is not a std::exception; "" for a null pointer.
[[nodiscard]] std::string remote_traceback(const std::exception_ptr& error);

namespace runtime {

/// How exceptions of type E cross a process boundary: <millrace/exceptions.hpp>, which every header
/// that starts processes includes.
template <class E>
struct ExceptionCarrier;

/// What MILLRACE_EXCEPTION expands to.
template <class E>
bool declare_exception() {
  return ExceptionCarrier<E>::declare();
}

}  // namespace runtime
}  // namespace millrace

#define MILLRACE_JOIN_(a, b) a##b
#define MILLRACE_JOIN(a, b) MILLRACE_JOIN_(a, b)

/// Declares, at namespace scope, that exceptions of this type cross process boundaries as
/// themselves: MILLRACE_EXCEPTION(MyError); The type is Serializable or constructible from its
/// what(). Exceptions that are not declared arrive as RemoteError. In a header it may be repeated
/// by every file that includes it. Python: exceptions are pickled.
#define MILLRACE_EXCEPTION(...)                                                        \
  [[maybe_unused]] static const bool MILLRACE_JOIN(millrace_exception_, __COUNTER__) = \
      ::millrace::runtime::declare_exception<__VA_ARGS__>()
