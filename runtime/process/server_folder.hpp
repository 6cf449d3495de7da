// The folder of a fork server's socket: mode 0700, with a random name, below TMPDIR or /tmp.
//
// The folder stays locked (flock of the folder itself) as long as its server lives, so that whoever
// finds one that is not can remove it: what SIGKILL leaves behind lasts until the next server of
// this user starts.
#pragma once

#include <string>

namespace millrace::runtime {

class ServerFolder {
 public:
  /// Removes what killed servers of this user have left, then makes a folder. Throws
  /// std::system_error naming it.
  ServerFolder();
  ServerFolder(const ServerFolder&) = delete;
  ServerFolder& operator=(const ServerFolder&) = delete;

  /// Where the socket goes.
  [[nodiscard]] std::string socket() const { return path_ + "/socket"; }
  /// Removes folder and socket.
  void remove() const noexcept;
  /// For a child of the server: without the lock.
  void let_go() noexcept;

 private:
  std::string path_;
  int lock_ = -1;
};

}  // namespace millrace::runtime
