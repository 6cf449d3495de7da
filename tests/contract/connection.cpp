// Every call form that connection.hpp promises for pipes. Types only: nothing here is run.
#include <array>
#include <iostream>
#include <millrace/millrace.hpp>
#include <span>

namespace mp = millrace;
using namespace std::chrono_literals;

struct Point {
  int x, y;
};

static_assert(mp::Serializable<mp::Connection> && mp::Serializable<mp::Fd>);
static_assert(!std::copy_constructible<mp::Fd>);

void send_and_receive() {
  auto [a, b] = mp::Pipe();
  auto [r, w] = mp::Pipe({.duplex = false});
  mp::Process child([c = w] { c.send(1); });
  mp::Process child2(
      [](mp::Connection& c) {
        c.send("hi");
        c.close();
      },
      w);
  a.send(42);
  a.send("text");
  a.send(std::string("s"));
  a.send(Point{1, 2});
  a.send(mp::List{42, mp::None, "hello"});
  a.send(mp::Tuple{1, 2});
  a.send(mp::Dict{{"k", 1}, {2, mp::List{}}});
  a.send(mp::Lock());
  a.send(b);
  a.send(mp::None);
  a.send(std::vector<int>{1, 2});
  a.send(mp::Fd(3));
  a.send(mp::Object("x"));
  a.send(mp::Bytes("raw"));
  const auto i = b.recv<int>();
  const mp::Object o = b.recv();
  const auto v = b.recv<std::vector<int>>();
  const auto c2 = b.recv<mp::Connection>();
  const auto f = b.recv<mp::Fd>();
  const auto l = b.recv<mp::List>();
  const int got = [c = a] { return c.recv<mp::Fd>().get(); }();
  std::cout << i << o << v.size() << c2 << f.get() << l.size() << got << r.repr();
}

void bytes(const mp::Connection& a, const mp::Connection& b) {
  std::vector<int> ints(5);
  const std::array<double, 3> da{};
  std::string text = "abc";
  std::vector<std::byte> raw(8);
  const std::span<const int> sp(ints);
  char buf[64] = {};
  a.send_bytes("thank you");
  a.send_bytes(text);
  a.send_bytes(ints);
  a.send_bytes(sp);
  a.send_bytes(raw, 2);
  a.send_bytes(raw, 2, 4);
  a.send_bytes(std::string_view("x"));
  a.send_bytes(da);
  a.send_bytes(mp::Bytes("x"));
  mp::Bytes got = b.recv_bytes();
  got = b.recv_bytes(100);
  std::size_t n = b.recv_bytes_into(ints);
  n = b.recv_bytes_into(raw, 4);
  n = b.recv_bytes_into(std::span(ints));
  n = b.recv_bytes_into(buf);
  n = b.recv_bytes_into(text);
  if (got == "thank you") std::cout << got.view() << n;
}

void state(const mp::Connection& a, const mp::Connection& b) {
  if (a.poll() || a.poll(1s) || a.poll(std::nullopt)) return;
  std::cout << a.fileno() << a.closed() << a.readable() << a.writable() << (a == b);
  a.close();
  const mp::Context& ctx = mp::get_context("spawn");
  auto [c, d] = ctx.Pipe({.duplex = false});
  auto [e, f] = ctx.Pipe();
}

void waits(const mp::Connection& a, const mp::Connection& b, const mp::Process& p, int fd) {
  auto ready = mp::connection::wait({a, b, p.sentinel(), fd});
  ready = mp::connection::wait({a, b}, 2s);
  ready = mp::connection::wait({}, 0s);
  for (auto& what : ready) {
    if (what == a) {
      what.connection().recv();
    } else if (what == fd) {
      std::cout << what.fileno();
    }
  }
  std::vector<mp::Connection> readers{a, b};
  for (const mp::Connection& c : mp::connection::wait(readers)) {
    try {
      c.recv<int>();
    } catch (const mp::EOFError&) {
      std::erase(readers, c);
    }
  }
  const std::vector<int> fds = mp::connection::wait(std::vector<int>{fd});
  const auto some = mp::connection::wait(readers, 1s);
  std::cout << fds.size() << some.size();
}
