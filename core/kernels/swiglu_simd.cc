// The vector version of swiglu, compiled once for each instruction set by Highway.
#include "core/base/check.h"
#include "core/kernels/swiglu.h"
#include "core/tensor/tensor_wrapper.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/kernels/swiglu_simd.cc"
#include "hwy/foreach_target.h"
// After foreach_target:
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace penstock::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Exp is right up to 104; at 88 the quotient is below 1e-36 of the gate already.
template <class D, class V>
HWY_INLINE V Silu(D d, V gate) {
  const V e = hn::Exp(d, hn::Min(hn::Neg(gate), hn::Set(d, 88.0f)));
  return hn::Div(gate, hn::Add(hn::Set(d, 1.0f), e));
}

void SwigluRow(const float* HWY_RESTRICT gate, const float* HWY_RESTRICT up, int64_t width,
               float* HWY_RESTRICT out) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i + lanes <= width; i += lanes) {
    hn::StoreU(hn::Mul(Silu(d, hn::LoadU(d, gate + i)), hn::LoadU(d, up + i)), d, out + i);
  }
  const hn::CappedTag<float, 1> one;
  for (int64_t i = width / lanes * lanes; i < width; ++i) {
    hn::StoreU(hn::Mul(Silu(one, hn::LoadU(one, gate + i)), hn::LoadU(one, up + i)), one, out + i);
  }
}

}  // namespace penstock::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace penstock::cpu {

HWY_EXPORT(SwigluRow);

void Swiglu(ThreadPool& pool, const Tensor& gate_up, const Tensor& out) {
  const TensorWrapper<const float> in(gate_up);
  const TensorWrapper<float> result(out);
  const int64_t width = out.dim(1);
  PENSTOCK_CHECK_EQ(gate_up.dim(1), 2 * width);
  PENSTOCK_CHECK_EQ(gate_up.dim(0), out.dim(0));
  pool.ParallelFor(out.dim(0), 4, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      HWY_DYNAMIC_DISPATCH(SwigluRow)(in.row(t), in.row(t) + width, width, result.row(t));
    }
  });
}

}  // namespace penstock::cpu
#endif  // HWY_ONCE
