// The vector parts of sampling, compiled once for each instruction set by Highway.
#include <algorithm>
#include <cmath>

#include "core/kernels/sampling.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/kernels/sampling_simd.cc"
#include "hwy/foreach_target.h"
// After foreach_target:
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace penstock::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

RowScan Scan(const float* row, int64_t count) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto largest = hn::Set(d, row[0]);
  auto broken = hn::Zero(d);  // x - x is 0 but for NaN and infinities, and NaN spreads
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto x = hn::LoadU(d, row + i);
    largest = hn::Max(largest, x);
    broken = hn::Add(broken, hn::Sub(x, x));
  }
  RowScan scan{hn::GetLane(hn::MaxOfLanes(d, largest)),
               !std::isnan(hn::GetLane(hn::SumOfLanes(d, broken)))};
  for (; i < count; ++i) {
    scan.largest = std::max(scan.largest, row[i]);
    scan.finite = scan.finite && std::isfinite(row[i]);
  }
  return scan;
}

// Partial sums of 4096 elements in float32, added up in float64: rows of a large vocabulary keep
// the precision of their terms.
double SumExpOf(const float* row, int64_t count, float top, float temperature) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto largest = hn::Set(d, top);
  const auto divisor = hn::Set(d, temperature);
  double total = 0;
  int64_t i = 0;
  while (i + lanes <= count) {
    auto sum = hn::Zero(d);
    for (const int64_t stop = i + 4096; i + lanes <= count && i < stop; i += lanes) {
      const auto score = hn::Div(hn::Sub(hn::LoadU(d, row + i), largest), divisor);
      sum = hn::Add(sum, hn::Exp(d, score));
    }
    total += hn::GetLane(hn::SumOfLanes(d, sum));
  }
  for (; i < count; ++i) {
    total += std::exp((static_cast<double>(row[i]) - top) / static_cast<double>(temperature));
  }
  return total;
}

}  // namespace penstock::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace penstock::cpu {

HWY_EXPORT(Scan);
HWY_EXPORT(SumExpOf);

RowScan ScanRow(std::span<const float> row) {
  return HWY_DYNAMIC_DISPATCH(Scan)(row.data(), static_cast<int64_t>(row.size()));
}

double SumExp(std::span<const float> row, float top, float temperature) {
  return HWY_DYNAMIC_DISPATCH(SumExpOf)(row.data(), static_cast<int64_t>(row.size()), top,
                                        temperature);
}

}  // namespace penstock::cpu
#endif  // HWY_ONCE
