// SIGINT in blocked calls (S35, P16): whoever is blocked gets KeyboardInterrupt, nothing is lost.
#include <atomic>
#include <millrace/pool.hpp>
#include <millrace/process.hpp>
#include <thread>

#include "shm/interrupt.hpp"
#include "shm/parking.hpp"
#include "tests/api/pool_fixture.hpp"
#include "tests/api/sigint_support.hpp"

namespace millrace::test {
namespace {

TEST_F(SigintTest, WithoutInstallTheSignalEndsTheProcess) {
  const Ended ended = run_forked(
      [] {
        ::signal(SIGINT, SIG_DFL);
        mp::Pool pool(1);
        pool.apply([] {
          for (;;) ::pause();
        });
        return 0;
      },
      [](pid_t pid) {
        while (!asleep(pid)) std::this_thread::sleep_for(1ms);
        ::kill(pid, SIGINT);
      });
  EXPECT_TRUE(ended.by_signal);
  EXPECT_EQ(ended.code, SIGINT);
}

TEST_F(SigintTest, ARequestBeforeTheCallMeetsIt) {
  EXPECT_EQ(run_forked([] {
              mp::install_sigint();
              ::raise(SIGINT);
              mp::Pool pool(1);
              pool.apply([] { return 1; });
              return 1;
            }).code,
            100);
}

TEST_F(SigintTest, ASecondSignalNobodyListensToEndsTheProcess) {
  const Ended ended = run_forked([] {
    mp::install_sigint();
    ::raise(SIGINT);
    ::raise(SIGINT);  // the same keystroke twice: no
    std::this_thread::sleep_for(1100ms);
    ::raise(SIGINT);
    return 1;
  });
  EXPECT_TRUE(ended.by_signal);
  EXPECT_EQ(ended.code, SIGINT);
}

TEST_F(SigintTest, JoinOfAProcessIsInterruptedAndCanBeRepeated) {  // P04
  EXPECT_EQ(run_forked([] {
              mp::install_sigint();
              const Gate gate;
              mp::Process child([&gate] { gate.pass(); });
              child.start();
              if (!is_interrupted([&] { child.join(); })) return 1;
              gate.open();
              child.join();
              return child.exitcode() == 0 ? 0 : 2;
            }).code,
            0);
}

TEST_F(SigintTest, AChildThatIsInterruptedExitsWithOne) {  // P16
  EXPECT_EQ(run_forked([] {
              mp::install_sigint();
              mp::Process child([] {
                ::close(STDERR_FILENO);
                mp::Process grandchild([] {
                  for (;;) ::pause();
                });
                grandchild.daemon(true);
                grandchild.start();
                grandchild.join();
              });
              child.start();
              while (!asleep(*child.pid())) std::this_thread::sleep_for(1ms);
              child.interrupt();
              child.join();
              return child.exitcode().value_or(7);
            }).code,
            1);
}

TEST_F(SigintTest, AForkedChildDoesNotInheritARequest) {
  EXPECT_EQ(run_forked([] {
              mp::install_sigint();
              ::raise(SIGINT);
              mp::Process child([] {
                mp::Process grandchild([] {});
                grandchild.start();
                grandchild.join();
              });
              child.start();
              try {
                child.join();
                return 1;
              } catch (const mp::KeyboardInterrupt&) {
              }
              child.join();
              return child.exitcode() == 0 ? 0 : 2;
            }).code,
            0);
}

TEST_F(SigintTest, TheMainThreadGoesFirst) {
  EXPECT_EQ(run_forked([] {
              mp::install_sigint();
              const Gate gate;
              mp::Process one([&gate] { gate.pass(); });
              mp::Process two([&gate] { gate.pass(); });
              one.start();
              two.start();
              std::atomic<bool> wrong{false};
              std::thread other([&] {
                try {
                  two.join();
                } catch (const mp::KeyboardInterrupt&) {
                  wrong = true;
                }
              });
              for (int i = 0; i < 20; ++i) {
                if (!is_interrupted([&] { one.join(); })) return 1;
              }
              gate.open();
              other.join();
              one.join();
              return wrong ? 2 : 0;
            }).code,
            0);
}

TEST_F(SigintTest, AnotherThreadIsInterruptedWhileTheMainThreadIsNot) {
  EXPECT_EQ(run_forked([] {
              mp::install_sigint();
              const Gate gate;
              mp::Process child([&gate] { gate.pass(); });
              child.start();
              bool thrown = false;
              std::thread other([&] { thrown = is_interrupted([&] { child.join(); }); });
              other.join();
              gate.open();
              child.join();
              return thrown ? 0 : 1;
            }).code,
            0);
}

// Threads hand tokens round through spots while signals come in all the time: every token arrives.
TEST_F(SigintTest, NoWakeUpIsLostToAnInterruption) {
  EXPECT_EQ(run_forked([] {
              mp::install_sigint();
              constexpr int kRounds = 3000;
              shm::ParkingSpot spots[2];
              std::atomic<int> tokens[2] = {0, 0};
              std::atomic<int> interruptions{0};
              const auto take = [&](int side) {
                for (;;) {
                  try {
                    shm::wait_until(spots[side],
                                    [&] {
                                      int one = 1;
                                      return tokens[side].compare_exchange_strong(one, 0);
                                    },
                                    // A lost wake-up would stall for an hour.
                                    {.yields = 0, .slice = 3600s, .interruptible = true});
                    return;
                  } catch (const mp::KeyboardInterrupt&) {
                    ++interruptions;
                  }
                }
              };
              const auto give = [&](int side) {
                tokens[side] = 1;
                spots[side].notify_one();
              };
              {
                const Interrupter interrupter(200us);
                std::thread other([&] {
                  for (int i = 0; i < kRounds; ++i) {
                    take(1);
                    give(0);
                  }
                });
                for (int i = 0; i < kRounds; ++i) {
                  give(1);
                  take(0);
                }
                other.join();
              }
              return interruptions > 0 ? 0 : 1;
            }).code,
            0);
}

// A waiter that sleeps for good, and one signal: it always gets through.
TEST_F(SigintTest, NoRequestIsSleptThrough) {
  EXPECT_EQ(run_forked([] {
              mp::install_sigint();
              for (int i = 0; i < 2000; ++i) {
                shm::ParkingSpot spot;
                std::atomic<bool> started{false};
                std::thread sender([&, i] {
                  while (!started) {
                  }
                  for (int spin = 0; spin < i; ++spin) shm::cpu_relax();
                  ::kill(::getpid(), SIGINT);
                });
                bool thrown = false;
                started = true;
                try {
                  shm::wait_until(spot, [] { return false; },
                                  {.yields = 0, .slice = 3600s, .interruptible = true});
                } catch (const mp::KeyboardInterrupt&) {
                  thrown = true;
                }
                sender.join();
                if (!thrown) return 1;
              }
              return 0;
            }).code,
            0);
}

}  // namespace
}  // namespace millrace::test
