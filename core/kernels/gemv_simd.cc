// The vector version of gemv, compiled once for each instruction set by Highway.
#include <algorithm>

#include "core/base/check.h"
#include "core/kernels/gemv.h"
#include "core/tensor/dequantize.h"
#include "core/tensor/tensor_wrapper.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/kernels/gemv_simd.cc"
#include "hwy/foreach_target.h"
// After foreach_target:
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace penstock::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::CappedTag<float, 16>;
using Vector = hn::Vec<Floats>;
constexpr Floats kFloats;
constexpr int64_t kSums = 4;  // chains of a row, so that its adds do not wait for each other

HWY_INLINE Vector LoadFloats(const float* from) { return hn::LoadU(kFloats, from); }
HWY_INLINE Vector LoadFloats(const hwy::float16_t* from) {
  return hn::PromoteTo(kFloats, hn::LoadU(hn::Rebind<hwy::float16_t, Floats>(), from));
}
HWY_INLINE Vector LoadFloats(const hwy::bfloat16_t* from) {
  return hn::PromoteTo(kFloats, hn::LoadU(hn::Rebind<hwy::bfloat16_t, Floats>(), from));
}

template <typename T>
void DotRowsOf(DataType type, const T* weight, const float* x, int64_t features, int64_t rows,
               float* out) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(kFloats));
  for (int64_t n = 0; n < rows; ++n, weight += features) {
    Vector sums[kSums];
    for (Vector& sum : sums) sum = hn::Zero(kFloats);
    int64_t k = 0;
    for (; k + kSums * lanes <= features; k += kSums * lanes) {
      for (int64_t i = 0; i < kSums; ++i) {
        sums[i] = hn::MulAdd(LoadFloats(weight + k + i * lanes),
                             hn::LoadU(kFloats, x + k + i * lanes), sums[i]);
      }
    }
    for (; k + lanes <= features; k += lanes) {
      sums[0] = hn::MulAdd(LoadFloats(weight + k), hn::LoadU(kFloats, x + k), sums[0]);
    }
    const Vector pairs = hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
    float sum = hn::GetLane(hn::SumOfLanes(kFloats, pairs));
    float tail[16];  // what is less than a vector
    Dequantize(type, weight + k, features - k, tail);
    for (int64_t i = 0; i < features - k; ++i) sum += tail[i] * x[k + i];
    out[n] = sum;
  }
}

// Rows [begin, end).
void GemvRows(const Tensor& weight, const float* x, float* y, int64_t begin, int64_t end) {
  const int64_t features = weight.dim(1);
  const void* data = weight.raw();
  const int64_t skip = begin * features;
  const int64_t rows = end - begin;
  switch (weight.type()) {
    case DataType::kF32:
      return DotRowsOf(weight.type(), static_cast<const float*>(data) + skip, x, features, rows,
                       y + begin);
    case DataType::kF16:
      return DotRowsOf(weight.type(), static_cast<const hwy::float16_t*>(data) + skip, x, features,
                       rows, y + begin);
    default:
      return DotRowsOf(weight.type(), static_cast<const hwy::bfloat16_t*>(data) + skip, x, features,
                       rows, y + begin);
  }
}

}  // namespace penstock::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace penstock::cpu {

HWY_EXPORT(GemvRows);

void Gemv(ThreadPool& pool, const Tensor& weight, const Tensor& x, const Tensor& y) {
  const TensorWrapper<const float> in(x);
  const TensorWrapper<float> out(y);
  PENSTOCK_CHECK_EQ(x.dim(0), weight.dim(1));
  PENSTOCK_CHECK_EQ(y.dim(0), weight.dim(0));
  PENSTOCK_CHECK(weight.is_contiguous());
  PENSTOCK_CHECK(weight.type() == DataType::kF32 || weight.type() == DataType::kF16 ||
                 weight.type() == DataType::kBF16);
  const int64_t share = weight.dim(0) / (8 * pool.num_threads());
  pool.ParallelFor(weight.dim(0), std::max<int64_t>(16, share), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(GemvRows)(weight, in.data(), out.data(), begin, end);
  });
}

}  // namespace penstock::cpu
#endif  // HWY_ONCE
