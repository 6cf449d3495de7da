// Signals that come while a call waits, each handler of which returns: the call goes on, and no
// timeout gets shorter or longer (P04, L08, S35). CPython's _TestPollEintr, TestIgnoreEINTR and
// TestTimeouts, over its three start methods. SIGINT: sigint*_test.cpp, synchronize_sigint_test.cpp
// and connection_wait_test.cpp.
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <atomic>
#include <chrono>
#include <millrace/millrace.hpp>
#include <string>
#include <thread>
#include <type_traits>

#include "tests/api/ported_support.hpp"
#include "tests/api/sigint_support.hpp"

namespace millrace::test {
namespace {

using connection::Address;
using connection::Client;
using connection::Listener;

constexpr std::size_t kTooMuchForAPipe = std::size_t{4} << 20U;

class PortedSignals : public SpawnTest {};
INSTANTIATE_TEST_SUITE_P(Methods, PortedSignals, all_methods(), method_name);

int* handled_count = nullptr;
void count_signal(int) { std::atomic_ref<int>(*handled_count).fetch_add(1); }

// This process gets a signal every other millisecond, by a handler that counts. System calls are
// not restarted by themselves.
class Disturbed {
 public:
  explicit Disturbed(const mp::RawValue<int>& count) : count_(count) {
    handled_count = &count_.get_obj();
    struct sigaction action {};
    action.sa_handler = &count_signal;
    ::sigaction(SIGALRM, &action, &before_);
    set(2000);
  }
  ~Disturbed() {
    set(0);
    ::sigaction(SIGALRM, &before_, nullptr);
  }
  Disturbed(const Disturbed&) = delete;
  Disturbed& operator=(const Disturbed&) = delete;

 private:
  static void set(suseconds_t us) {
    const itimerval often{{0, us}, {0, us}};
    ::setitimer(ITIMER_REAL, &often, nullptr);
  }
  mp::RawValue<int> count_;
  struct sigaction before_ {};
};

template <class... Args>
void wait_disturbed(const mp::RawValue<int>& count, void (*waits)(const Args&...),
                    const Args&... args) {
  const Disturbed disturbed(count);
  waits(args...);
}

// A child goes on with waits(args...) through many signals. Then ends() lets it go, and it ends
// well.
template <class Ends, class... Args>
void expect_undisturbed(Ends ends, void (*waits)(const Args&...),
                        const std::type_identity_t<Args>&... args) {
  const mp::RawValue<int> count(0);
  auto child = started(1, &wait_disturbed<Args...>, count, waits, args...);
  const std::atomic_ref<int> handled(count.get_obj());
  while (child[0].is_alive() && (handled.load() == 0 || !asleep(*child[0].pid()))) {
    std::this_thread::sleep_for(1ms);
  }
  const int first = handled.load();
  while (child[0].is_alive() && handled.load() < first + 20) std::this_thread::sleep_for(1ms);
  EXPECT_TRUE(child[0].is_alive()) << "a signal ended what it waits for";
  ends();
  end_well(child);
}

TEST_P(PortedSignals, ReceiversGoOn) {  // TestIgnoreEINTR.test_ignore
  const auto [here, there] = mp::Pipe();
  const auto send = [&here = here] { here.send(1234); };
  expect_undisturbed(
      send, +[](const mp::Connection& c) { require(c.recv<int>() == 1234); }, there);
  expect_undisturbed(
      send,
      +[](const mp::Connection& c) {
        require(c.poll(std::nullopt));
        require(c.recv<int>() == 1234);
      },
      there);
  expect_undisturbed(
      send,
      +[](const mp::Connection& c) {
        require(connection::wait({c}).size() == 1);
        require(c.recv<int>() == 1234);
      },
      there);
}

TEST_P(PortedSignals, SendersGoOn) {  // TestIgnoreEINTR.test_ignore
  const auto [here, there] = mp::Pipe();
  expect_undisturbed(
      [&here = here] { EXPECT_EQ(here.recv_bytes(), std::string(kTooMuchForAPipe, 'x')); },
      +[](const mp::Connection& c) { c.send_bytes(std::string(kTooMuchForAPipe, 'x')); }, there);
}

// TestIgnoreEINTR.test_ignore_listener; a Client that is not let in yet, and both over the socket
TEST_P(PortedSignals, ListenersAndClientsGoOn) {
  for (const char* family : {"AF_UNIX", "AF_INET"}) {
    const auto [here, there] = mp::Pipe();
    expect_undisturbed(
        [&here = here] { EXPECT_EQ(Client(here.recv<Address>()).recv<std::string>(), "welcome"); },
        +[](const mp::Connection& c, const std::string& f) {
          const Listener listener({.family = f});
          c.send(listener.address());
          listener.accept().send("welcome");
        },
        there, std::string(family));
    const Listener listener({.family = family, .authkey = "k", .handshake_timeout = Timeout()});
    std::optional<mp::Connection> served;
    expect_undisturbed(
        [&] {
          served = listener.accept();
          EXPECT_EQ(served->recv<int>(), 1);
        },
        +[](const Address& address) {
          Client(address, {.authkey = "k", .handshake_timeout = Timeout()}).send(1);
        },
        listener.address());
  }
}

TEST_P(PortedSignals, ConnectionsOverSocketsGoOn) {  // TestIgnoreEINTR.test_ignore
  const Listener listener({.family = "AF_INET"});
  const auto client = Client(listener.address());
  const auto served = listener.accept();
  expect_undisturbed([&] { served.send(1234); },
                     +[](const mp::Connection& c) { require(c.recv<int>() == 1234); }, client);
  const std::size_t much = std::size_t{32} << 20U;  // for the buffers of a socket
  expect_undisturbed(
      [&] { EXPECT_EQ(served.recv_bytes().size(), much); },
      +[](const mp::Connection& c, const std::size_t& n) { c.send_bytes(std::string(n, 'x')); },
      client, much);
}

// _TestPollEintr.test_poll_eintr
TEST_P(PortedSignals, ProcessesAreStartedAndJoined) {
  const mp::Event end;
  expect_undisturbed([&] { end.set(); },
                     +[](const mp::Event& e) {
                       auto children = started(
                           3, [](const mp::Event& mine) { mine.wait(); }, e);
                       for (auto& each : children) {
                         require(each.join());
                         require(each.exitcode() == 0);
                       }
                     },
                     end);
}

TEST_P(PortedSignals, QueuesAndLocksGoOn) {  // S35
  const mp::Queue<int> queue(1);
  expect_undisturbed([&] { queue.put(7); }, +[](const mp::Queue<int>& q) { require(q.get() == 7); },
                     queue);
  queue.put(1);
  expect_undisturbed([&] { EXPECT_EQ(queue.get(), 1); }, +[](const mp::Queue<int>& q) { q.put(2); },
                     queue);
  EXPECT_EQ(queue.get(), 2);
  const mp::Lock lock;
  lock.acquire();
  expect_undisturbed([&] { lock.release(); },
                     +[](const mp::Lock& l) {
                       l.acquire();
                       l.release();
                     },
                     lock);
  const mp::Semaphore sem(0);
  expect_undisturbed([&] { sem.release(); }, +[](const mp::Semaphore& s) { s.acquire(); }, sem);
  const mp::Barrier barrier(2);
  expect_undisturbed([&] { barrier.wait(); }, +[](const mp::Barrier& b) { b.wait(); }, barrier);
  const mp::Condition condition;
  expect_undisturbed(
      [&] {
        const std::scoped_lock guard(condition);
        condition.notify();
      },
      +[](const mp::Condition& c) {
        const std::scoped_lock guard(c);
        c.wait();
      },
      condition);
}

TEST_P(PortedSignals, PoolsAndManagersGoOn) {
  const mp::Event end;
  expect_undisturbed([&] { end.set(); },
                     +[](const mp::Event& e) {
                       mp::Pool pool(1);
                       require(pool.apply(
                                   [](const mp::Event& mine) {
                                     mine.wait();
                                     return 5;
                                   },
                                   e) == 5);
                       pool.close();
                       pool.join();
                     },
                     end);
  auto manager = mp::Manager();
  const mp::QueueProxy queue = manager.Queue();
  expect_undisturbed([&] { queue.put(3); }, +[](const mp::QueueProxy& q) { require(q.get() == 3); },
                     queue);
}

// L08, P04: each waits for what is left of its time, neither less nor anew
TEST_P(PortedSignals, TimeoutsKeepTheirLength) {
  const auto [here, there] = mp::Pipe();
  const mp::Lock taken;
  taken.acquire();
  EXPECT_EQ(run_spawned(
                [](const mp::Connection& c, const mp::Lock& lock) {
                  const Disturbed disturbed(mp::RawValue<int>(0));
                  const auto lasts = [](auto call) {
                    const auto begin = std::chrono::steady_clock::now();
                    require(!call(60ms));
                    require(std::chrono::steady_clock::now() - begin >= 60ms);
                  };
                  lasts([&](auto t) { return c.poll(t); });
                  lasts([&](auto t) { return !connection::wait({c}, t).empty(); });
                  lasts([&](auto t) { return lock.acquire(t); });
                  lasts([&](auto t) { return mp::Event().wait(t); });
                  lasts([&](auto t) { return mp::Queue<int>().try_get(t).has_value(); });
                  auto child = started(
                      1, [](const mp::Lock& l) { l.acquire(); }, lock);
                  lasts([&](auto t) { return child[0].join(t); });
                  child[0].kill();
                  child[0].join();
                },
                there, taken),
            0);
}

// TestTimeouts.test_timeout: there is no default timeout of sockets here. What comes nearest, the
// time for a handshake and a timeout set at a connection's descriptor, ends no other call.
TEST_P(PortedSignals, OnlyACallsOwnTimeoutEndsIt) {
  const auto [here, there] = mp::Pipe();
  const Listener listener({.family = "AF_INET", .handshake_timeout = 1ms});
  auto child = started(
      1,
      [](const mp::Connection& to, const Address& address) {
        std::this_thread::sleep_for(50ms);
        to.send(123);
        std::this_thread::sleep_for(50ms);
        const auto conn = Client(address);
        std::this_thread::sleep_for(50ms);
        conn.send(456);
      },
      there, listener.address());
  EXPECT_EQ(here.recv<int>(), 123);
  const auto conn = listener.accept();
  const timeval soon{0, 1000};
  EXPECT_EQ(::setsockopt(conn.fileno(), SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon), 0);
  EXPECT_EQ(conn.recv<int>(), 456);
  end_well(child);
}

// SIGINT is another matter: after install_sigint() it ends what waits (L02, L07, Q06, Q08).
TEST_F(SigintTest, EndsWhoAcceptsCallsReceivesPutsAndGets) {
  const Listener listener({.family = "AF_UNIX", .authkey = "k", .handshake_timeout = Timeout()});
  const auto client = [&] {
    return Client(listener.address(), {.authkey = "k", .handshake_timeout = Timeout()});
  };
  const Listener open({.family = "AF_INET"});
  const mp::Queue<int> queue(1);
  const auto interrupted = [](auto call) {
    return run_forked([&] {
             mp::install_sigint();
             return is_interrupted(call) ? 100 : 1;
           })
        .code;
  };
  EXPECT_EQ(interrupted([&] { (void)listener.accept(); }), 100);
  EXPECT_EQ(interrupted([&] { (void)client(); }), 100);
  EXPECT_EQ(interrupted([&] { (void)Client(open.address()).recv<int>(); }), 100);
  EXPECT_EQ(interrupted([&] { (void)queue.get(); }), 100);
  queue.put(1);
  EXPECT_EQ(interrupted([&] { queue.put(2); }), 100);
  EXPECT_EQ(queue.get(), 1);
  EXPECT_TRUE(queue.empty());
}

}  // namespace
}  // namespace millrace::test
