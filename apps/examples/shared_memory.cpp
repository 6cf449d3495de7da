// Python's documentation, "multiprocessing.shared_memory": two handles of one segment, then numbers
// in it that another process changes.
//
//   shm_a = shared_memory.SharedMemory(create=True, size=10)
//   shm_b = shared_memory.SharedMemory(shm_a.name)
//   shm_b.buf[:5] = b'howdy'
//   bytes(shm_a.buf[:5])
//   ...
//   c = np.ndarray((6,), dtype=np.int64, buffer=existing_shm.buf)
//   c[-1] = 888
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <millrace/millrace.hpp>
#include <string>
#include <string_view>

namespace mp = millrace;

namespace {

void two_handles() {
  const mp::SharedMemory shm_a({.create = true, .size = 10});
  const auto buffer = shm_a.buf<unsigned char>();
  std::cout << buffer.size() << '\n';
  const std::array<unsigned char, 4> first{22, 33, 44, 55};
  std::ranges::copy(first, buffer.begin());
  buffer[4] = 100;

  const mp::SharedMemory shm_b({.name = shm_a.name()});
  for (const unsigned char byte : shm_b.buf<unsigned char>().first(5)) std::cout << +byte << ' ';
  std::cout << '\n';
  std::memcpy(shm_b.buf().data(), "howdy", 5);
  std::cout << std::string_view(shm_a.buf<char>().data(), 5) << '\n';
  shm_b.close();
  shm_a.close();
  shm_a.unlink();
}

void in_another_process(const std::string& name) {
  const mp::SharedMemory existing({.name = name});
  const auto c = existing.buf<std::int64_t>().first(6);
  for (const std::int64_t each : c) std::cout << each << ' ';
  std::cout << std::endl;
  c.back() = 888;
}

void numbers() {
  const std::array<std::int64_t, 6> a{1, 1, 2, 3, 5, 8};
  const mp::SharedMemory shm({.create = true, .size = sizeof a});
  const auto b = shm.buf<std::int64_t>();
  std::ranges::copy(a, b.begin());
  mp::Process p(in_another_process, shm.name());
  p.start();
  p.join();
  for (const std::int64_t each : b) std::cout << each << ' ';
  std::cout << '\n';
  shm.unlink();
}

}  // namespace

int main(int argc, char** argv) {
  mp::freeze_support(argc, argv);
  mp::set_start_method(argc > 1 ? argv[1] : "fork");
  two_handles();
  numbers();
}
