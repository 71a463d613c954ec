// The vector version of batched_gemm, compiled once for each instruction set by Highway.
#include "core/kernels/batched_gemm.h"
#include "core/tensor/tensor_wrapper.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/kernels/batched_gemm_simd.cc"
#include "hwy/foreach_target.h"
// After foreach_target:
#include "core/kernels/gemm_tile-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace penstock::cpu::HWY_NAMESPACE {

void BatchedGemmBlock(const GemmProblem& problem, const GemmBlock& block) {
  MultiplyBlock(problem, block);
}

}  // namespace penstock::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace penstock::cpu {

HWY_EXPORT(BatchedGemmBlock);

void BatchedGemm(ThreadPool& pool, const Tensor& a, const Tensor& b, bool transpose_b, float alpha,
                 const Tensor& c) {
  const TensorWrapper<const float> left(a);
  const TensorWrapper<const float> right(b);
  const TensorWrapper<float> out(c);
  const int64_t count = BatchedGemmCount(a, b, transpose_b, c);
  const int64_t rows = c.dim(c.rank() - 2);
  const int64_t columns = c.dim(c.rank() - 1);
  const int64_t depth = a.dim(a.rank() - 1);
  ForEachGemmBlock(pool, count, rows, columns, [&](int64_t i, const GemmBlock& block) {
    const GemmProblem problem = {left.data() + i * rows * depth,
                                 right.data() + i * depth * columns,
                                 out.data() + i * rows * columns,
                                 rows,
                                 columns,
                                 depth,
                                 transpose_b,
                                 alpha,
                                 0.0f};
    HWY_DYNAMIC_DISPATCH(BatchedGemmBlock)(problem, block);
  });
}

}  // namespace penstock::cpu
#endif  // HWY_ONCE
