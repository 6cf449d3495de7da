// Many messages of many sizes through the public API, each with its number and a checksum, under
// fork and spawn: none is lost, doubled, torn or out of its producer's order.
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <millrace/millrace.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace millrace::test {
namespace {

constexpr int kPlayers = 4;

// MILLRACE_STRESS_MESSAGES=N asks for more messages than the usual ones.
std::uint64_t messages_wanted() {
  const char* text = std::getenv("MILLRACE_STRESS_MESSAGES");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 20'000;
}

// Most are small; some are longer than a slot, than a ring's message, than a slab.
std::size_t size_of(std::uint64_t number) {
  if (number % 10'007 == 5) return (std::size_t{1} << 20) - number % 61;
  if (number % 503 == 7) return 20'000 + number % 30'011;
  if (number % 17 == 3) return 16 + number % 1'021;
  return 16 + number % 41;
}

struct Head {
  std::uint64_t number;
  std::uint64_t sum;
};

std::uint64_t sum_of(std::string_view bytes, std::uint64_t number) {
  std::uint64_t sum = number * 0x9e3779b97f4a7c15U + bytes.size();
  while (bytes.size() >= 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data(), 8);
    sum = (sum ^ word) * 0xff51afd7ed558ccdU;
    bytes.remove_prefix(8);
  }
  for (const char c : bytes) sum = sum * 31 + static_cast<unsigned char>(c);
  return sum;
}

std::string message(std::uint64_t number) {
  std::string text(size_of(number), static_cast<char>('a' + number % 26));
  const std::string_view rest = std::string_view(text).substr(sizeof(Head));
  const Head head{number, sum_of(rest, number)};
  std::memcpy(text.data(), &head, sizeof head);
  return text;
}

// The number of a message that is whole; all ones of another.
std::uint64_t number_of(std::string_view text) {
  Head head{};
  if (text.size() < sizeof head) return ~std::uint64_t{0};
  std::memcpy(&head, text.data(), sizeof head);
  const bool whole = text.size() == size_of(head.number) &&
                     head.sum == sum_of(text.substr(sizeof head), head.number);
  return whole ? head.number : ~std::uint64_t{0};
}

void send_all(const Connection& to, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) to.send_bytes(message(i));
}

// Producer k of four puts k, k + 4, k + 8 ...
void put_all(const Queue<std::string>& to, std::uint64_t first, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) to.put(message(first + i * kPlayers));
}

// What a consumer got: how many of each producer, the sum of their numbers, how many were bad.
struct Taken {
  std::array<std::uint64_t, kPlayers> count{};
  std::array<std::uint64_t, kPlayers> sum{};
  std::uint64_t bad = 0;
};

// Until a message of no bytes.
void get_all(const Queue<std::string>& from, const Queue<Taken>& result) {
  Taken taken;
  std::array<std::uint64_t, kPlayers> next{};  // what may come of each producer at the earliest
  for (;;) {
    const std::string text = from.get();
    if (text.empty()) break;
    const std::uint64_t number = number_of(text);
    const std::size_t producer = number % kPlayers;
    if (number == ~std::uint64_t{0} || number < next[producer]) {
      ++taken.bad;
      continue;
    }
    next[producer] = number + 1;
    ++taken.count[producer];
    taken.sum[producer] += number;
  }
  result.put(taken);
}

class Torture : public testing::TestWithParam<const char*> {
 protected:
  Context& context() { return get_context(GetParam()); }
};

TEST_P(Torture, APipeBringsEveryMessageWholeAndInOrder) {
  const std::uint64_t count = messages_wanted();
  auto [receiver, sender] = Pipe({.duplex = false});
  Process producer({.context = &context()}, &send_all, sender, count);
  producer.start();
  sender.close();
  for (std::uint64_t i = 0; i < count; ++i) {
    ASSERT_EQ(number_of(receiver.recv_bytes().view()), i);
  }
  EXPECT_THROW(receiver.recv_bytes(), EOFError);
  producer.join();
  EXPECT_EQ(producer.exitcode(), 0);
}

TEST_P(Torture, AQueueBringsEveryItemOnceAndInItsProducersOrder) {
  const std::uint64_t each = messages_wanted() / kPlayers;
  const Queue<std::string> queue(256);
  const Queue<Taken> results;
  std::vector<Process> producers;
  std::vector<Process> consumers;
  for (std::uint64_t k = 0; k < kPlayers; ++k) {
    producers.emplace_back(ProcessOptions{.context = &context()}, &put_all, queue, k, each);
    consumers.emplace_back(ProcessOptions{.context = &context()}, &get_all, queue, results);
  }
  for (Process& process : consumers) process.start();
  for (Process& process : producers) process.start();
  for (Process& process : producers) process.join();
  for (int k = 0; k < kPlayers; ++k) queue.put("");
  Taken all;
  for (int k = 0; k < kPlayers; ++k) {
    const Taken taken = results.get();
    all.bad += taken.bad;
    for (std::size_t p = 0; p < kPlayers; ++p) {
      all.count[p] += taken.count[p];
      all.sum[p] += taken.sum[p];
    }
  }
  EXPECT_EQ(all.bad, 0U);
  for (std::uint64_t p = 0; p < kPlayers; ++p) {
    EXPECT_EQ(all.count[p], each);
    EXPECT_EQ(all.sum[p], each * p + kPlayers * (each * (each - 1) / 2));
  }
  for (Process& process : consumers) process.join();
}

INSTANTIATE_TEST_SUITE_P(StartMethods, Torture, testing::Values("fork", "spawn"),
                         [](const auto& each) { return std::string(each.param); });

}  // namespace
}  // namespace millrace::test
