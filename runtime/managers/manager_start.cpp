// The child reports its address, or the exception that kept it from having one, over a pipe of its
// own; when it dies before, its sentinel says so.
#include "runtime/managers/manager_start.hpp"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <millrace/context.hpp>
#include <millrace/managers.hpp>
#include <system_error>
#include <utility>
#include <vector>

#include "runtime/base/descriptor.hpp"
#include "runtime/base/exceptions.hpp"
#include "runtime/base/fd_bag.hpp"
#include "runtime/managers/manager_service.hpp"
#include "runtime/process/server_folder.hpp"

namespace millrace::runtime {

namespace {

struct ReportPipe {
  Descriptor read;
  Descriptor write;
  ReportPipe() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
      throw std::system_error(errno, std::generic_category(), "pipe2");
    }
    read = Descriptor(ends[0]);
    write = Descriptor(ends[1]);
  }
};

// False when nobody can be told.
bool write_all(int fd, const wire::Writer& message) {
  std::size_t done = 0;
  while (done < message.size()) {
    const ssize_t wrote = ::write(fd, message.data() + done, message.size() - done);
    if (wrote < 0 && errno != EINTR) return false;
    if (wrote > 0) done += static_cast<std::size_t>(wrote);
  }
  return true;
}

// A report begins with its length. Its end is not the pipe's: a child that another thread forks
// meanwhile has the writing end too. Empty when the child, whose sentinel this is, ends before.
std::vector<std::byte> read_report(int fd, int sentinel) {
  std::vector<std::byte> all;
  std::array<std::byte, 512> some;
  for (std::uint64_t length = 0;;) {
    if (all.size() >= sizeof length) std::memcpy(&length, all.data(), sizeof length);
    if (all.size() >= sizeof length && all.size() - sizeof length >= length) break;
    std::array<pollfd, 2> events{{{fd, POLLIN, 0}, {sentinel, POLLIN, 0}}};
    if (::poll(events.data(), events.size(), -1) < 0) {
      if (errno == EINTR) continue;
      throw std::system_error(errno, std::generic_category(), "poll");
    }
    if (events[0].revents == 0) return {};
    const ssize_t got = ::read(fd, some.data(), some.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw std::system_error(errno, std::generic_category(), "read");
    if (got == 0) return {};
    all.insert(all.end(), some.begin(), some.begin() + got);
  }
  all.erase(all.begin(), all.begin() + sizeof(std::uint64_t));
  return all;
}

// The child under fork, which has the plan as it is.
class ServerProcess final : public Process {
 public:
  ServerProcess(const ProcessOptions& options, ServerPlan& plan, ReportPipe& report)
      : Process(options), plan_(plan), report_(report) {}

  void run() override {
    ::signal(SIGINT, SIG_IGN);  // G03
    report_.read.reset();
    std::unique_ptr<ManagerService> service;
    wire::Writer message;
    try {
      if (plan_.initializer != nullptr) plan_.initializer->call_last();
      service =
          std::make_unique<ManagerService>(std::move(plan_.types), plan_.listen, plan_.limits);
      if (const auto parent = parent_process()) service->stop_with(parent->sentinel());
      message.put(std::uint8_t{1});
      wire::encode(message, service->address());
    } catch (...) {
      service.reset();
      message.clear();
      message.put(std::uint8_t{0});
      encode_exception(message, std::current_exception());
    }
    wire::Writer length;
    length.put(std::uint64_t{message.size()});
    const bool told =
        write_all(report_.write.get(), length) && write_all(report_.write.get(), message);
    message.clear();
    report_.write.reset();
    if (service == nullptr || !told) throw SystemExit(1);
    service->serve();
  }

 private:
  ServerPlan& plan_;
  ReportPipe& report_;
};

}  // namespace

ServerStart::ServerStart(ServerPlan plan) : plan_(std::move(plan)) {}
ServerStart::~ServerStart() = default;

connection::Address ServerStart::run() {
  ReportPipe report;
  ProcessOptions options;
  options.context = &get_context("fork");  // registered functions are not sent: they are inherited
  process_ = std::make_unique<ServerProcess>(options, plan_, report);
  const std::string name = process_->name();
  process_->name(plan_.class_name + name.substr(name.find('-')));
  need_fd_bag();  // for what its objects are given
  process_->start();
  report.write.reset();
  std::vector<std::byte> all;
  try {
    all = read_report(report.read.get(), process_->sentinel());
  } catch (...) {  // a server that nobody has heard of
    process_->kill();
    process_->join();
    ServerFolder::remove_abandoned();
    throw;
  }
  wire::Reader in(all.data(), all.size());
  if (all.size() > 1 && in.take<std::uint8_t>() == 1) return wire::decode<connection::Address>(in);
  process_->join();
  if (all.size() > 1) std::rethrow_exception(decode_exception(in));
  throw EOFError("the manager's server ended before it listened");
}

}  // namespace millrace::runtime
