// Blas: a cuBLAS handle and the workspace that its kernels may use, so that no product allocates.
// One thread at a time; products that share a Blas go to one stream at a time.
// Errors: a failed call ends the process, as cuda_check.h has it for CUDA.
#pragma once

#include <cublas_v2.h>

#include <utility>
#include <vector>

#include "core/tensor/tensor.h"
#include "cuda/lt_linear.h"
#include "cuda/sum_order.h"

namespace penstock::cuda {

class Blas {
 public:
  // On the current device.
  Blas();
  ~Blas();
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;

  // The handle, with its work on `stream`.
  cublasHandle_t On(cudaStream_t stream) const;

  // In which every Linear from now on sums.
  void set_sum_order(SumOrder order) { sum_order_ = order; }
  SumOrder sum_order() const { return sum_order_; }
  // lt_linear.h's product.
  void Linear(cudaStream_t stream, const Tensor& x, const Tensor& weight, const Tensor& out,
              bool adds = false);
  // lt_linear.h's halves, into the workspace, where they are until the next product: [2,
  // num_tokens, out_features] f32. Empty if there is no room, or no algorithm.
  Tensor LinearHalves(cudaStream_t stream, const Tensor& x, const Tensor& weight);
  // lt_linear.h's, with this handle and workspace.
  void UseTable(GemmTable table) { linear_.UseTable(std::move(table)); }
  std::vector<GemmAlgorithm> Candidates(const Tensor& x, const Tensor& weight, const Tensor& out,
                                        int most) const;
  bool Try(cudaStream_t stream, const Tensor& x, const Tensor& weight, const Tensor& out,
           const GemmAlgorithm& algorithm);

 private:
  cublasHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  LtLinear linear_;
  SumOrder sum_order_ = SumOrder::kFastest;
};

// REQUIRES: f32, f16 or bf16.
cudaDataType_t BlasType(DataType type);

void CheckBlas(cublasStatus_t status, const char* what, const char* file, int line);

}  // namespace penstock::cuda

#define BLAS_CHECK(...) ::penstock::cuda::CheckBlas((__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)
