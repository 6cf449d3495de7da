// Every call form that queues.hpp promises. Types only: nothing here is run.
#include <concepts>
#include <iostream>
#include <map>
#include <millrace/millrace.hpp>

namespace mp = millrace;
using namespace std::chrono_literals;

struct Rich {
  std::string name;
  std::vector<double> values;
};

void work(mp::Queue<int> queue, const mp::SimpleQueue<Rich>& results);

static_assert(mp::Serializable<mp::Queue<int>> && mp::Serializable<mp::JoinableQueue<Rich>> &&
              mp::Serializable<mp::SimpleQueue<>>);

void constructors() {
  mp::Queue<int> q;
  mp::Queue<std::string> q2(10);
  mp::Queue q3;
  mp::Queue q4(5);
  mp::Queue<int> neg(-1);
  mp::JoinableQueue<int> jq(2);
  mp::SimpleQueue<Rich> sq;
  mp::SimpleQueue<> so;
  static_assert(std::same_as<decltype(q3), mp::Queue<mp::Object>>);
  mp::Queue copy(q);
  static_assert(std::same_as<decltype(copy), mp::Queue<int>>);
  mp::Queue<mp::Lock> ql;
  ql.put(mp::Lock());
  mp::Queue<mp::Value<int>> qv;
  mp::Queue<mp::Queue<int>> qq;
  qq.put(q);
  mp::Process p(work, q, sq);
  mp::Context& ctx = mp::get_context("spawn");
  auto c1 = ctx.Queue<int>(10);
  auto c2 = ctx.JoinableQueue<int>();
  auto c3 = ctx.SimpleQueue<std::string>();
  auto c4 = ctx.Queue();
  c4.put(1);
}

void calls() {
  const mp::Queue<int> q;
  q.put(1);
  q.put(1, 1s);
  q.put(1, {});
  q.put(1, std::nullopt);
  q.put_nowait(2);
  int x = q.get();
  x = q.get(500ms);
  x = q.get(std::chrono::duration<double>(0.1));
  const std::optional<std::chrono::milliseconds> maybe;
  x = q.get(maybe);
  x = q.get_nowait();
  q.get();
  bool ok = q.try_put(3);
  ok = q.try_put(3, 10ms);
  std::optional<int> y = q.try_get();
  y = q.try_get(10ms);
  std::cout << q.qsize() << q.empty() << q.full() << q << q.repr() << (q == q);
  q.close();
  q.join_thread();
  q.cancel_join_thread();
  try {
    q.get_nowait();
  } catch (const mp::queue::Empty&) {
  } catch (const mp::queue::Full&) {
  }
  (void)x;
  (void)ok;
}

void others() {
  const mp::JoinableQueue<int> jq;
  jq.put(1);
  jq.put(1, 1s);
  (void)jq.get();
  jq.task_done();
  jq.join();
  jq.close();
  mp::SimpleQueue<Rich> sq;
  sq.put({"a", {1.0}});
  const Rich rich = sq.get();
  (void)sq.empty();
  sq.close();
  mp::Queue q3;
  mp::Queue<int> q;
  q3.put(42);
  q3.put("text");
  q3.put(mp::None);
  q3.put(mp::List{1, "a", mp::None});
  q3.put(q);
  q3.put(std::map<std::string, int>{{"a", 1}});
  q3.put(true);
  q3.put(2.5);
  const mp::Object o = q3.get();
  const int x = o == 42 ? o.as<int>() : 0;
  std::cout << o << x;
  mp::Queue<std::string> q2;
  q2.put("literal");
}

void pools() {
  const mp::Queue<int> queue;
  mp::Pool pool(2, [queue] { queue.put(0); });
  pool.map([queue](int i) { queue.put(i); }, std::vector<int>{1, 2});
  pool.apply([](const mp::Queue<int>& q) { q.put(1); }, queue);
}
