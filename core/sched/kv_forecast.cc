#include "core/sched/kv_forecast.h"

#include <algorithm>

#include "core/base/kv_block.h"

namespace penstock {

int64_t KvForecast::PeakBlocks() {
  // From the end backwards, so that one pass adds up those that still run.
  std::sort(each_.begin(), each_.end(),
            [](const Future& a, const Future& b) { return a.rest > b.rest; });
  int64_t peak = 0;
  int64_t positions = 0;
  int64_t running = 0;
  int64_t growing = 0;
  for (const Future& future : each_) {
    positions += future.positions;
    ++running;
    growing += future.grows ? 1 : 0;
    // The last block of each is half full, on average.
    const int64_t all = positions + growing * future.rest + running * (kBlockSize / 2);
    peak = std::max(peak, all / kBlockSize);
  }
  return peak;
}

}  // namespace penstock
