// Locks, semaphores and barriers beside the C library's process-shared ones, a cache-line ping-pong
// and, for Value, the lock pair that it cannot do without.
#include <pthread.h>
#include <semaphore.h>

#include <atomic>
#include <functional>
#include <memory>
#include <millrace/sharedctypes.hpp>
#include <millrace/synchronize.hpp>

#include "bench/shm/harness.hpp"

namespace mp = millrace;

namespace {

using bench::Better;

constexpr int kAlone = 400000;
constexpr int kFighting = 300000;
constexpr int kRounds = 40000;

// A process-shared mutex of the C library, on its own cache line.
class PthreadMutex {
 public:
  explicit PthreadMutex(int type)
      : block_(128), mutex_(static_cast<pthread_mutex_t*>(block_.get())) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_settype(&attributes, type);
    pthread_mutex_init(mutex_, &attributes);
  }
  void acquire() const { pthread_mutex_lock(mutex_); }
  void release() const { pthread_mutex_unlock(mutex_); }

 private:
  bench::SharedBlock block_;
  pthread_mutex_t* mutex_;
};

class PosixSemaphore {
 public:
  PosixSemaphore() : block_(128), sem_(static_cast<sem_t*>(block_.get())) { sem_init(sem_, 1, 1); }
  void acquire() const { sem_wait(sem_); }
  void release() const { sem_post(sem_); }

 private:
  bench::SharedBlock block_;
  sem_t* sem_;
};

template <class L>
std::function<double()> alone(std::shared_ptr<L> lock) {
  return [lock] {
    bench::pin(0);
    const std::uint64_t begin = bench::now_ns();
    for (int i = 0; i < kAlone; ++i) {
      lock->acquire();
      bench::keep(i);
      lock->release();
    }
    return static_cast<double>(bench::now_ns() - begin) / kAlone;
  };
}

// Million turns a second of two processes that do nothing else.
template <class L>
std::function<double()> fighting(std::shared_ptr<L> lock) {
  return [lock] {
    const double ns = bench::crew_ns(2, [&](int) {
      for (int i = 0; i < kFighting; ++i) {
        lock->acquire();
        bench::keep(i);
        lock->release();
      }
    });
    return 2.0 * kFighting / ns * 1e3;
  };
}

double barrier_round() {
  const mp::Barrier barrier(2);
  const auto party = [&] {
    for (int i = 0; i < kRounds; ++i) barrier.wait();
  };
  return bench::pair_ns(party, party) / kRounds;
}

template <class Body>
std::function<double()> each(Body body) {
  return [body] {
    bench::pin(0);
    const std::uint64_t begin = bench::now_ns();
    for (int i = 0; i < kAlone; ++i) body(i);
    return static_cast<double>(bench::now_ns() - begin) / kAlone;
  };
}

}  // namespace

int main(int argc, char** argv) {
  bench::Suite suite("sync");
  const auto lock = std::make_shared<mp::Lock>();
  const auto rlock = std::make_shared<mp::RLock>();
  const auto mutex = std::make_shared<PthreadMutex>(PTHREAD_MUTEX_NORMAL);
  const auto recursive = std::make_shared<PthreadMutex>(PTHREAD_MUTEX_RECURSIVE);
  suite.measure("Lock", alone(lock));
  suite.measure("RLock", alone(rlock));
  suite.measure("mutex", alone(mutex));
  suite.measure("recursive mutex", alone(recursive));
  suite.measure("Semaphore", alone(std::make_shared<mp::Semaphore>(1)));
  suite.measure("BoundedSemaphore", alone(std::make_shared<mp::BoundedSemaphore>(1)));
  suite.measure("sem_t", alone(std::make_shared<PosixSemaphore>()));
  suite.measure("2 Lock", fighting(lock));
  suite.measure("2 RLock", fighting(rlock));
  suite.measure("2 mutex", fighting(mutex));
  suite.measure("2 Semaphore", fighting(std::make_shared<mp::Semaphore>(1)));
  suite.measure("2 sem_t", fighting(std::make_shared<PosixSemaphore>()));
  suite.measure("Barrier(2)", barrier_round);
  suite.measure("ping-pong", bench::placement_probe);
  const mp::Value<long> value(0);
  suite.measure("Value.get", each([value](int) { bench::keep(value.get()); }));
  suite.measure("Value.set", each([value](int i) { value.set(i); }));

  suite.row({"Lock pair, alone", "ns", "Lock", "mutex", 1.2, Better::lower});
  suite.row({"RLock pair, alone", "ns", "RLock", "mutex", 1.2, Better::lower});
  suite.row(
      {"RLock pair, alone, recursive peer", "ns", "RLock", "recursive mutex", 0, Better::lower});
  suite.row({"Semaphore pair, alone", "ns", "Semaphore", "sem_t", 1.2, Better::lower});
  suite.row(
      {"BoundedSemaphore pair, alone", "ns", "BoundedSemaphore", "sem_t", 1.2, Better::lower});
  suite.row({"Lock, two processes", "M/s", "2 Lock", "2 mutex", 0.9, Better::higher});
  suite.row({"RLock, two processes", "M/s", "2 RLock", "2 mutex", 0.9, Better::higher});
  suite.row({"Semaphore, two processes", "M/s", "2 Semaphore", "2 sem_t", 0, Better::higher});
  suite.row({"Barrier(2), hot round", "ns", "Barrier(2)", "ping-pong", 4, Better::lower});
  suite.row({"Value.get", "ns", "Value.get", "RLock", 2, Better::lower});
  suite.row({"Value.set", "ns", "Value.set", "RLock", 2, Better::lower});
  return suite.run(argc, argv);
}
