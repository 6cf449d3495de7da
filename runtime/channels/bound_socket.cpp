#include "runtime/channels/bound_socket.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <millrace/errors.hpp>
#include <system_error>
#include <vector>

#include "runtime/base/own_pid.hpp"
#include "runtime/channels/address.hpp"

namespace millrace::runtime {
namespace {

using connection::Address;

constexpr mode_t kUsers = S_IRUSR | S_IWUSR;

// What the user can do about it.
std::string remedy(int error, const Address& address) {
  switch (error) {
    case EADDRINUSE:
      return address.path().empty()
                 ? "; another socket listens there: end it, or let port 0 choose a free one"
                 : "; the path exists: another listener has it, or one was killed and left it: "
                   "remove the file if nobody listens";
    case EADDRNOTAVAIL:
      return "; this machine has no such address: name one of its own, or 'localhost'";
    case EACCES:
      return address.path().empty() ? "; ports below 1024 are the superuser's"
                                    : "; the path's folder cannot be written";
    case ENOENT:
      return "; the path's folder does not exist";
    case EAFNOSUPPORT:
      return "; this machine has no such family";
    default:
      return {};
  }
}

[[noreturn]] void fail(const char* call, int error, const Address& address) {
  throw std::system_error(
      error, std::generic_category(),
      std::string("Listener: ") + call + " of " + address.repr() + remedy(error, address));
}

Address any_of(int family) {
  if (family == AF_INET) return {"localhost", 0};
  if (family == AF_INET6) return {"::1", 0};
  return {};
}

}  // namespace

BoundSocket::BoundSocket(const Request& request)
    : family_(family_of(request.address, request.family)), owner_(own_pid()) {
  Address address = request.address.empty() ? any_of(family_) : request.address;
  socket_.reset(::socket(family_, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (socket_.get() < 0) fail("socket for the family", errno, address);
  try {
    if (address.empty()) {
      folder_.emplace();
      address = folder_->socket();
    }
    bind(address);
    address_ = bound_address(socket_.get());
    if (family_ == AF_UNIX) remember_file();
    if (::listen(socket_.get(), request.backlog) != 0) fail("listen", errno, address);
  } catch (...) {
    close();
    throw;
  }
}

void BoundSocket::bind(const Address& address) {
  const int fd = socket_.get();
  const int on = 1;
  if (family_ == AF_UNIX) {
    // The file will have the mode that the socket has, whatever the umask allows beyond it.
    if (::fchmod(fd, kUsers) != 0) fail("fchmod", errno, address);
  } else if (::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0) {
    fail("SO_REUSEADDR", errno, address);
  }
  int error = 0;
  for (const SystemAddress& each : resolve(address, family_)) {
    if (::bind(fd, each.get(), each.size) == 0) return;
    error = errno;
  }
  fail("bind", error, address);
}

void BoundSocket::remember_file() {
  struct stat file {};
  if (address_.path().front() == '\0') return;
  if (::lstat(address_.path().c_str(), &file) != 0) fail("lstat", errno, address_);
  // The umask may have kept it from its own user, who is to connect.
  if ((file.st_mode & kUsers) != kUsers &&
      ::fchmodat(AT_FDCWD, address_.path().c_str(), kUsers, AT_SYMLINK_NOFOLLOW) != 0) {
    fail("chmod", errno, address_);
  }
  device_ = file.st_dev;
  inode_ = file.st_ino;
}

void BoundSocket::close() noexcept {
  remove_file();
  abandon();
}

void BoundSocket::abandon() noexcept {
  socket_.reset();
  if (folder_) folder_->let_go();
  folder_.reset();
}

void BoundSocket::remove_file() noexcept {
  if (owner_ != own_pid()) return;
  struct stat file {};
  // While the socket is open no other file can have its number.
  if (inode_ != 0 && ::lstat(address_.path().c_str(), &file) == 0 && file.st_dev == device_ &&
      file.st_ino == inode_) {
    ::unlink(address_.path().c_str());
  }
  inode_ = 0;
  if (folder_) folder_->remove();
}

}  // namespace millrace::runtime
