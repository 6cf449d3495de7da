// Connection's calls over an end that is no pipe and no socket. A Pipe's fileno() while another
// process, which has stopped or died, decides which bell there is.
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <memory>
#include <millrace/connection.hpp>
#include <millrace/millrace.hpp>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "runtime/channels/pipe_end.hpp"
#include "shm/process_table.hpp"
#include "tests/api/sigint_support.hpp"
#include "tests/leak_check.hpp"
#include "tests/runtime/memory_end.hpp"

namespace millrace::test {
namespace {

struct Point {
  int x, y;
  bool operator==(const Point&) const = default;
};

template <class E, class F>
std::string text_of(F f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(ConnectionEnd, CarriesValuesOfTheirOwnTypes) {
  auto [a, b] = memory_pipe();
  a.send(42);
  a.send("text");
  a.send(Point{1, 2});
  a.send(std::vector<double>(1000, 0.5));
  EXPECT_EQ(b.recv<int>(), 42);
  EXPECT_EQ(b.recv<std::string>(), "text");
  EXPECT_EQ(b.recv<Point>(), (Point{1, 2}));
  EXPECT_EQ(b.recv<std::vector<double>>(), std::vector<double>(1000, 0.5));
}

TEST(ConnectionEnd, GivesWhatConvertsWithoutLoss) {
  auto [a, b] = memory_pipe();
  a.send(42);
  EXPECT_EQ(b.recv<long>(), 42);
  a.send(List{1, 2, 3});
  EXPECT_EQ(b.recv<std::vector<int>>(), (std::vector<int>{1, 2, 3}));
  a.send(std::vector<int>{1, 2});
  EXPECT_EQ(b.recv(), (List{1, 2}));
  a.send(std::map<std::string, int>{{"k", 1}});
  EXPECT_EQ(b.recv<Dict>(), (Dict{{"k", 1}}));
}

TEST(ConnectionEnd, RefusesOtherMessagesWhichAreGoneThen) {
  auto [a, b] = memory_pipe();
  a.send("text");
  EXPECT_THROW(b.recv<int>(), TypeError);
  a.send(300);
  EXPECT_THROW(b.recv<signed char>(), TypeError);
  a.send(Point{1, 2});
  EXPECT_THROW(b.recv(), TypeError);
  a.send(7);
  EXPECT_THROW(b.recv<Point>(), TypeError);
  a.send_bytes("bytes");
  EXPECT_THROW(b.recv<std::string>(), TypeError);
  a.send(1);
  EXPECT_EQ(b.recv<int>(), 1);
}

TEST(ConnectionEnd, AHandleInARefusedMessageIsGivenBack) {
  auto [a, b] = memory_pipe();
  shared_array<int> array(10);
  a.send(array);
  EXPECT_THROW(b.recv<int>(), TypeError);
  a.send(array);
  EXPECT_TRUE(b.recv<shared_array<int>>() == array);
}

TEST(ConnectionEnd, SpeaksPythonWhereTheEndDoes) {
  auto [a, b] = memory_pipe(true);
  a.send(List{42, None, "hello"});
  EXPECT_EQ(b.recv(), (List{42, None, "hello"}));
  a.send(std::vector<int>{1, 2});
  EXPECT_EQ(b.recv<std::vector<long>>(), (std::vector<long>{1, 2}));
  EXPECT_THROW(a.send(Point{1, 2}), TypeError);
  a.send_bytes("garbage");
  EXPECT_THROW(b.recv(), UnpicklingError);
  a.send(true);
  EXPECT_EQ(b.recv<bool>(), true);
}

TEST(ConnectionEnd, ChecksOffsetsAndSizes) {  // N06-N08
  auto [a, b] = memory_pipe();
  EXPECT_THROW(a.send_bytes("abc", -1), ValueError);
  EXPECT_THROW(a.send_bytes("abc", 4), ValueError);
  EXPECT_THROW(a.send_bytes("abc", 0, -1), ValueError);
  EXPECT_THROW(a.send_bytes("abc", 1, 3), ValueError);
  a.send_bytes("abc", 1, 2);
  a.send_bytes("abc", 3);
  EXPECT_EQ(b.recv_bytes(), "bc");
  EXPECT_EQ(b.recv_bytes(), "");
  EXPECT_THROW(b.recv_bytes(-1), ValueError);
  std::vector<std::byte> room(4);
  EXPECT_THROW(b.recv_bytes_into(room, -1), ValueError);
  EXPECT_THROW(b.recv_bytes_into(room, 5), ValueError);
}

TEST(ConnectionEnd, AMessageThatDoesNotFitIsInTheException) {  // N08
  auto [a, b] = memory_pipe();
  a.send_bytes("too long");
  std::vector<char> room(4, 'x');
  try {
    b.recv_bytes_into(room);
    FAIL();
  } catch (const BufferTooShort& error) {
    EXPECT_EQ(error.message(), "too long");
  }
  a.send_bytes("abc");
  EXPECT_EQ(b.recv_bytes_into(room, 1), 3U);
  EXPECT_EQ(std::string(room.data(), room.size()), "xabc");
}

TEST(ConnectionEnd, AMessageBeyondMaxlengthEndsReading) {  // N07
  auto [a, b] = memory_pipe();
  a.send_bytes("four");
  EXPECT_EQ(b.recv_bytes(4), "four");
  a.send_bytes("five!");
  EXPECT_THROW(b.recv_bytes(4), std::system_error);
  EXPECT_FALSE(b.readable());
  EXPECT_THROW(b.recv_bytes(), std::system_error);
  b.send(1);
  EXPECT_EQ(a.recv<int>(), 1);
}

TEST(ConnectionEnd, TheLastHandleOfAProcessClosesTheEnd) {  // N04
  auto [a, b] = memory_pipe();
  {
    const Connection copy = a;
    EXPECT_TRUE(copy == a);
    EXPECT_FALSE(copy == b);
    a = b;
    EXPECT_FALSE(b.poll());
  }
  EXPECT_TRUE(b.poll());
  EXPECT_THROW(b.recv(), EOFError);
  EXPECT_THROW(b.send(1), std::system_error);
}

TEST(ConnectionEnd, CloseIsForAllCopies) {  // N04, N09
  auto [a, b] = memory_pipe();
  const Connection copy = a;
  a.close();
  a.close();
  EXPECT_TRUE(copy.closed());
  EXPECT_EQ(text_of<std::system_error>([&, c = copy] { c.send(1); }).substr(0, 16),
            "handle is closed");
  EXPECT_THROW(copy.recv(), std::system_error);
  EXPECT_THROW((void)copy.poll(), std::system_error);
  EXPECT_THROW((void)copy.fileno(), std::system_error);
  EXPECT_FALSE(b.closed());
}

TEST(ConnectionEnd, OneOfThisProcessOnlyDoesNotTravel) {
  auto [a, b] = memory_pipe();
  EXPECT_THROW(a.send(b), TypeError);
}

// ---- a Pipe's bell (pipe_bell.hpp)

class PipeBell : public LeakCheck {};

// A Pipe without its handles: end 1 receives what end 0 sends.
class BarePipe {
 public:
  BarePipe() {
    for (unsigned side = 0; side < 2; ++side) {
      body().direction[side].make(rings_ + side * ring_);
      ends_[side] = end(side);
    }
  }

  runtime::Direction& way() { return body().direction[1]; }
  runtime::PipeEnd& receiver() { return *ends_[1]; }
  /// The receiver's handle; it belongs to that from here on.
  Connection handle() { return runtime::make_connection(std::move(ends_[1])); }
  void close() {
    for (auto& each : ends_) each->close();
  }
  void send() {
    const auto byte = std::byte{7};
    const runtime::FramePart part(&byte, 1);
    ends_[0]->send(runtime::FrameKind::bytes, {&part, 1});
  }

 private:
  runtime::PipeBody& body() { return *static_cast<runtime::PipeBody*>(body_.payload()); }
  std::unique_ptr<runtime::PipeEnd> end(unsigned side) {
    void* holder = nullptr;
    void* const token = shm::create_object({64, shm::object_type<runtime::PipeSide>()}, &holder);
    body().side[side].token = shm::watch_object(token);
    const runtime::ConnectionObject object{reinterpret_cast<std::uint64_t>(body_.payload()),
                                           runtime::EndKind::pipe, side, true, true};
    return std::make_unique<runtime::PipeEnd>(object, token);
  }

  const std::size_t ring_ =
      (shm::SpscRing::bytes_for(runtime::Direction::kGeometry) + 63) / 64 * 64;
  shm::ObjectRef body_{shm::ObjectRequest{.bytes = sizeof(runtime::PipeBody) + 2 * ring_,
                                          .type = shm::object_type<runtime::PipeBody>()}};
  std::byte* rings_ = static_cast<std::byte*>(body_.payload()) + sizeof(runtime::PipeBody);
  std::unique_ptr<runtime::PipeEnd> ends_[2];
};

// A process that has done something, and is stopped.
class Stopped {
 public:
  explicit Stopped(const std::function<void()>& done = [] {}) {
    int ends[2];
    if (::pipe(ends) != 0) std::abort();
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      done();
      const shm::ProcessId id = shm::self();
      if (::write(ends[1], &id, sizeof id) != sizeof id) ::_exit(1);
      for (;;) ::pause();
    }
    ::close(ends[1]);
    EXPECT_EQ(::read(ends[0], &id_, sizeof id_), static_cast<ssize_t>(sizeof id_));
    ::close(ends[0]);
    signal(SIGSTOP, WUNTRACED);
  }
  Stopped(const Stopped&) = delete;
  Stopped& operator=(const Stopped&) = delete;
  ~Stopped() { kill(); }

  [[nodiscard]] shm::ProcessId id() const { return id_; }
  void kill() {
    signal(SIGKILL, 0);
    pid_ = -1;
  }

 private:
  void signal(int number, int wait) const {
    if (pid_ <= 1) return;
    EXPECT_EQ(::kill(pid_, number), 0);
    EXPECT_EQ(::waitpid(pid_, nullptr, wait), pid_);
  }

  pid_t pid_ = -1;
  shm::ProcessId id_ = 0;
};

bool is_readable(int fd) {
  pollfd look{fd, POLLIN, 0};
  return ::poll(&look, 1, 0) == 1;
}

// A thread that asks for fileno(), and has come to where it waits for the maker.
template <class Ask>
std::thread waiting(BarePipe& pipe, Ask ask) {
  std::thread asks(ask);
  while (!pipe.way().items.maybe_asleep()) std::this_thread::yield();
  return asks;
}

TEST_F(PipeBell, AStoppedMakerHoldsUpWhoAsksAndNobodyElse) {
  BarePipe pipe;
  BarePipe other;
  EXPECT_FALSE(is_readable(other.receiver().fileno()));
  Stopped maker;
  pipe.way().bell.maker = maker.id();
  int fd = -1;
  std::thread asks = waiting(pipe, [&] { fd = pipe.receiver().fileno(); });
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  EXPECT_EQ(::waitpid(child, nullptr, 0), child);
  other.send();
  EXPECT_TRUE(is_readable(other.receiver().fileno()));
  other.close();
  maker.kill();
  asks.join();
  EXPECT_FALSE(is_readable(fd));
  pipe.send();
  EXPECT_TRUE(is_readable(fd));
}

TEST_F(PipeBell, WhoWaitsForAStoppedMakerIsEndedByClose) {
  BarePipe pipe;
  const Stopped maker;
  pipe.way().bell.maker = maker.id();
  std::thread asks =
      waiting(pipe, [&] { EXPECT_THROW((void)pipe.receiver().fileno(), std::system_error); });
  pipe.close();
  asks.join();
}

TEST_F(PipeBell, WaitHearsOthersBesideAStoppedMakerAndEndsAtItsTimeout) {
  BarePipe pipe;
  Stopped maker;
  pipe.way().bell.maker = maker.id();
  const Connection end = pipe.handle();
  EXPECT_TRUE(connection::wait({end}, 5ms).empty());
  const auto [here, there] = Pipe();
  std::thread sends([&there = there] { there.send(1); });
  EXPECT_EQ(connection::wait({end, here}).size(), 1U);
  sends.join();
  pipe.send();
  EXPECT_EQ(connection::wait({end}).size(), 1U);
}

TEST_F(PipeBell, PollAnswersBesideAReaderThatIsStoppedInItsTurn) {  // N05
  BarePipe pipe;
  runtime::FrameBuffer frame;
  const auto receive = [&] { pipe.receiver().receive(frame, 100); };
  pipe.send();
  receive();
  Stopped reader([&] { pipe.way().recv_lock.acquire(shm::this_caller(), std::nullopt); });
  EXPECT_FALSE(pipe.receiver().poll(0s));
  EXPECT_FALSE(pipe.receiver().poll(1ms));
  pipe.send();
  EXPECT_TRUE(pipe.receiver().poll(0s));
  EXPECT_TRUE(pipe.receiver().poll(1ms));
  reader.kill();
  receive();
  EXPECT_FALSE(pipe.receiver().poll(0s));
}

TEST_F(PipeBell, OneThatManyHaveIsFoundWhereTheLastHasIt) {
  BarePipe pipe;
  std::vector<std::unique_ptr<Stopped>> those_who_wait;
  for (int i = 0; i < 20; ++i) {
    those_who_wait.push_back(std::make_unique<Stopped>([&] { (void)pipe.receiver().fileno(); }));
  }
  those_who_wait.erase(those_who_wait.begin(), those_who_wait.end() - 1);
  const std::lock_guard guard(runtime::bell_mutex());
  runtime::Bell bell(pipe.way().bell);
  bell.add_unit();
  EXPECT_GE(bell.fd(), 0);
}

TEST_F(PipeBell, WhoWaitsForAMakerIsInterrupted) {
  const shm::ProcessId living = shm::self();
  EXPECT_EQ(run_forked([living] {
              install_sigint();
              BarePipe pipe;
              pipe.way().bell.maker = living;
              const Interrupter interrupter(5ms);
              return pipe.receiver().fileno() < 0 ? 1 : 2;
            }).code,
            100);
}

// `rung` is still that of the bell before: the maker died before it said that this one is quiet.
TEST_F(PipeBell, OneThatADeadMakerPublishedIsRung) {
  BarePipe pipe;
  Stopped maker([&] { (void)pipe.receiver().fileno(); });
  runtime::BellState& state = pipe.way().bell;
  const std::lock_guard guard(runtime::bell_mutex());
  runtime::Bell bell(state);
  const auto empty = [&] {
    while (bell.readable()) bell.take_unit();
  };
  empty();
  ASSERT_GE(bell.fd(), 0) << "it was found in the maker's process";
  state.rung = runtime::BellState::kRung;
  state.maker = maker.id();
  EXPECT_FALSE(bell.try_arm());
  maker.kill();
  EXPECT_TRUE(bell.try_arm());
  EXPECT_TRUE(bell.readable());
  empty();
  bell.ring();
  EXPECT_TRUE(bell.readable());
  bell.leave();
}

}  // namespace
}  // namespace millrace::test
