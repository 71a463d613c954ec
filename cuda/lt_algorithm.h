// cuBLASLt's algorithms as plain numbers (core/io/gemm_table.h) and back, checked by the library
// before anything is run with them.
#pragma once

#include <cublasLt.h>

#include <cstddef>
#include <optional>

#include "core/io/gemm_table.h"

namespace penstock::cuda {

GemmAlgorithm DescribeAlgorithm(const cublasLtMatmulAlgo_t& algorithm);

// A product as the library is told of it; sums in f32.
struct LtProduct {
  cublasLtHandle_t handle;
  cublasLtMatmulDesc_t operation;
  cudaDataType_t in_type;
  cudaDataType_t out_type;
  cublasLtMatrixLayout_t a;
  cublasLtMatrixLayout_t b;
  cublasLtMatrixLayout_t c;
};

// Nothing if this library has no such algorithm, or not for this product, or if it wants a larger
// workspace.
std::optional<cublasLtMatmulAlgo_t> MakeAlgorithm(const LtProduct& product,
                                                  const GemmAlgorithm& numbers,
                                                  size_t workspace_bytes);

}  // namespace penstock::cuda
