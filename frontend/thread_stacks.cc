// Room for thread-local storage on the stacks of libraries' threads. glibc takes what the libraries
// that a program is linked with want of it (cuBLASLt and cuBLAS: some 107 KB) from the stack that a
// thread is given; civetweb gives its own 100 KiB, so in a program with CUDA none of them starts.
// Takes the place of the C library's function for the whole program: it is part of the program
// itself, since what comes from an archive is hidden from shared libraries.
#include <dlfcn.h>
#include <pthread.h>

#include <cstddef>

extern "C" __attribute__((visibility("default"))) int pthread_attr_setstacksize(
    pthread_attr_t* attributes, size_t size) noexcept {
  using SetSize = int (*)(pthread_attr_t*, size_t);
  using LeastSize = size_t (*)(const pthread_attr_t*);
  static const auto set = reinterpret_cast<SetSize>(dlsym(RTLD_NEXT, "pthread_attr_setstacksize"));
  // With thread-local storage, which sysconf(_SC_THREAD_STACK_MIN) does not count; not declared in
  // any header, and absent from other C libraries.
  static const auto least =
      reinterpret_cast<LeastSize>(dlsym(RTLD_DEFAULT, "__pthread_get_minstack"));
  return set(attributes, size + (least == nullptr ? 0 : least(attributes)));
}
