#include "cuda/lt_linear.h"

#include <optional>

#include "core/base/check.h"
#include "cuda/blas.h"
#include "cuda/lt_algorithm.h"

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

std::vector<cublasLtMatmulAlgo_t> Ask(cublasLtHandle_t handle, Problem& problem, uint32_t alignment,
                                      size_t workspace_bytes, uint32_t reductions, int most) {
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
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions);
  std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<size_t>(most));
  int count = 0;
  BLAS_CHECK(cublasLtMatmulAlgoGetHeuristic(handle, &problem.operation, &problem.weight, &problem.x,
                                            &problem.out, &problem.out, &preference, most,
                                            found.data(), &count));
  PENSTOCK_CHECK_GE(count, 1);
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) algorithms.push_back(found[i].algo);
  return algorithms;
}

std::optional<cublasLtMatmulAlgo_t> Make(cublasLtHandle_t handle, const Tensor& x,
                                         const Tensor& weight, const Tensor& out,
                                         size_t workspace_bytes, const GemmAlgorithm& algorithm) {
  Problem problem(x, weight, out, LtLinear::TokenBucket(x.dim(0)));
  return MakeAlgorithm({handle, &problem.operation, BlasType(x.type()), BlasType(out.type()),
                        &problem.weight, &problem.x, &problem.out},
                       algorithm, workspace_bytes);
}

// The table's, where the tensors lie as those that were measured.
std::optional<cublasLtMatmulAlgo_t> FromTable(cublasLtHandle_t handle, const GemmTable& table,
                                              const Tensor& x, const Tensor& weight,
                                              const Tensor& out, size_t workspace_bytes) {
  const TunedGemm* tuned = table.Find(
      {x.type(), out.type(), weight.dim(1), weight.dim(0), LtLinear::TokenBucket(x.dim(0))});
  const bool is_dense = x.stride(0) == weight.dim(1) && out.stride(0) == weight.dim(0);
  if (tuned == nullptr || !is_dense || CommonAlignment(x, weight, out) != kMaxAlignment) {
    return std::nullopt;
  }
  return Make(handle, x, weight, out, workspace_bytes, tuned->algorithm);
}

cublasStatus_t Enqueue(cublasLtHandle_t handle, cudaStream_t stream, const Tensor& x,
                       const Tensor& weight, const Tensor& out, void* workspace,
                       size_t workspace_bytes, const cublasLtMatmulAlgo_t& algorithm) {
  Problem problem(x, weight, out, x.dim(0));
  const float one = 1;
  const float zero = 0;
  return cublasLtMatmul(handle, &problem.operation, &one, weight.raw(), &problem.weight, x.raw(),
                        &problem.x, &zero, out.raw(), &problem.out, const_cast<void*>(out.raw()),
                        &problem.out, &algorithm, workspace, workspace_bytes, stream);
}

}  // namespace

int64_t LtLinear::TokenBucket(int64_t tokens) {
  int64_t power = 1;
  while (power < tokens) power *= 2;
  return tokens <= power / 4 * 3 ? power / 4 * 3 : power;
}

LtLinear::Key LtLinear::KeyOf(const Tensor& x, const Tensor& weight, const Tensor& out) {
  return {static_cast<int64_t>(x.type()),
          static_cast<int64_t>(out.type()),
          TokenBucket(x.dim(0)),
          weight.dim(1),
          weight.dim(0),
          x.stride(0),
          out.stride(0),
          CommonAlignment(x, weight, out)};
}

std::vector<GemmAlgorithm> LtLinear::Candidates(cublasLtHandle_t handle, const Tensor& x,
                                                const Tensor& weight, const Tensor& out,
                                                size_t workspace_bytes, int most) const {
  Problem problem(x, weight, out, TokenBucket(x.dim(0)));
  const uint32_t alignment = CommonAlignment(x, weight, out);
  std::vector<GemmAlgorithm> all;
  for (const auto& [reductions, count] :
       {std::pair(CUBLASLT_REDUCTION_SCHEME_MASK, 1),
        std::pair(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, most)}) {
    for (const cublasLtMatmulAlgo_t& algorithm :
         Ask(handle, problem, alignment, workspace_bytes, reductions, count)) {
      all.push_back(DescribeAlgorithm(algorithm));
    }
  }
  return all;
}

bool LtLinear::Try(cublasLtHandle_t handle, cudaStream_t stream, const Tensor& x,
                   const Tensor& weight, const Tensor& out, void* workspace, size_t workspace_bytes,
                   const GemmAlgorithm& algorithm) {
  const auto made = Make(handle, x, weight, out, workspace_bytes, algorithm);
  if (!made || Enqueue(handle, stream, x, weight, out, workspace, workspace_bytes, *made) !=
                   CUBLAS_STATUS_SUCCESS) {
    return false;
  }
  algorithms_.insert_or_assign(KeyOf(x, weight, out), *made);
  return true;
}

void LtLinear::Run(cublasLtHandle_t handle, cudaStream_t stream, const Tensor& x,
                   const Tensor& weight, const Tensor& out, void* workspace,
                   size_t workspace_bytes) {
  const Key key = KeyOf(x, weight, out);
  auto found = algorithms_.find(key);
  if (found == algorithms_.end()) {
    const auto tuned = FromTable(handle, table_, x, weight, out, workspace_bytes);
    Problem problem(x, weight, out, TokenBucket(x.dim(0)));
    found = algorithms_
                .emplace(key, tuned ? *tuned
                                    : Ask(handle, problem, CommonAlignment(x, weight, out),
                                          workspace_bytes, CUBLASLT_REDUCTION_SCHEME_MASK, 1)[0])
                .first;
  }
  BLAS_CHECK(Enqueue(handle, stream, x, weight, out, workspace, workspace_bytes, found->second));
}

}  // namespace penstock::cuda
