// Python's documentation, "Logging": a session.
//
//   logger = multiprocessing.log_to_stderr()
//   logger.setLevel(multiprocessing.INFO)
//   logger.warning('doomed')
//   [WARNING/MainProcess] doomed
#include <unistd.h>

#include <millrace/millrace.hpp>

namespace mp = millrace;

int main() {
  ::dup2(STDOUT_FILENO, STDERR_FILENO);  // a session shows both
  mp::logging::Logger& logger = mp::log_to_stderr();
  logger.set_level(mp::logging::Level::info);
  logger.warning("doomed");
  mp::Process p({.name = "worker"}, [] {
    mp::get_logger().info("the child's line has the child's name");
    mp::get_logger().debug("and this is below the level");
  });
  p.start();
  p.join();
  logger.set_level(mp::logging::Level::error);
  logger.info("said to nobody");
  logger.error("done");
}
