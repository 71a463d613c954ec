#include "core/kernels/batched_gemm.h"
#include "cuda/blas.h"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"

namespace penstock::cuda {
namespace {

void CheckOperand(const Tensor& tensor, DataType type) {
  PENSTOCK_CHECK_EQ(Name(tensor.type()), Name(type));
  PENSTOCK_CHECK(tensor.device() == Device::kCuda);
  PENSTOCK_CHECK_LE(tensor.dim(tensor.rank() - 2), INT32_MAX);
  PENSTOCK_CHECK_LE(tensor.dim(tensor.rank() - 1), INT32_MAX);
}

}  // namespace

void LaunchBatchedGemm(Blas& blas, cudaStream_t stream, const Tensor& a, const Tensor& b,
                       bool transpose_b, float alpha, const Tensor& c) {
  const int64_t count = cpu::BatchedGemmCount(a, b, transpose_b, c);
  CheckOperand(a, c.type());
  CheckOperand(b, c.type());
  CheckOperand(c, c.type());
  PENSTOCK_CHECK_LE(count, INT32_MAX);
  const auto m = static_cast<int>(c.dim(c.rank() - 2));
  const auto n = static_cast<int>(c.dim(c.rank() - 1));
  const auto k = static_cast<int>(a.dim(a.rank() - 1));
  const cudaDataType_t type = BlasType(c.type());
  const float beta = 0;
  // cuBLAS counts columns first, and so sees c^T = b^T a^T. CUBLAS_COMPUTE_32F is float32 all the
  // way: no TF32 unless the handle's mode allows it, and ours does not.
  BLAS_CHECK(cublasGemmStridedBatchedEx(
      blas.On(stream), transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N, CUBLAS_OP_N, n, m, k, &alpha,
      b.raw(), type, transpose_b ? k : n, int64_t{k} * n, a.raw(), type, k, int64_t{m} * k, &beta,
      const_cast<void*>(c.raw()), type, n, int64_t{m} * n, static_cast<int>(count),
      CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

}  // namespace penstock::cuda
