#include "shm/spsc_ring.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <millrace/errors.hpp>
#include <random>
#include <vector>

#include "tests/shm/spsc_fixture.hpp"

namespace millrace::shm {
namespace {

void expect_message(SpscRing::Consumer& consumer, const std::vector<std::uint8_t>& wanted) {
  const SpscMessage message = consumer.try_peek();
  ASSERT_TRUE(message);
  ASSERT_EQ(message.size, wanted.size());
  EXPECT_TRUE(std::equal(wanted.begin(), wanted.end(),
                         reinterpret_cast<const std::uint8_t*>(message.data)));
  consumer.release();
}

TEST_F(SpscRingTest, NothingIsInANewRing) {
  EXPECT_FALSE(consumer.try_peek());
  char byte = 0;
  EXPECT_EQ(consumer.try_pop(&byte, 1), -1);
}

TEST_F(SpscRingTest, EverySizeComesOutAsItWentIn) {
  for (std::size_t bytes = 0; bytes <= 1024; ++bytes) {
    const auto data = pattern(bytes, static_cast<unsigned>(bytes));
    ASSERT_TRUE(producer.try_push(data.data(), bytes)) << bytes;
    expect_message(consumer, data);
    EXPECT_FALSE(consumer.try_peek());
  }
}

TEST_F(SpscRingTest, SizesMixInOneLine) {
  unsigned seed = 0;
  for (int round = 0; round < 100; ++round) {
    for (const std::size_t bytes : {8U, 100U, 0U, 17U, 56U, 64U}) {
      const auto data = pattern(bytes, ++seed);
      ASSERT_TRUE(producer.try_push(data.data(), bytes));
    }
    seed -= 6;
    for (const std::size_t bytes : {8U, 100U, 0U, 17U, 56U, 64U}) {
      expect_message(consumer, pattern(bytes, ++seed));
    }
  }
}

TEST_F(SpscRingTest, PlacesAreAlignedForTheirSize) {
  for (const std::size_t bytes : {1U, 56U}) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(producer.try_reserve(bytes)) % 8, 0U);
  }
  for (int i = 0; i < 5; ++i) {
    const auto* place = producer.try_reserve(57);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(place) % 64, 0U);
    producer.commit(57);
  }
}

// Of the 128 bytes that a cpu fetches together, one message's end and the next one's beginning
// never have a half each, if the ring's memory begins at a multiple of 128.
TEST_F(SpscRingTest, LongMessagesBeginInUnitsOf128Bytes) {
  const std::byte* const bulk = memory.get() + kHeader + std::size_t{4} * 128;
  std::ptrdiff_t wanted = 0;
  for (std::size_t bytes = 57; bytes <= 520; ++bytes) {
    const auto data = pattern(bytes, static_cast<unsigned>(bytes));
    std::byte* const place = producer.try_reserve(520);  // of which less is used
    ASSERT_NE(place, nullptr);
    const auto size = static_cast<std::ptrdiff_t>((bytes + 127) / 128 * 128);
    if (wanted + 640 > 1024) wanted = 0;  // the end is skipped
    ASSERT_EQ(place - bulk, wanted) << bytes;
    wanted += size;
    std::memcpy(place, data.data(), bytes);
    producer.commit(bytes);
    expect_message(consumer, data);
    ASSERT_FALSE(consumer.try_peek());
  }
}

TEST_F(SpscRingTest, ManyMessagesOfALineLieInBulkAtOnce) {
  const auto pushed = [](unsigned i) { return pattern(57 + i % 8, i); };
  for (int lap = 0; lap < 20; ++lap) {
    for (unsigned i = 0; i < 8; ++i) {
      const auto data = pushed(i);
      ASSERT_TRUE(producer.try_push(data.data(), data.size())) << i;
    }
    EXPECT_EQ(producer.try_reserve(57), nullptr);
    SpscRing::Producer successor(ring);
    EXPECT_EQ(successor.try_reserve(57), nullptr);
    for (unsigned i = 0; i < 8; ++i) expect_message(consumer, pushed(i));
    EXPECT_FALSE(consumer.try_peek());
  }
}

TEST_F(SpscRingTest, SmallMessagesShareALineWithTheirFlag) {
  const std::uint64_t value = 0x1122334455667788;
  push_value(producer, value);
  EXPECT_EQ(memory.word(kHeader + 8), value);
  EXPECT_NE(control(0), 0U);
}

TEST_F(SpscRingTest, PushFailsWhenTheLinesAreFull) {
  const std::vector<std::uint8_t> data(56);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(producer.try_push(data.data(), data.size()));
  EXPECT_FALSE(producer.try_push(data.data(), data.size()));
  expect_message(consumer, data);
  EXPECT_FALSE(producer.try_push(data.data(), data.size())) << "room is given back late";
  for (int i = 0; i < 3; ++i) expect_message(consumer, data);
  EXPECT_FALSE(consumer.try_peek());
  EXPECT_TRUE(producer.try_push(data.data(), data.size()));
}

TEST_F(SpscRingTest, PushFailsWhenTheBulkIsFull) {
  const std::vector<std::uint8_t> data(512);
  ASSERT_TRUE(producer.try_push(data.data(), 512));
  ASSERT_TRUE(producer.try_push(data.data(), 512));
  EXPECT_EQ(producer.try_reserve(64), nullptr);
  EXPECT_TRUE(producer.try_push(data.data(), 8)) << "lines are left";
  expect_message(consumer, data);
  EXPECT_TRUE(producer.try_push(data.data(), 500));
}

TEST_F(SpscRingTest, TheLongestMessageFitsWhereverAnEmptyRingStands) {
  const auto whole = pattern(1024, 5);
  for (int i = 0; i < 40; ++i) {
    ASSERT_TRUE(producer.try_push(whole.data(), whole.size()));
    EXPECT_EQ(producer.try_reserve(57), nullptr);
    expect_message(consumer, whole);
    EXPECT_FALSE(consumer.try_peek());
    const auto little = pattern(57 + static_cast<std::size_t>(i) * 20, 9);
    ASSERT_TRUE(producer.try_push(little.data(), little.size()));
    expect_message(consumer, little);
    EXPECT_FALSE(consumer.try_peek());
  }
  EXPECT_EQ(producer.max_message(), 1024U);
  EXPECT_THROW(producer.try_reserve(1025), ValueError);
}

TEST_F(SpscRingTest, LessMayBeCommittedThanWasReserved) {
  const auto data = pattern(10, 3);
  std::memcpy(producer.try_reserve(50), data.data(), 10);
  producer.commit(10);
  std::memcpy(producer.try_reserve(1000), data.data(), 10);
  producer.commit(10);
  std::memcpy(producer.try_reserve(896), data.data(), 10);
  producer.commit(10);
  for (int i = 0; i < 3; ++i) expect_message(consumer, data);
}

TEST_F(SpscRingTest, AReservationThatIsNotCommittedIsNoMessage) {
  producer.try_reserve(40);
  producer.try_reserve(400);
  EXPECT_FALSE(consumer.try_peek());
  push_value(producer, 7);
  EXPECT_EQ(consumer.try_peek().size, sizeof(int));
}

TEST_F(SpscRingTest, PushedLaterIsSeenAfterAFlush) {
  push_value(producer, 1, Publish::later);
  push_value(producer, 2, Publish::later);
  EXPECT_FALSE(consumer.try_peek());
  producer.flush();
  int value = 0;
  EXPECT_EQ(consumer.try_pop(&value, sizeof value), 4);
  EXPECT_EQ(value, 1);
  EXPECT_EQ(consumer.try_pop(&value, sizeof value), 4);
  EXPECT_EQ(value, 2);
}

TEST_F(SpscRingTest, PushedLaterIsSeenWithItsLine) {
  for (int i = 0; i < 6; ++i) push_value(producer, i, Publish::later);
  EXPECT_FALSE(consumer.try_peek());
  push_value(producer, 6, Publish::later);
  for (int i = 0; i < 7; ++i) {
    int value = -1;
    ASSERT_EQ(consumer.try_pop(&value, sizeof value), 4);
    EXPECT_EQ(value, i);
  }
}

TEST_F(SpscRingTest, PushedLaterIsSeenWhenTheRingIsFull) {
  const std::vector<std::uint8_t> data(600);
  producer.try_push(data.data(), 600, Publish::later);
  EXPECT_FALSE(consumer.try_peek());
  EXPECT_EQ(producer.try_reserve(600), nullptr);
  EXPECT_TRUE(consumer.try_peek());
}

TEST_F(SpscRingTest, PeekShowsTheSameMessageUntilItIsReleased) {
  push_value(producer, 5);
  push_value(producer, 6);
  EXPECT_EQ(consumer.try_peek().data, consumer.try_peek().data);
  consumer.release();
  EXPECT_EQ(*reinterpret_cast<const int*>(consumer.try_peek().data), 6);
}

TEST_F(SpscRingTest, PopCopiesNoMoreThanThereIsRoomFor) {
  const auto data = pattern(200, 1);
  producer.try_push(data.data(), 200);
  std::uint8_t bytes[4] = {99, 99, 99, 99};
  EXPECT_EQ(consumer.try_pop(bytes, 3), 200);
  EXPECT_EQ(bytes[2], data[2]);
  EXPECT_EQ(bytes[3], 99);
  EXPECT_FALSE(consumer.try_peek());
}

// ---- ends that take over

TEST_F(SpscRingTest, ANewProducerGoesOnBehindTheMessagesOfTheLast) {
  std::mt19937 random(1);
  unsigned sent = 0;
  unsigned received = 0;
  for (int round = 0; round < 2000; ++round) {
    SpscRing::Producer successor(ring);
    for (unsigned k = random() % 4; k > 0; --k) {
      const auto data = pattern(random() % 300, sent);
      if (successor.try_push(data.data(), data.size())) ++sent;
    }
    for (unsigned k = random() % 4; k > 0; --k) {
      const SpscMessage message = consumer.try_peek();
      if (!message) break;
      if (message.size > 0) {
        EXPECT_EQ(std::to_integer<unsigned>(message.data[0]), received & 255);
      }
      consumer.release();
      ++received;
    }
  }
  EXPECT_GT(received, 1000U);
}

TEST_F(SpscRingTest, ANewProducerFindsAFullRingFull) {
  const auto data = pattern(56, 0);
  for (int i = 0; i < 4; ++i) producer.try_push(data.data(), data.size());
  SpscRing::Producer successor(ring);
  EXPECT_FALSE(successor.try_push(data.data(), data.size()));
  for (int i = 0; i < 4; ++i) expect_message(consumer, data);
  EXPECT_FALSE(consumer.try_peek());
  EXPECT_TRUE(successor.try_push(data.data(), data.size()));
  expect_message(consumer, data);
}

TEST_F(SpscRingTest, ANewConsumerStartsAtWhatWasGivenBack) {
  for (int i = 0; i < 5; ++i) push_value(producer, i);
  for (int i = 0; i < 2; ++i) {
    consumer.try_peek();
    consumer.release();
  }
  consumer.give_back();
  SpscRing::Consumer successor(ring);
  EXPECT_EQ(*reinterpret_cast<const int*>(successor.try_peek().data), 2);
}

TEST_F(SpscRingTest, AConsumerInSharedMemoryResumesAtTheMessageNotReleased) {
  push_value(producer, 1);
  const auto bulk = pattern(300, 7);
  producer.try_push(bulk.data(), bulk.size());
  consumer.try_peek();
  consumer.release();
  consumer.try_peek();  // and its process dies
  consumer.resume();
  expect_message(consumer, bulk);
}

// ---- damage

TEST_F(SpscRingTest, AttachRefusesWhatIsNoRing) {
  EXPECT_NO_THROW(SpscRing::attach(memory.get(), memory.size()));
  EXPECT_THROW(SpscRing::attach(memory.get(), 100), Corrupt);
  EXPECT_THROW(SpscRing::attach(memory.get(), memory.size() - 1), Corrupt);
  for (const std::size_t offset : {0U, 8U, 16U}) {
    const std::uint64_t right = memory.word(offset);
    for (const std::uint64_t wrong : {0ULL, 3ULL, 1ULL << 20, 1ULL << 50, ~0ULL}) {
      memory.word(offset) = wrong;
      EXPECT_THROW(SpscRing::attach(memory.get(), memory.size()), Corrupt) << offset;
    }
    memory.word(offset) = right;
  }
}

TEST_F(SpscRingTest, GeometryBeyondReasonIsRefused) {
  EXPECT_THROW(SpscRing::bytes_for({std::size_t{1} << 40, 64}), ValueError);
  EXPECT_THROW(SpscRing::bytes_for({4, std::size_t{1} << 40}), ValueError);
}

TEST_F(SpscRingTest, ADamagedControlWordIsNoticed) {
  for (const std::uint64_t lap : {0ULL, 2ULL, 5ULL, (1ULL << 21) - 1}) {
    control(0) = lap << 43 | 5;
    EXPECT_THROW(consumer.try_peek(), Corrupt) << lap;
  }
  for (const std::uint64_t code : {59ULL, 63ULL}) {
    control(0) = 1ULL << 43 | code;
    SpscRing::Consumer fresh(ring);
    EXPECT_THROW(fresh.try_peek(), Corrupt) << code;
    EXPECT_THROW(SpscRing::Producer{ring}, Corrupt) << code;
  }
}

TEST_F(SpscRingTest, AMessageLongerThanItsLineIsNoticed) {
  control(0) = 1ULL << 43 | 2 | 57ULL << 6;  // one byte, then 56 bytes from the second cell on
  consumer.try_peek();
  consumer.release();
  EXPECT_THROW(consumer.try_peek(), Corrupt);
  EXPECT_THROW(SpscRing::Producer{ring}, Corrupt);
}

TEST_F(SpscRingTest, ADamagedPlaceInTheBulkIsNoticed) {
  const std::uint64_t size = 100;
  const std::uint64_t cells[] = {2000,
                                 (1ULL << 36) - 1,
                                 17ULL << 36 | size,
                                 15ULL << 36 | size,
                                 ~0ULL,
                                 ((1ULL << 28) - 1) << 36 | size};
  for (const std::uint64_t cell : cells) {
    memory.word(kHeader + 8) = cell;
    control(0) = 1ULL << 43 | 58;
    SpscRing::Consumer fresh(ring);
    EXPECT_THROW(fresh.try_peek(), Corrupt) << cell;
  }
}

TEST_F(SpscRingTest, DamagedTailsAreNoticed) {
  const std::vector<std::uint8_t> data(56);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(producer.try_push(data.data(), data.size()));
  memory.word(64) = 1000 * 8;
  EXPECT_THROW(producer.try_push(data.data(), data.size()), Corrupt);
  memory.word(64) = 0;
  memory.word(72) = 4096;
  EXPECT_THROW(producer.try_push(data.data(), data.size()), Corrupt);
  memory.word(72) = 0;
  memory.word(88) = 64;  // the bulk's claim, in the middle of a unit
  EXPECT_THROW(SpscRing::Producer{ring}, Corrupt);
  EXPECT_THROW(SpscRing::Consumer{ring}, Corrupt);
}

TEST_F(SpscRingTest, RandomDamageNeverLeadsElsewhere) {
  std::mt19937_64 random(2);
  for (int round = 0; round < 20000; ++round) {
    ring = SpscRing::create(memory.get(), {4, 1024});
    SpscRing::Producer to(ring);
    SpscRing::Consumer from(ring);
    try {
      for (int step = 0; step < 12; ++step) {
        const auto data = pattern(random() % 200, 0);
        to.try_push(data.data(), data.size());
        if (step == 6) memory.word(64 + random() % 2 * 8) ^= 1ULL << random() % 64;
        const std::size_t word = random() % ((memory.size() - 64) / 8);
        if (step == 8) memory.word(64 + word * 8) ^= 1ULL << random() % 64;
        for (std::uint64_t k = random() % 3; k > 0; --k) {
          const SpscMessage message = from.try_peek();
          if (!message) break;
          ASSERT_GE(message.data, memory.get() + kHeader);
          ASSERT_LE(message.data + message.size, memory.get() + memory.size());
          from.release();
        }
      }
    } catch (const Corrupt&) {
    }
  }
}

}  // namespace
}  // namespace millrace::shm
