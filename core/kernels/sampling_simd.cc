// The vector part of sampling, compiled once for each instruction set by Highway.
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

// sum_i exp(row[i] - top). Partial sums of 4096 elements in float32, added up in float64: rows of
// a large vocabulary keep the precision of their terms. NaN comes out as NaN.
double SumExp(const float* row, int64_t count, float top) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  double total = 0;
  int64_t i = 0;
  while (i + lanes <= count) {
    auto sum = hn::Zero(d);
    for (const int64_t stop = i + 4096; i + lanes <= count && i < stop; i += lanes) {
      const auto shifted = hn::Sub(hn::LoadU(d, row + i), hn::Set(d, top));
      sum = hn::Add(sum, hn::Exp(d, shifted));
      sum = hn::Add(sum, hn::IfThenElseZero(hn::IsNaN(shifted), shifted));
    }
    total += hn::GetLane(hn::SumOfLanes(d, sum));
  }
  for (; i < count; ++i) total += std::exp(static_cast<double>(row[i]) - top);
  return total;
}

}  // namespace penstock::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace penstock::cpu {

HWY_EXPORT(SumExp);

double LogSumExp(std::span<const float> row, float top) {
  return top +
         std::log(HWY_DYNAMIC_DISPATCH(SumExp)(row.data(), static_cast<int64_t>(row.size()), top));
}

}  // namespace penstock::cpu
#endif  // HWY_ONCE
