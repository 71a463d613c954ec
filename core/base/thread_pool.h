// ThreadPool: the threads of the CPU backend. ParallelFor splits a range into chunks that threads
// claim one by one, so a core that comes late, or is taken away by the host, costs at most the
// chunk it holds: nobody waits for a thread that has not begun. Waiting threads spin briefly (a
// layer's kernels follow each other within microseconds) and then sleep.
//
// Which thread runs a chunk never changes a result: kernels compute each output element whole.
// Thread rule: ParallelFor from one thread at a time, never from inside a chunk.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace penstock {

// The cores that this process may use.
int UsableCores();

class ThreadPool {
 public:
  // `threads` counts the caller too; 0 takes one a core that this process may use.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(begin, end) for consecutive chunks of at most `grain` indices that together cover
  // [0, count), and returns when all are done. The body must not throw.
  template <typename Body>
  void ParallelFor(int64_t count, int64_t grain, const Body& body) {
    Run(count, grain, &Call<Body>, &body);
  }

 private:
  using Trampoline = void (*)(const void* body, int64_t begin, int64_t end);

  template <typename Body>
  static void Call(const void* body, int64_t begin, int64_t end) {
    (*static_cast<const Body*>(body))(begin, end);
  }

  void Run(int64_t count, int64_t grain, Trampoline call, const void* body);
  void WorkerMain();
  // Claims and runs chunks of the job `generation` until none is left.
  void Help(uint32_t generation);

  // The one job. `ticket_` holds its generation (high half) and next chunk (low half); a chunk is
  // claimed by a compare-and-swap, which fails for everyone who looks at an older job. The ticket
  // is closed (kClosed) while the other fields are rewritten.
  static constexpr uint32_t kClosed = 0xffffffff;
  std::atomic<uint64_t> ticket_{kClosed};
  std::atomic<int64_t> chunks_{0};
  std::atomic<int64_t> count_{0};
  std::atomic<int64_t> grain_{1};
  std::atomic<Trampoline> call_{nullptr};
  std::atomic<const void*> body_{nullptr};
  std::atomic<int64_t> done_{0};

  std::atomic<uint32_t> generation_{0};  // what sleeping workers wait on
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace penstock
