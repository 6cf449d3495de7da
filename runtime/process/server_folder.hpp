// The folder of a server's socket, of a fork server or a Listener with a private path: mode 0700,
// with a random name, below TMPDIR or /tmp.
//
// The folder stays locked (flock of the folder itself) as long as its server lives, so that whoever
// finds one that is not can remove it: what SIGKILL leaves behind lasts until the next process of
// this user makes its first folder.
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
  [[nodiscard]] const std::string& socket() const noexcept { return socket_; }
  /// Removes folder and socket.
  void remove() const noexcept { remove(socket_); }
  /// The same of a server that has ended, by whoever knows its socket.
  static void remove(const std::string& socket) noexcept;
  /// Removes what killed servers of this user have left.
  static void remove_abandoned() noexcept;
  /// For a child of the server, and at its end: without the lock.
  void let_go() noexcept;

 private:
  std::string socket_;
  int lock_ = -1;
};

}  // namespace millrace::runtime
