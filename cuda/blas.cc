#include "cuda/blas.h"

#include <cstddef>
#include <string>

#include "cuda/cuda_check.h"
#include "cuda/sum_chain.h"

namespace penstock::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what NVIDIA asks for on Hopper

}  // namespace

void CheckBlas(cublasStatus_t status, const char* what, const char* file, int line) {
  if (status != CUBLAS_STATUS_SUCCESS) [[unlikely]] {
    CheckFailed(file, line, std::string(what) + ": " + cublasGetStatusString(status));
  }
}

cudaDataType_t BlasType(DataType type) {
  switch (type) {
    case DataType::kF32:
      return CUDA_R_32F;
    case DataType::kF16:
      return CUDA_R_16F;
    case DataType::kBF16:
      return CUDA_R_16BF;
    default:
      CheckFailed(__FILE__, __LINE__,
                  std::string(Name(type)) + " is no type to compute in: use f32, f16 or bf16");
  }
}

Blas::Blas() {
  BLAS_CHECK(cublasCreate(&handle_));
  CUDA_CHECK(cudaMalloc(&workspace_, kWorkspaceBytes));
}

Blas::~Blas() {
  BLAS_CHECK(cublasDestroy(handle_));
  CUDA_CHECK(cudaFree(workspace_));
}

cublasHandle_t Blas::On(cudaStream_t stream) const {
  BLAS_CHECK(cublasSetStream(handle_, stream));
  // A new stream takes the workspace away, so it comes second.
  BLAS_CHECK(cublasSetWorkspace(handle_, workspace_, kWorkspaceBytes));
  return handle_;
}

void Blas::Linear(cudaStream_t stream, const Tensor& x, const Tensor& weight, const Tensor& out,
                  bool adds) {
  // A cuBLAS handle is a cuBLASLt handle.
  const auto handle = reinterpret_cast<cublasLtHandle_t>(handle_);
  if (sum_order_ == SumOrder::kFastest) {
    return linear_.Run(handle, stream, x, weight, out, adds, workspace_, kWorkspaceBytes);
  }
  if (!linear_.RunChain(handle, stream, x, weight, out, adds, workspace_, kWorkspaceBytes)) {
    LaunchChainLinear(stream, x, weight, out, adds);
  }
}

Tensor Blas::LinearHalves(cudaStream_t stream, const Tensor& x, const Tensor& weight) {
  const Shape shape({2, x.dim(0), weight.dim(0)});
  Tensor out = Tensor::Borrow(workspace_, DataType::kF32, shape, Device::kCuda);
  if (out.bytes() > static_cast<int64_t>(kWorkspaceBytes)) return {};
  const auto handle = reinterpret_cast<cublasLtHandle_t>(handle_);
  return linear_.RunHalves(handle, stream, x, weight, out) ? out : Tensor();
}

std::vector<GemmAlgorithm> Blas::Candidates(const Tensor& x, const Tensor& weight,
                                            const Tensor& out, int most) const {
  return linear_.Candidates(reinterpret_cast<cublasLtHandle_t>(handle_), x, weight, out,
                            kWorkspaceBytes, most);
}

bool Blas::Try(cudaStream_t stream, const Tensor& x, const Tensor& weight, const Tensor& out,
               const GemmAlgorithm& algorithm) {
  return linear_.Try(reinterpret_cast<cublasLtHandle_t>(handle_), stream, x, weight, out,
                     workspace_, kWorkspaceBytes, algorithm);
}

}  // namespace penstock::cuda
