// The vector version of sgemm, compiled once for each instruction set by Highway.
#include "core/base/check.h"
#include "core/kernels/sgemm.h"
#include "core/tensor/tensor_wrapper.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/kernels/sgemm_simd.cc"
#include "hwy/foreach_target.h"
// After foreach_target:
#include "core/kernels/gemm_tile-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace penstock::cpu::HWY_NAMESPACE {

void SgemmBlock(const GemmProblem& problem, const GemmBlock& block) {
  MultiplyBlock(problem, block);
}

}  // namespace penstock::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace penstock::cpu {

HWY_EXPORT(SgemmBlock);

void Sgemm(ThreadPool& pool, float alpha, const Tensor& a, const Tensor& b, float beta,
           const Tensor& c) {
  PENSTOCK_CHECK_EQ(a.dim(0), c.dim(0));
  PENSTOCK_CHECK_EQ(a.dim(1), b.dim(0));
  PENSTOCK_CHECK_EQ(b.dim(1), c.dim(1));
  PENSTOCK_CHECK(a.is_contiguous() && b.is_contiguous() && c.is_contiguous());
  const GemmProblem problem = {TensorWrapper<const float>(a).data(),
                               TensorWrapper<const float>(b).data(),
                               TensorWrapper<float>(c).data(),
                               c.dim(0),
                               c.dim(1),
                               a.dim(1),
                               false,
                               alpha,
                               beta};
  ForEachGemmBlock(pool, 1, c.dim(0), c.dim(1), [&](int64_t, const GemmBlock& block) {
    HWY_DYNAMIC_DISPATCH(SgemmBlock)(problem, block);
  });
}

}  // namespace penstock::cpu
#endif  // HWY_ONCE
