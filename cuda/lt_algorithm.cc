#include "cuda/lt_algorithm.h"

#include "cuda/blas.h"

namespace penstock::cuda {
namespace {

constexpr cublasLtMatmulAlgoConfigAttributes_t kAttributes[] = {
    CUBLASLT_ALGO_CONFIG_ID,
    CUBLASLT_ALGO_CONFIG_TILE_ID,
    CUBLASLT_ALGO_CONFIG_SPLITK_NUM,
    CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
    CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING,
    CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION,
    CUBLASLT_ALGO_CONFIG_STAGES_ID,
    CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID,
    CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID,
};
static_assert(std::size(kAttributes) == std::tuple_size_v<GemmAlgorithm>);

// The last two are of 16 bits, the others of 32.
constexpr size_t kFirstShort = 7;
size_t BytesOf(size_t i) { return i < kFirstShort ? sizeof(uint32_t) : sizeof(uint16_t); }

}  // namespace

GemmAlgorithm DescribeAlgorithm(const cublasLtMatmulAlgo_t& algorithm) {
  GemmAlgorithm numbers;
  for (size_t i = 0; i < numbers.size(); ++i) {
    int32_t value = 0;  // the host is little-endian: 16 bits are the low ones
    size_t written = 0;
    BLAS_CHECK(cublasLtMatmulAlgoConfigGetAttribute(&algorithm, kAttributes[i], &value, BytesOf(i),
                                                    &written));
    numbers[i] = value;
  }
  return numbers;
}

std::optional<cublasLtMatmulAlgo_t> MakeAlgorithm(const LtProduct& product,
                                                  const GemmAlgorithm& numbers,
                                                  size_t workspace_bytes) {
  cublasLtMatmulAlgo_t algorithm;
  if (cublasLtMatmulAlgoInit(product.handle, CUBLAS_COMPUTE_32F, CUDA_R_32F, product.in_type,
                             product.in_type, product.out_type, product.out_type,
                             static_cast<int>(numbers[0]), &algorithm) != CUBLAS_STATUS_SUCCESS) {
    return std::nullopt;
  }
  for (size_t i = 1; i < numbers.size(); ++i) {
    const auto value = static_cast<uint32_t>(numbers[i]);
    if (cublasLtMatmulAlgoConfigSetAttribute(&algorithm, kAttributes[i], &value, BytesOf(i)) !=
        CUBLAS_STATUS_SUCCESS) {
      return std::nullopt;
    }
  }
  cublasLtMatmulHeuristicResult_t result = {};
  const cublasStatus_t status =
      cublasLtMatmulAlgoCheck(product.handle, product.operation, product.a, product.b, product.c,
                              product.c, &algorithm, &result);
  if (status != CUBLAS_STATUS_SUCCESS || result.state != CUBLAS_STATUS_SUCCESS ||
      result.workspaceSize > workspace_bytes) {
    return std::nullopt;
  }
  return algorithm;
}

}  // namespace penstock::cuda
