#include "cuda/lt_linear.h"

#include "core/base/check.h"
#include "cuda/blas.h"

namespace penstock::cuda {
namespace {

// The most that cuBLASLt distinguishes.
constexpr uint32_t kMaxAlignment = 256;

cublasLtMatrixLayoutOpaque_t Layout(DataType type, int64_t rows, int64_t columns, int64_t stride) {
  cublasLtMatrixLayoutOpaque_t layout;
  BLAS_CHECK(cublasLtMatrixLayoutInit(&layout, BlasType(type), static_cast<uint64_t>(rows),
                                      static_cast<uint64_t>(columns), stride));
  return layout;
}

// cuBLAS counts columns first: out^T = weight x^T.
struct Problem {
  Problem(const Tensor& x_tensor, const Tensor& weight_tensor, const Tensor& out_tensor,
          int64_t tokens)
      : weight(Layout(weight_tensor.type(), weight_tensor.dim(1), weight_tensor.dim(0),
                      weight_tensor.dim(1))),
        x(Layout(x_tensor.type(), x_tensor.dim(1), tokens, x_tensor.stride(0))),
        out(Layout(out_tensor.type(), out_tensor.dim(1), tokens, out_tensor.stride(0))) {
    BLAS_CHECK(cublasLtMatmulDescInit(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const cublasOperation_t transposed = CUBLAS_OP_T;
    BLAS_CHECK(cublasLtMatmulDescSetAttribute(&operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                              sizeof(transposed)));
  }

  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t weight;
  cublasLtMatrixLayoutOpaque_t x;
  cublasLtMatrixLayoutOpaque_t out;
};

uint32_t CommonAlignment(const Tensor& x, const Tensor& weight, const Tensor& out) {
  const auto bits = reinterpret_cast<uintptr_t>(x.raw()) |
                    reinterpret_cast<uintptr_t>(weight.raw()) |
                    reinterpret_cast<uintptr_t>(out.raw()) | kMaxAlignment;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

cublasLtMatmulAlgo_t Ask(cublasLtHandle_t handle, Problem& problem, uint32_t alignment,
                         size_t workspace_bytes) {
  cublasLtMatmulPreferenceOpaque_t preference;
  BLAS_CHECK(cublasLtMatmulPreferenceInit(&preference));
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    BLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof(value)));
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment);
  cublasLtMatmulHeuristicResult_t found;
  int count = 0;
  BLAS_CHECK(cublasLtMatmulAlgoGetHeuristic(handle, &problem.operation, &problem.weight, &problem.x,
                                            &problem.out, &problem.out, &preference, 1, &found,
                                            &count));
  PENSTOCK_CHECK_EQ(count, 1);
  return found.algo;
}

}  // namespace

int64_t LtLinear::TokenBucket(int64_t tokens) {
  int64_t power = 1;
  while (power < tokens) power *= 2;
  return tokens <= power / 4 * 3 ? power / 4 * 3 : power;
}

void LtLinear::Run(cublasLtHandle_t handle, cudaStream_t stream, const Tensor& x,
                   const Tensor& weight, const Tensor& out, void* workspace,
                   size_t workspace_bytes) {
  const int64_t bucket = TokenBucket(x.dim(0));
  const uint32_t alignment = CommonAlignment(x, weight, out);
  const Key key = {static_cast<int64_t>(x.type()),
                   static_cast<int64_t>(out.type()),
                   bucket,
                   weight.dim(1),
                   weight.dim(0),
                   x.stride(0),
                   out.stride(0),
                   alignment};
  auto found = algorithms_.find(key);
  if (found == algorithms_.end()) {
    Problem problem(x, weight, out, bucket);
    found = algorithms_.emplace(key, Ask(handle, problem, alignment, workspace_bytes)).first;
  }
  Problem problem(x, weight, out, x.dim(0));
  const float one = 1;
  const float zero = 0;
  BLAS_CHECK(cublasLtMatmul(handle, &problem.operation, &one, weight.raw(), &problem.weight,
                            x.raw(), &problem.x, &zero, out.raw(), &problem.out,
                            const_cast<void*>(out.raw()), &problem.out, &found->second, workspace,
                            workspace_bytes, stream));
}

}  // namespace penstock::cuda
