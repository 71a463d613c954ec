#include "cuda/lt_linear.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "core/base/log.h"
#include "cuda/blas.h"
#include "cuda/cuda_check.h"
#include "cuda/lt_algorithm.h"
#include "cuda/sum_chain.h"

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

// What the library proposes, `most` at most, the one first that should be the fastest. None: it has
// nothing for this product.
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
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle, &problem.operation, &problem.weight, &problem.x, &problem.out, &problem.out,
      &preference, most, found.data(), &count);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) count = 0;
  if (status != CUBLAS_STATUS_NOT_SUPPORTED) BLAS_CHECK(status);
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (int i = 0; i < count; ++i) algorithms.push_back(found[static_cast<size_t>(i)].algo);
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
                       const Tensor& weight, const Tensor& out, bool adds, void* workspace,
                       size_t workspace_bytes, const cublasLtMatmulAlgo_t& algorithm) {
  Problem problem(x, weight, out, x.dim(0));
  const float one = 1;
  const float of_out = adds ? 1 : 0;
  return cublasLtMatmul(handle, &problem.operation, &one, weight.raw(), &problem.weight, x.raw(),
                        &problem.x, &of_out, out.raw(), &problem.out, const_cast<void*>(out.raw()),
                        &problem.out, &algorithm, workspace, workspace_bytes, stream);
}

// The fewest milliseconds of three; before each `flush` is written, so that level 2 holds little of
// the last one's weights.
template <typename Work>
float Milliseconds(cudaStream_t stream, void* flush, size_t flush_bytes, const Work& work) {
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  CUDA_CHECK(cudaEventCreate(&begin));
  CUDA_CHECK(cudaEventCreate(&end));
  float fewest = 1e30f;
  for (int i = 0; i < 3; ++i) {
    CUDA_CHECK(cudaMemsetAsync(flush, 0, flush_bytes, stream));
    CUDA_CHECK(cudaEventRecord(begin, stream));
    work();
    CUDA_CHECK(cudaEventRecord(end, stream));
    CUDA_CHECK(cudaEventSynchronize(end));
    float elapsed = 0;
    CUDA_CHECK(cudaEventElapsedTime(&elapsed, begin, end));
    fewest = std::min(fewest, elapsed);
  }
  CUDA_CHECK(cudaEventDestroy(begin));
  CUDA_CHECK(cudaEventDestroy(end));
  return fewest;
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
  if (!made || Enqueue(handle, stream, x, weight, out, false, workspace, workspace_bytes, *made) !=
                   CUBLAS_STATUS_SUCCESS) {
    return false;
  }
  algorithms_.insert_or_assign(KeyOf(x, weight, out), *made);
  return true;
}

void LtLinear::Run(cublasLtHandle_t handle, cudaStream_t stream, const Tensor& x,
                   const Tensor& weight, const Tensor& out, bool adds, void* workspace,
                   size_t workspace_bytes) {
  const Key key = KeyOf(x, weight, out);
  auto found = algorithms_.find(key);
  if (found == algorithms_.end()) {
    auto algorithm = FromTable(handle, table_, x, weight, out, workspace_bytes);
    if (!algorithm) {
      Problem problem(x, weight, out, TokenBucket(x.dim(0)));
      const auto proposed = Ask(handle, problem, CommonAlignment(x, weight, out), workspace_bytes,
                                CUBLASLT_REDUCTION_SCHEME_MASK, 1);
      PENSTOCK_CHECK_EQ(proposed.size(), size_t{1});
      algorithm = proposed[0];
    }
    found = algorithms_.emplace(key, *algorithm).first;
  }
  BLAS_CHECK(
      Enqueue(handle, stream, x, weight, out, adds, workspace, workspace_bytes, found->second));
}

bool LtLinear::RunHalves(cublasLtHandle_t handle, cudaStream_t stream, const Tensor& x,
                         const Tensor& weight, const Tensor& out) {
  const int64_t features = weight.dim(1);
  const Tensor first = out.Slice(0, 1).Reshape({out.dim(1), out.dim(2)});
  const auto make = [&](int64_t tokens) {
    Problem problem(x, weight, first, tokens);
    const auto batch = [](cublasLtMatrixLayoutOpaque_t& layout, int64_t rows, int64_t stride) {
      const int32_t count = 2;
      const auto set = [&layout](cublasLtMatrixLayoutAttribute_t attribute, const auto& value) {
        BLAS_CHECK(cublasLtMatrixLayoutSetAttribute(&layout, attribute, &value, sizeof(value)));
      };
      set(CUBLASLT_MATRIX_LAYOUT_ROWS, static_cast<uint64_t>(rows));
      set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, count);
      set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, stride);
    };
    batch(problem.weight, features / 2, features / 2);
    batch(problem.x, features / 2, features / 2);
    batch(problem.out, out.dim(2), out.dim(1) * out.dim(2));
    return problem;
  };
  const Key key = KeyOf(x, weight, first);
  auto found = halves_.find(key);
  if (found == halves_.end()) {
    Problem problem = make(TokenBucket(x.dim(0)));
    const auto proposed = Ask(handle, problem, CommonAlignment(x, weight, first), 0,
                              CUBLASLT_REDUCTION_SCHEME_NONE, 1);
    found = halves_.emplace(key, std::nullopt).first;
    if (!proposed.empty()) found->second = proposed[0];
  }
  if (!found->second) return false;
  Problem problem = make(x.dim(0));
  const float one = 1;
  const float zero = 0;
  BLAS_CHECK(cublasLtMatmul(handle, &problem.operation, &one, weight.raw(), &problem.weight,
                            x.raw(), &problem.x, &zero, out.raw(), &problem.out,
                            const_cast<void*>(out.raw()), &problem.out, &*found->second, nullptr, 0,
                            stream));
  return true;
}

bool LtLinear::RunChain(cublasLtHandle_t handle, cudaStream_t stream, const Tensor& x,
                        const Tensor& weight, const Tensor& out, bool adds, void* workspace,
                        size_t workspace_bytes) {
  constexpr int kCandidates = 8;
  const Key key = KeyOf(x, weight, out);
  auto found = chains_.find(key);
  if (found == chains_.end()) {
    Problem problem(x, weight, out, TokenBucket(x.dim(0)));
    // Whoever has no workspace splits nothing.
    const std::vector<cublasLtMatmulAlgo_t> candidates =
        Ask(handle, problem, CommonAlignment(x, weight, out), 0, CUBLASLT_REDUCTION_SCHEME_NONE,
            kCandidates);
    // Into memory of its own, since out may hold what is added to.
    const int64_t out_bytes =
        ((out.dim(0) - 1) * out.stride(0) + out.dim(1)) * Info(out.type()).block_bytes;
    void* memory = nullptr;
    CUDA_CHECK(cudaMalloc(&memory, static_cast<size_t>(out_bytes)));
    const Tensor scratch =
        Tensor::Borrow(memory, out.type(), {out.dim(0), out.stride(0)}, Device::kCuda)
            .Columns(0, out.dim(1));
    const auto multiply = [&](const Tensor& of, const cublasLtMatmulAlgo_t& algorithm) {
      BLAS_CHECK(Enqueue(handle, stream, of, weight, scratch, false, nullptr, 0, algorithm));
    };
    std::vector<std::pair<float, size_t>> times;
    for (size_t i = 0; i < candidates.size(); ++i) {
      multiply(x, candidates[i]);
      const float took =
          Milliseconds(stream, workspace, workspace_bytes, [&] { multiply(x, candidates[i]); });
      times.emplace_back(took, i);
    }
    std::sort(times.begin(), times.end());
    std::optional<cublasLtMatmulAlgo_t> best;
    for (const auto& [took, i] : times) {
      const auto check = [&](const Tensor& of) { multiply(of, candidates[i]); };
      if (!IsChain(stream, x, weight, scratch, check)) continue;
      best = candidates[i];
      break;
    }
    CUDA_CHECK(cudaFree(memory));
    if (!best) {
      LogWarning(absl::StrCat("--invariant: this cuBLASLt has no product of ", x.dim(0), " x ",
                              weight.dim(1), " by ", weight.dim(0), " ", Abs(Name(x.type())),
                              " in the fixed order of sums: a slow kernel takes its place"));
    }
    found = chains_.emplace(key, best).first;
  }
  if (!found->second) return false;
  BLAS_CHECK(Enqueue(handle, stream, x, weight, out, adds, nullptr, 0, *found->second));
  return true;
}

}  // namespace penstock::cuda
