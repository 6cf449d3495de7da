// The call forms of mp::Object and the containers of its values.
#include <array>
#include <iostream>
#include <map>
#include <millrace/millrace.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace mp = millrace;

static_assert(mp::Serializable<mp::Object> && mp::Serializable<mp::List> &&
              mp::Serializable<mp::Dict> && mp::Serializable<mp::Bytes>);
static_assert(!std::is_convertible_v<int*, mp::Object>);

mp::Object describe(const mp::Object& value) { return value.type_name(); }

void literals() {
  mp::List a{1, 2};
  mp::List b(a);
  mp::Object o(a);
  mp::Object t = mp::Tuple{1, "x"};
  o = "x";
  o = 3;
  o = mp::None;
  o = std::optional<int>{};
  std::cout << o.repr() << o.is<int>() << t[0] << t.size();
  const mp::List mixed{42, mp::None, "hello"};
  const mp::Tuple pair{1, 2};
  const mp::Dict one{{"k", 1}};
  const mp::Dict dict{{"k", 1}, {2, mp::List{}}};
  const mp::Dict texts = {{"a", "b"}, {"c", "d"}};
  const mp::Dict from_map(std::map<std::string, int>{{"x", 1}});
  const mp::List nested{mp::List{1, 2}, mp::List{3}};
  const mp::Object text("x");
  const mp::Object bytes(mp::Bytes("raw"));
  std::cout << mixed << pair << one << dict << texts << from_map << nested << text << bytes;
}

void sources() {
  mp::Object from = std::vector<int>{1, 2};
  from = std::pair<int, std::string>{1, "a"};
  from = std::complex<double>(1, 2);
  from = std::map<std::string, int>{{"a", 1}};
  from = std::string("s");
  from = 2.5;
  from = true;
  from = mp::Slice{1, 2};
  from = mp::Range{0, 5};
  from = mp::Set{1, 2};
  from = mp::FrozenSet{1};
  from = mp::ByteArray{};
  from = mp::ValueError("bad");
  const mp::Lock lock;
  from = lock;
  const mp::Lock back = from.as<mp::Lock>();
  from = mp::shared_array<int>(4);
  const auto array = from.as<mp::shared_array<int>>();
  std::cout << array.size() << (back == lock);
}

void uses() {
  mp::Object o(mp::Dict{{"k", mp::List{1, 2}}});
  for (const mp::Object& x : o["k"]) std::cout << x;
  std::unordered_set<mp::Object> seen;
  seen.insert(o);
  std::cout << o.type_name() << (o == mp::Object(1));
  int x = 0;
  if (o == 42) x = o.as<int>();
  const auto list = o["k"].as<std::vector<int>>();
  const auto map = o.as<std::map<std::string, mp::List>>();
  const auto either = o.as<std::variant<int, std::string>>();
  const auto maybe = o.as<std::optional<double>>();
  std::cout << x << list.size() << map.size() << either.index() << maybe.has_value();
}

void changes() {
  mp::Dict d;
  d["k"] = 5;
  d[1] = mp::List{1};
  d["n"] = mp::None;
  d["t"] = std::string("text");
  const mp::Object o = d["k"];
  const int k = d["k"].as<int>() + d.get("zz", 3).as<int>();
  d.update({{"a", 1}});
  if (d["k"] == 5) d.erase("k");
  mp::List l{1, "a", 2.5, mp::None};
  l.append(1);
  l.extend(mp::List{1, 2});
  l.insert(0, "x");
  l.pop();
  l.remove(1);
  l.reverse();
  l[0] = 2;
  l[-1] = l[0];
  const mp::List part = l.slice(0, 2);
  for (mp::Object& each : l) each = 0;
  for (const auto& [key, value] : d.items()) std::cout << key << value;
  std::cout << o << k << part << d.size() << d.contains("k") << d.repr();
}

void travels(mp::Pool& pool) {
  const mp::Object done = pool.apply(describe, mp::List{1, "x"});
  const std::vector<mp::Object> all = pool.map(describe, std::vector<mp::Object>{1, "x"});
  std::cout << done << all.size();
}
