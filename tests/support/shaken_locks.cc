// To be preloaded: a thread that has let go of a lock sleeps now and then, so that others get in
// where they seldom do. It finds what goes wrong only when a thread is held up between two locks,
// as on a busy machine. Noise at synchronization: Edelstein et al., "Multithreaded Java program
// test generation", 2002. No two runs are alike.
#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

#include <cstdint>
#include <ctime>

namespace {

// One lock of so many is followed by a sleep, of 1 us to 33 ms: each power of two as likely as the
// next.
constexpr uint64_t kOneIn = 3;
constexpr uint64_t kPowers = 16;

// Splitmix64, Steele et al., 2014.
uint64_t Next() {
  thread_local auto state = static_cast<uint64_t>(gettid()) ^ static_cast<uint64_t>(time(nullptr));
  uint64_t mixed = state += 0x9e3779b97f4a7c15;
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
  return mixed ^ (mixed >> 31);
}

}  // namespace

extern "C" int pthread_mutex_unlock(pthread_mutex_t* mutex) {
  using Unlock = int (*)(pthread_mutex_t*);
  static const auto unlock = reinterpret_cast<Unlock>(dlsym(RTLD_NEXT, "pthread_mutex_unlock"));
  const int result = unlock(mutex);
  if (Next() % kOneIn == 0) {
    const timespec pause = {0, int64_t{1000} << (Next() % kPowers)};
    nanosleep(&pause, nullptr);
  }
  return result;
}
