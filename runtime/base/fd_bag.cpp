#include "runtime/base/fd_bag.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <millrace/fd.hpp>
#include <mutex>
#include <string>
#include <system_error>

#include "runtime/base/fork_mutex.hpp"
#include "shm/arena.hpp"
#include "shm/immortal.hpp"
#include "shm/message_scope.hpp"
#include "shm/process_table.hpp"

namespace millrace {

namespace runtime {
namespace {

// Out of the way of the numbers that executed children are given.
constexpr int kLowestFd = 10;
// In a number, beside the id of the process that a message is for; else the depositor's.
constexpr unsigned kIdShift = 38;
constexpr std::uint64_t kOfMessage = std::uint64_t{1} << (kIdShift - 1);
constexpr off_t kLockedByte = off_t{1} << 61;  // of the arena's file, where nothing is

struct Bag {
  ForkMutex mutex{ForkMutex::Level::names};  // guards `ends`, and the bag among threads
  BagEnds ends;
  std::atomic<bool> needed{false};  // also by the children of this process
};

Bag& bag() {
  static shm::Immortal<Bag> instance;
  return *instance;
}
[[maybe_unused]] const Bag& g_made_before_threads = bag();

int moved_up(int fd) noexcept {
  const int moved = ::fcntl(fd, F_DUPFD_CLOEXEC, kLowestFd);
  ::close(fd);
  return moved;
}

[[noreturn]] void refuse(int error, const char* what) {
  throw std::system_error(error, std::generic_category(), what);
}

// The bag, among processes.
void lock_file(short type) noexcept {
  struct flock range {};
  range.l_type = type;
  range.l_whence = SEEK_SET;
  range.l_start = kLockedByte;
  range.l_len = 1;
  while (::fcntl(shm::Arena::instance().fd(), F_SETLKW, &range) != 0 && errno == EINTR) {
  }
}

class FileLock {
 public:
  FileLock() noexcept { lock_file(F_WRLCK); }
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  ~FileLock() { lock_file(F_UNLCK); }
};

// Two numbers of 32 bits in a word.
std::uint64_t joined(std::uint32_t first, std::uint32_t second) noexcept {
  return std::uint64_t{first} << 32U | second;
}

std::uint32_t inode_of(int fd) noexcept {
  struct stat status {};
  return ::fstat(fd, &status) == 0 ? static_cast<std::uint32_t>(status.st_ino) : 0;
}

// Who opened the bag, what its descriptors are there, and which sockets they are. Read and written
// with the file lock; relaxed: it orders them, and what is wrong shows in the inodes.
struct Note {
  using Slot = shm::ArenaRoot;
  static std::atomic<std::uint64_t>& word(Slot::Slot slot) noexcept {
    return shm::Arena::instance().root().word[slot];
  }
  static void write(BagEnds ends) noexcept {
    word(Slot::kFdBagNumbers)
        .store(joined(static_cast<std::uint32_t>(ends.in), static_cast<std::uint32_t>(ends.out)),
               std::memory_order_relaxed);
    word(Slot::kFdBagInodes)
        .store(joined(inode_of(ends.in), inode_of(ends.out)), std::memory_order_relaxed);
    word(Slot::kFdBagHolder).store(shm::self(), std::memory_order_relaxed);
  }
};

bool whole(BagEnds ends) noexcept { return ends.in >= 0 && ends.out >= 0; }

void close_both(BagEnds ends) noexcept {
  if (ends.in >= 0) ::close(ends.in);
  if (ends.out >= 0) ::close(ends.out);
}

// Those of the process that opened the bag, if it lives and the kernel lets this one have them.
BagEnds ends_of_holder() noexcept {
  using Slot = shm::ArenaRoot;
  const auto holder =
      static_cast<shm::ProcessId>(Note::word(Slot::kFdBagHolder).load(std::memory_order_relaxed));
  if (holder == shm::kNobody || holder == shm::self()) return {};
  const auto& table = shm::ProcessTable::instance();
  if (table.is_dead(holder)) return {};
  const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, table.pid(holder), 0U)));
  if (process.get() < 0) return {};
  const std::uint64_t numbers = Note::word(Slot::kFdBagNumbers).load(std::memory_order_relaxed);
  const auto copy = [&](std::uint64_t number) {
    return static_cast<int>(
        ::syscall(SYS_pidfd_getfd, process.get(), static_cast<int>(number & 0xffff'ffffU), 0U));
  };
  const BagEnds got{copy(numbers >> 32U), copy(numbers)};
  if (whole(got) && joined(inode_of(got.in), inode_of(got.out)) ==
                        Note::word(Slot::kFdBagInodes).load(std::memory_order_relaxed)) {
    return got;
  }
  close_both(got);
  return {};
}

// With the mutex and an arena.
BagEnds open_ends(Bag& all) noexcept {
  if (all.ends.in >= 0) return all.ends;
  const FileLock others_wait;
  BagEnds ends = ends_of_holder();
  const bool is_new = !whole(ends);
  int pair[2];
  if (is_new) {
    const int type = SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK;
    if (::socketpair(AF_UNIX, type, 0, pair) != 0) return {};
    ends = {pair[0], pair[1]};
  }
  ends = {moved_up(ends.in), moved_up(ends.out)};
  if (!whole(ends)) {
    close_both(ends);
    return {};
  }
  if (is_new) Note::write(ends);
  all.ends = ends;
  return ends;
}

// What a message held.
struct Found {
  Fd first;
  Fd second;
  [[nodiscard]] FdPair numbers() const noexcept { return {first.get(), second.get()}; }
  [[nodiscard]] FdPair release() noexcept { return {first.release(), second.release()}; }
};

// The bag to this thread alone, among all processes.
class InBag {
 public:
  InBag() : guard_(bag().mutex), ends_(open_ends(bag())) {
    if (ends_.in < 0) refuse(EMFILE, "a socketpair for descriptors on the way");
  }

  // False: not at this time.
  [[nodiscard]] bool put(std::uint64_t number, FdPair fds) const noexcept {
    iovec content{&number, sizeof number};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof fds)] = {};
    const std::size_t bytes = fds.second < 0 ? sizeof fds.first : sizeof fds;
    msghdr message{};
    message.msg_iov = &content;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(bytes);
    cmsghdr* const head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(bytes);
    std::memcpy(CMSG_DATA(head), &fds, bytes);
    return ::sendmsg(ends_.in, &message, MSG_NOSIGNAL) == sizeof number;
  }

  // Who asks for it, and has no bag, asks the process that put it there.
  [[nodiscard]] bool put_as_holder(std::uint64_t number, FdPair fds) const noexcept {
    if (!put(number, fds)) return false;
    const int error = errno;
    Note::write(ends_);
    errno = error;
    return true;
  }

  // The next message, taken out; number 0: there is none. The kernel drops what it cannot give a
  // number here: so it is looked at first, and stays if that happens.
  std::uint64_t next(Found& found) const {
    std::uint64_t number = 0;
    FdPair got;
    iovec content{&number, sizeof number};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof got)] = {};
    msghdr message{};
    message.msg_iov = &content;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    if (::recvmsg(ends_.out, &message, MSG_PEEK | MSG_CMSG_CLOEXEC) != sizeof number) return 0;
    if (const cmsghdr* head = CMSG_FIRSTHDR(&message); head != nullptr) {
      std::memcpy(&got, CMSG_DATA(head), std::min(head->cmsg_len - CMSG_LEN(0), sizeof got));
    }
    found.first.reset(got.first);
    found.second.reset(got.second);
    if ((message.msg_flags & MSG_CTRUNC) != 0) refuse(EMFILE, "a descriptor that has arrived");
    return ::recv(ends_.out, &number, sizeof number, 0) == sizeof number ? number : 0;
  }

  // Takes the wanted message out if it is the first. Needs no descriptor to receive with: the
  // kernel closes the one that is not asked for.
  [[nodiscard]] bool drop_first(std::uint64_t wanted) const noexcept {
    std::uint64_t number = 0;
    return ::recv(ends_.out, &number, sizeof number, MSG_PEEK) == sizeof number &&
           number == wanted && ::recv(ends_.out, &number, sizeof number, 0) == sizeof number;
  }

  // Takes out whatever is a message's for `id`.
  void discard_of_message(std::uint64_t id) const {
    const std::uint64_t prefix = id << kIdShift | kOfMessage;
    look([prefix](std::uint64_t number) {
      return Verdict{(number & ~(kOfMessage - 1)) != prefix, false};
    });
  }

  // The wanted message's, or none; it stays if `stays`.
  Found find(std::uint64_t wanted, bool stays) const {
    return look([wanted, stays](std::uint64_t number) {
      return number == wanted ? Verdict{stays, true} : Verdict{true, false};
    });
  }

 private:
  struct Verdict {
    bool stays;
    bool last;
  };

  // Looks at every message once, until one is the last: what that one held.
  template <class Judge>
  Found look(Judge judge) const {
    std::uint64_t first = 0;
    for (;;) {
      Found found;
      const std::uint64_t number = next(found);
      if (number == 0) return {};
      const Verdict verdict = judge(number);
      if (verdict.stays) put_back(number, found.numbers());
      if (verdict.last) return found;
      if (number == first) return {};
      if (verdict.stays && first == 0) first = number;
    }
  }

  // What lay there has room. But the kernel lets a user have as many on the way as the process that
  // sends may have open: one that has lowered its limit since, which it may raise again.
  void put_back(std::uint64_t number, FdPair fds) const noexcept {
    if (put(number, fds) || errno != ETOOMANYREFS) return;
    rlimit own{};
    if (::getrlimit(RLIMIT_NOFILE, &own) != 0) return;
    const rlimit most{own.rlim_max, own.rlim_max};
    if (::setrlimit(RLIMIT_NOFILE, &most) != 0) return;
    static_cast<void>(put(number, fds));
    static_cast<void>(::setrlimit(RLIMIT_NOFILE, &own));  // that it had: is not refused
  }

  std::lock_guard<ForkMutex> guard_;
  BagEnds ends_;
  FileLock others_wait_;  // behind open_ends(), which takes it too
};

FdPair look_for(std::uint64_t number, bool stays) {
  Found found = InBag().find(number, stays);
  if (found.first.get() < 0) refuse(ENOENT, "a descriptor was lost on its way");
  return found.release();
}

}  // namespace

std::uint64_t deposit_fds(FdPair fds) {
  static std::atomic<std::uint64_t> count{0};
  if (fds.first < 0 || ::fcntl(fds.first, F_GETFD) < 0)
    refuse(EBADF, "a descriptor that is to travel");
  const shm::ProcessId message = shm::InMessage::id();
  const std::uint64_t whose = message != shm::kNobody
                                  ? std::uint64_t{message} << kIdShift | kOfMessage
                                  : std::uint64_t{shm::self()} << kIdShift;
  // relaxed: a number; forked children count on under ids of their own
  const std::uint64_t number = whose | (count.fetch_add(1, std::memory_order_relaxed) + 1);
  need_fd_bag();
  if (!InBag().put_as_holder(number, fds)) {
    refuse(errno == EAGAIN ? ETOOMANYREFS : errno, "too many descriptors are on their way");
  }
  return number;
}

std::uint64_t deposit_fd(int fd) { return deposit_fds({fd, -1}); }

FdPair fetch_fds(std::uint64_t number) { return look_for(number, true); }

int fetch_fd(std::uint64_t number) { return look_for(number, true).first; }

int withdraw_fd(std::uint64_t number) { return look_for(number, false).first; }

void discard_fd(std::uint64_t number) noexcept {
  try {
    const InBag in;
    if (!in.drop_first(number)) (void)in.find(number, false);
  } catch (const std::exception&) {
    // No descriptor to look behind others with: it stays until the program ends.
  }
}

void discard_fds_of_message(unsigned id) noexcept {
  try {
    InBag().discard_of_message(id);
  } catch (const std::exception&) {  // as above
  }
}

// relaxed: the thread that forks has made, or was given, what a descriptor travels through
void need_fd_bag() noexcept { bag().needed.store(true, std::memory_order_relaxed); }

[[gnu::hot]] void open_needed_fd_bag() {
  if (bag().needed.load(std::memory_order_relaxed)) open_fd_bag();  // relaxed: as above
}

BagEnds open_fd_bag() {
  (void)shm::self();  // there is an arena, and this process is in its table, before the lock
  Bag& all = bag();
  const std::lock_guard guard(all.mutex);
  return open_ends(all);
}

void adopt_fd_bag(BagEnds ends) noexcept {
  Bag& all = bag();
  const std::lock_guard guard(all.mutex);
  all.ends = {moved_up(ends.in), moved_up(ends.out)};
  need_fd_bag();
}

}  // namespace runtime

void Fd::reset(int fd) noexcept {
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
}

namespace wire {
namespace {

void drop(std::byte* place) noexcept {
  std::uint64_t number = 0;
  std::memcpy(&number, place, sizeof number);
  runtime::discard_fd(number);
}

}  // namespace

void Custom<Fd>::encode(Writer& out, const Fd& fd) {
  std::uint64_t number = runtime::deposit_fd(fd.get());
  try {
    const std::size_t offset = out.size();
    out.put(number);
    out.keep(offset, drop);
  } catch (...) {
    drop(reinterpret_cast<std::byte*>(&number));
    throw;
  }
}

Fd Custom<Fd>::decode(Reader& in) {
  const auto number = in.take<std::uint64_t>();
  if (in.references() != References::take) return Fd(runtime::fetch_fd(number));
  try {
    return Fd(runtime::withdraw_fd(number));
  } catch (...) {  // nobody will ask for it again
    runtime::discard_fd(number);
    throw;
  }
}

}  // namespace wire
}  // namespace millrace
