#include "core/base/thread_pool.h"

#include <sched.h>

#include <algorithm>

#include "core/base/check.h"
#include "core/base/spin_wait.h"

namespace penstock {
namespace {

constexpr uint64_t Ticket(uint32_t generation, uint32_t chunk) {
  return static_cast<uint64_t>(generation) << 32 | chunk;
}

}  // namespace

int UsableCores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

ThreadPool::ThreadPool(int threads) {
  const int total = threads > 0 ? threads : UsableCores();
  for (int i = 1; i < total; ++i) workers_.emplace_back([this] { WorkerMain(); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  generation_.fetch_add(1);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(int64_t count, int64_t grain, Trampoline call, const void* body) {
  PENSTOCK_CHECK_GT(grain, 0);
  if (count <= 0) return;
  const int64_t chunks = (count + grain - 1) / grain;
  if (chunks == 1 || workers_.empty()) {
    call(body, 0, count);
    return;
  }
  PENSTOCK_CHECK_LT(chunks, int64_t{kClosed});
  const uint32_t generation = generation_.load() + 1;
  ticket_.store(Ticket(generation, kClosed));
  chunks_.store(chunks);
  count_.store(count);
  grain_.store(grain);
  call_.store(call);
  body_.store(body);
  done_.store(0);
  ticket_.store(Ticket(generation, 0));
  generation_.store(generation);
  generation_.notify_all();

  Help(generation);
  // Every chunk is claimed now; wait for those that others still run.
  SpinThenWait(done_, [&](int64_t done) { return done == chunks; });
}

void ThreadPool::Help(uint32_t generation) {
  while (true) {
    uint64_t ticket = ticket_.load();
    const auto chunk = static_cast<uint32_t>(ticket);
    const int64_t chunks = chunks_.load();
    if (ticket >> 32 != generation || chunk >= chunks) return;
    const int64_t count = count_.load();
    const int64_t grain = grain_.load();
    const Trampoline call = call_.load();
    const void* body = body_.load();
    if (!ticket_.compare_exchange_strong(ticket, ticket + 1)) continue;
    const int64_t begin = static_cast<int64_t>(chunk) * grain;
    call(body, begin, std::min(count, begin + grain));
    if (done_.fetch_add(1) + 1 == chunks) done_.notify_one();
  }
}

void ThreadPool::WorkerMain() {
  uint32_t seen = 0;
  while (true) {
    const uint32_t generation =
        SpinThenWait(generation_, [&](uint32_t now) { return now != seen; });
    seen = generation;
    if (stop_.load()) return;
    Help(generation);
  }
}

}  // namespace penstock
