#include "worker/ceilings.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <numeric>
#include <vector>

#include "core/base/check.h"
#include "core/base/thread_pool.h"
#include "worker/backends.h"
#ifdef PENSTOCK_CUDA
#include "cuda/ceilings.h"
#endif

namespace penstock {
namespace {

constexpr int64_t kWords = int64_t{12} << 20;  // of 8 bytes that a thread reads: beyond any cache
constexpr int kRuns = 5;

double CpuReadBandwidth(int threads) {
  ThreadPool pool(threads);
  std::vector<uint64_t> data(static_cast<size_t>(kWords * pool.num_threads()), 1);
  std::vector<uint64_t> sums(static_cast<size_t>(pool.num_threads()));
  std::vector<double> rates;
  for (int run = 0; run < kRuns; ++run) {
    const auto start = std::chrono::steady_clock::now();
    pool.ParallelFor(pool.num_threads(), 1, [&](int64_t begin, int64_t) {
      const uint64_t* part = data.data() + begin * kWords;
      uint64_t lanes[8] = {};
      for (int64_t i = 0; i < kWords; i += 8) {
        for (int64_t lane = 0; lane < 8; ++lane) lanes[lane] += part[i + lane];
      }
      sums[static_cast<size_t>(begin)] = std::accumulate(lanes, lanes + 8, uint64_t{0});
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    rates.push_back(static_cast<double>(data.size() * sizeof(data[0])) / seconds.count());
    for (const uint64_t sum : sums) PENSTOCK_CHECK_EQ(sum, static_cast<uint64_t>(kWords));
  }
  std::sort(rates.begin(), rates.end());
  return rates[kRuns / 2];
}

}  // namespace

absl::StatusOr<DeviceCeilings> MeasureCeilings(const std::string& device, DataType type,
                                               int threads) {
  PENSTOCK_ASSIGN_OR_RETURN(const int ordinal, DeviceOrdinal(device));
  if (ordinal < 0) return DeviceCeilings{"cpu", CpuReadBandwidth(threads), 0};
#ifdef PENSTOCK_CUDA
  return MeasureCudaCeilings(ordinal, type);
#else
  (void)type;
  return WithoutCuda(device);
#endif
}

}  // namespace penstock
