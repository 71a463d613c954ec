#include <algorithm>
#include <cmath>

#include "cuda/launch.h"
#include "cuda/measuring.h"

namespace penstock::cuda {
namespace {

// The sum of four uniform bytes from a counter.
template <typename T>
__global__ void FillKernel(T* data, int64_t count, uint32_t seed, float scale) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    uint32_t bits = static_cast<uint32_t>(i) * 2654435761u ^ static_cast<uint32_t>(i >> 32) ^ seed;
    bits = (bits ^ bits >> 16) * 0x85ebca6bu;
    bits = (bits ^ bits >> 13) * 0xc2b2ae35u;
    bits ^= bits >> 16;
    const int sum = (bits & 255) + (bits >> 8 & 255) + (bits >> 16 & 255) + (bits >> 24) - 510;
    data[i] = FromFloat<T>(scale * static_cast<float>(sum) / 148.0f);
  }
}

// error[0] += (out - reference)^2, error[1] += reference^2; a warp an element.
template <typename T, typename Out>
__global__ void ProductErrorKernel(const T* x, const T* weight, const Out* out, int64_t n,
                                   int64_t k, int64_t apart, double* error) {
  const int64_t row = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  const int64_t token = blockIdx.y * apart;
  if (row >= n) return;
  double sum = 0;
  for (int64_t i = threadIdx.x % 32; i < k; i += 32) {
    sum += static_cast<double>(ToFloat(x[token * k + i])) * ToFloat(weight[row * k + i]);
  }
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  if (threadIdx.x % 32 != 0) return;
  const double difference = static_cast<double>(ToFloat(out[token * n + row])) - sum;
  atomicAdd(&error[0], difference * difference);
  atomicAdd(&error[1], sum * sum);
}

template <typename T>
__global__ void DifferenceKernel(const T* a, const T* b, int64_t count, double* error) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  double wrong = 0;
  double size = 0;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    const double difference = static_cast<double>(ToFloat(a[i])) - ToFloat(b[i]);
    wrong += difference * difference;
    size += static_cast<double>(ToFloat(b[i])) * ToFloat(b[i]);
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    wrong += __shfl_xor_sync(~0u, wrong, offset);
    size += __shfl_xor_sync(~0u, size, offset);
  }
  if (threadIdx.x % 32 != 0) return;
  atomicAdd(&error[0], wrong);
  atomicAdd(&error[1], size);
}

// `enqueue` is given two sums in device memory, zeros at first.
template <typename Enqueue>
double RelativeError(cudaStream_t stream, const Enqueue& enqueue) {
  double* sums = nullptr;
  double error[2];
  CUDA_CHECK(cudaMalloc(&sums, sizeof(error)));
  CUDA_CHECK(cudaMemsetAsync(sums, 0, sizeof(error), stream));
  enqueue(sums);
  CUDA_CHECK(cudaGetLastError());
  CUDA_CHECK(cudaMemcpyAsync(error, sums, sizeof(error), cudaMemcpyDeviceToHost, stream));
  CUDA_CHECK(cudaStreamSynchronize(stream));
  CUDA_CHECK(cudaFree(sums));
  return std::sqrt(error[0] / error[1]);
}

}  // namespace

void FillRandom(cudaStream_t stream, const Tensor& tensor, uint32_t seed, float scale) {
  ForElementType(tensor.type(), [&](auto element) {
    using T = decltype(element);
    FillKernel<T>
        <<<1024, 256, 0, stream>>>(Elements<T>(tensor), tensor.num_elements(), seed, scale);
    CUDA_CHECK(cudaGetLastError());
  });
}

double ProductError(cudaStream_t stream, const Tensor& x, const Tensor& weight, const Tensor& out,
                    int64_t rows) {
  const int64_t apart = (x.dim(0) + rows - 1) / rows;
  const int64_t n = weight.dim(0);
  const dim3 grid(Blocks(n, 8), Blocks(x.dim(0), apart));
  return RelativeError(stream, [&](double* sums) {
    ForElementType(x.type(), [&](auto element) {
      using T = decltype(element);
      const auto run = [&](auto of_out) {
        using Out = decltype(of_out);
        ProductErrorKernel<T, Out>
            <<<grid, 256, 0, stream>>>(Elements<const T>(x), Elements<const T>(weight),
                                       Elements<const Out>(out), n, x.dim(1), apart, sums);
      };
      if (out.type() == x.type()) return run(element);
      run(float());
    });
  });
}

double Difference(cudaStream_t stream, const Tensor& a, const Tensor& b) {
  PENSTOCK_CHECK(a.shape() == b.shape());
  return RelativeError(stream, [&](double* sums) {
    ForElementType(a.type(), [&](auto element) {
      using T = decltype(element);
      DifferenceKernel<T><<<1024, 256, 0, stream>>>(Elements<const T>(a), Elements<const T>(b),
                                                    a.num_elements(), sums);
    });
  });
}

}  // namespace penstock::cuda
