#include <spdlog/logger.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <atomic>
#include <memory>
#include <millrace/logging.hpp>
#include <mutex>

#include "runtime/base/fork_mutex.hpp"
#include "runtime/base/log_handler.hpp"
#include "runtime/process/child.hpp"
#include "shm/immortal.hpp"

namespace millrace {
namespace logging {
namespace {

// Written by set_level() and log_to_stderr(), read by every log call; relaxed, since a message that
// crosses a change of level may go either way.
std::atomic<Level> g_level{Level::notset};
std::atomic<bool> g_has_handler{false};

// spdlog's sink without a lock: its own would be copied held by a fork. Never destroyed: threads
// and exit handlers may log until the very end.
struct Output {
  runtime::ForkMutex mutex{runtime::ForkMutex::Level::log};  // guards `logger`'s sink
  spdlog::logger logger{"multiprocessing", std::make_shared<spdlog::sinks::stderr_sink_st>()};

  Output() {
    logger.set_pattern("%v");
    logger.set_level(spdlog::level::trace);
    logger.set_error_handler([](const std::string&) {});  // a stderr that is gone is no error here
  }
};

Output& output() {
  static shm::Immortal<Output> instance;
  return *instance;
}
[[maybe_unused]] const Output& g_made_before_threads = output();

// A level's nearest of spdlog's: only for the sink, the line carries Python's own name.
spdlog::level::level_enum nearest(Level level) noexcept {
  if (level >= Level::critical) return spdlog::level::critical;
  if (level >= Level::error) return spdlog::level::err;
  if (level >= Level::subwarning) return spdlog::level::warn;
  if (level >= Level::info) return spdlog::level::info;
  return level >= Level::debug ? spdlog::level::debug : spdlog::level::trace;
}

}  // namespace

struct LoggerAccess {
  static Logger& instance() noexcept {
    static constinit Logger logger;
    return logger;
  }
};

std::string name(Level level) {
  switch (level) {
    case Level::notset:
      return "NOTSET";
    case Level::subdebug:
      return "SUBDEBUG";
    case Level::debug:
      return "DEBUG";
    case Level::info:
      return "INFO";
    case Level::subwarning:
      return "SUBWARNING";
    case Level::warning:
      return "WARNING";
    case Level::error:
      return "ERROR";
    case Level::critical:
      return "CRITICAL";
  }
  return "Level " + std::to_string(static_cast<int>(level));
}

Level Logger::level() const noexcept { return g_level.load(std::memory_order_relaxed); }

void Logger::set_level(Level level) noexcept { g_level.store(level, std::memory_order_relaxed); }

bool Logger::enabled(Level message) const noexcept {
  const Level set = level();
  if (message < (set == Level::notset ? Level::warning : set)) return false;
  return message >= Level::warning || runtime::has_log_handler();
}

void Logger::log(Level message, std::string_view text) noexcept {
  if (!enabled(message)) return;
  try {
    std::string line;
    if (runtime::has_log_handler()) {
      line = "[" + name(message) + "/" + runtime::process_name() + "] ";
    }
    line += text;
    const std::lock_guard guard(output().mutex);
    output().logger.log(nearest(message), spdlog::string_view_t(line));
  } catch (...) {
    // No memory for the line: logging never makes things worse.
  }
}

}  // namespace logging

bool runtime::has_log_handler() noexcept {
  return logging::g_has_handler.load(std::memory_order_relaxed);
}

logging::Logger& get_logger() noexcept { return logging::LoggerAccess::instance(); }

logging::Logger& log_to_stderr(std::optional<logging::Level> level) {
  logging::g_has_handler.store(true, std::memory_order_relaxed);
  if (level) get_logger().set_level(*level);
  return get_logger();
}

}  // namespace millrace
