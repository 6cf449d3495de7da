// Every call form that shared_memory.hpp promises. Types only: nothing here is run.
#include <iostream>
#include <millrace/millrace.hpp>
#include <vector>

namespace mp = millrace;

static_assert(mp::Serializable<mp::SharedMemory> && mp::Serializable<mp::ShareableList>);

void segments(const std::vector<int>& xs) {
  mp::SharedMemory m({.create = true, .size = 100});
  mp::SharedMemory sized({.create = true, .size = xs.size()});
  mp::SharedMemory at({.name = "psm_x"});
  mp::SharedMemory nt({.name = "x", .track = false});
  m.buf()[0] = std::byte{1};
  std::span<double> dv = m.buf<double>();
  std::cout << m.name() << m.size() << m << m.repr() << (m == at) << dv.size();
  mp::SharedMemory copy(m);
  copy = at;
  mp::Object held = copy;
  copy = held.as<mp::SharedMemory>();
  m.close();
  m.unlink();
}

void lists(const std::vector<int>& xs) {
  mp::ShareableList sl({1, 2.5, "x", mp::None, true, mp::Bytes("b")});
  mp::ShareableList s1({"a"});
  mp::ShareableList s2 = mp::ShareableList::attach("n");
  mp::ShareableList s3({1, 2}, {.name = "n"});
  mp::ShareableList s4(xs);
  mp::ShareableList s5(mp::List{1, 2}, {.name = "n"});
  mp::ShareableList copy(sl);
  const mp::ShareableList constant = sl;
  constant[0] = 2;
  sl[0] = 2;
  sl[2] = "y";
  sl[3] = mp::None;
  sl[0] = sl[1];
  mp::Object o = sl[-1];
  o = sl[0];
  std::cout << sl.size() << sl.count(1) << sl.index("x") << sl.format() << sl.shm().name()
            << sl[1].as<double>() << sl[0] << sl << sl.repr() << (sl[0] == 2) << (sl == copy);
}

void managers() {
  mp::SharedMemoryManager smm;
  smm.start();
  auto ms = smm.SharedMemory(64);
  auto mlst = smm.ShareableList({1, "a"});
  auto from = smm.ShareableList(std::vector<int>{1, 2});
  smm.shutdown();
}

void travelling(mp::Pool& pool, const mp::SharedMemory& m, const mp::ShareableList& l) {
  mp::Process([m, l] { l[0] = m.size(); }).start();
  pool.apply([](const mp::SharedMemory&, const mp::ShareableList&) {}, m, l);
}
