// The library's logger. Python: multiprocessing.get_logger() and log_to_stderr().
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace millrace::logging {

/// Python's levels and multiprocessing's two own.
enum class Level : int {
  notset = 0,
  subdebug = 5,
  debug = 10,
  info = 20,
  subwarning = 25,
  warning = 30,
  error = 40,
  critical = 50
};

/// The name of a level as a line shows it: "DEBUG", "SUBWARNING", "Level 15".
[[nodiscard]] std::string name(Level level);

/// The one logger of a process. It has no handler until log_to_stderr() and then writes lines
/// `[LEVEL/processName] message` to stderr; until then warnings and up come there as they are, as
/// Python's handler of last resort writes them. Level notset passes warnings and up, as Python's
/// root does. Any thread; no call throws for a stderr that cannot be written to. Children made by
/// fork inherit level and handler.
class Logger {
 public:
  Logger(const Logger&) = delete;
  Logger& operator=(const Logger&) = delete;

  [[nodiscard]] Level level() const noexcept;
  void set_level(Level level) noexcept;
  /// True when a message of this level would be written somewhere.
  [[nodiscard]] bool enabled(Level level) const noexcept;
  void log(Level level, std::string_view text) noexcept;
  void subdebug(std::string_view text) noexcept { log(Level::subdebug, text); }
  void debug(std::string_view text) noexcept { log(Level::debug, text); }
  void info(std::string_view text) noexcept { log(Level::info, text); }
  void subwarning(std::string_view text) noexcept { log(Level::subwarning, text); }
  void warning(std::string_view text) noexcept { log(Level::warning, text); }
  void error(std::string_view text) noexcept { log(Level::error, text); }
  void critical(std::string_view text) noexcept { log(Level::critical, text); }

 private:
  friend struct LoggerAccess;
  Logger() = default;
};

}  // namespace millrace::logging

namespace millrace {

/// The library's logger. Python: multiprocessing.get_logger().
logging::Logger& get_logger() noexcept;

/// Gives the logger its handler, stderr, and a level if one is named. Calling it again changes the
/// level only (Python adds a second handler, and every line comes twice).
/// Python: multiprocessing.log_to_stderr().
logging::Logger& log_to_stderr(std::optional<logging::Level> level = {});

}  // namespace millrace
