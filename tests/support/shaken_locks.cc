// To be preloaded: a thread that has let go of a lock sleeps now and then, so that others get in
// where they seldom do. It finds what goes wrong only when a thread is held up between two locks,
// as on a busy machine. Noise at synchronization: Edelstein et al., "Multithreaded Java program
// test generation", 2002. No two runs are alike.
#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

#include <cstdint>
#include <ctime>

#include "tests/fuzz/random.h"

namespace {

// One lock of so many is followed by a sleep, of 1 us to 33 ms: each power of two as likely as the
// next.
constexpr size_t kOneIn = 3;
constexpr size_t kPowers = 16;

}  // namespace

extern "C" int pthread_mutex_unlock(pthread_mutex_t* mutex) {
  using Unlock = int (*)(pthread_mutex_t*);
  static const auto unlock = reinterpret_cast<Unlock>(dlsym(RTLD_NEXT, "pthread_mutex_unlock"));
  const int result = unlock(mutex);
  thread_local penstock::fuzz::Random random(static_cast<uint64_t>(gettid()) ^
                                             static_cast<uint64_t>(time(nullptr)));
  if (random.OneIn(kOneIn)) {
    const timespec pause = {0, int64_t{1000} << random.Below(kPowers)};
    nanosleep(&pause, nullptr);
  }
  return result;
}
