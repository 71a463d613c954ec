#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#include "cuda/blas.h"
#include "cuda/ceilings.h"
#include "cuda/cuda_allocator.h"
#include "cuda/cuda_check.h"
#include "cuda/launch.h"
#include "cuda/measuring.h"
#include "cuda/stream.h"

namespace penstock {
namespace {

constexpr int64_t kReadBytes = int64_t{1} << 30;
constexpr int64_t kProductSize = 8192;
// Power bounds the rate of products, which shows only once it is drawn for as long as a benchmark
// draws it.
constexpr double kWarmSeconds = 0.5;

__global__ void ReadKernel(const uint4* data, int64_t count, uint32_t* sink) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  uint4 sum = {};
#pragma unroll 8
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    const uint4 value = __ldcs(data + i);
    sum.x ^= value.x;
    sum.y ^= value.y;
    sum.z ^= value.z;
    sum.w ^= value.w;
  }
  if ((sum.x ^ sum.y ^ sum.z ^ sum.w) == 0x12345678) *sink = sum.x;
}

// Of one of `repeats` calls behind each other: the median of `runs`, in seconds, after
// `warm_seconds` of them. They are many enough that what the host does between them is hidden.
double Seconds(const CudaStream& stream, double warm_seconds, int runs, int repeats,
               const std::function<void()>& call) {
  const CudaEvent begin(CudaEvent::Timing::kOn);
  const CudaEvent end(CudaEvent::Timing::kOn);
  const auto run = [&] {
    stream.Record(begin);
    for (int i = 0; i < repeats; ++i) call();
    stream.Record(end);
    end.Synchronize();
    return end.MillisecondsSince(begin) * 1e-3;
  };
  for (double warmed = run(); warmed < warm_seconds;) warmed += run();
  std::vector<double> times;
  for (int i = 0; i < runs; ++i) times.push_back(run() / repeats);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

absl::StatusOr<double> ProductRate(const CudaStream& stream, DataType type, BaseAllocator& memory) {
  const Shape square({kProductSize, kProductSize});
  PENSTOCK_ASSIGN_OR_RETURN(const Tensor x, Tensor::Make(type, square, memory));
  PENSTOCK_ASSIGN_OR_RETURN(const Tensor weight, Tensor::Make(type, square, memory));
  PENSTOCK_ASSIGN_OR_RETURN(const Tensor out, Tensor::Make(type, square, memory));
  cuda::FillRandom(stream.get(), x, 1);
  cuda::FillRandom(stream.get(), weight, 2);
  cuda::Blas blas;
  const double seconds =
      Seconds(stream, kWarmSeconds, 25, 4, [&] { blas.Linear(stream.get(), x, weight, out); });
  constexpr auto kSize = static_cast<double>(kProductSize);
  return 2 * kSize * kSize * kSize / seconds;
}

}  // namespace

double MeasureReadBandwidth(const Tensor& data) {
  const CudaStream stream;
  uint32_t* sink = nullptr;
  CUDA_CHECK(cudaMalloc(&sink, sizeof(*sink)));
  double best = 0;
  for (const int blocks : {2, 4, 8, 16}) {
    for (const int threads : {256, 512}) {
      const double seconds = Seconds(stream, 0.01, 7, 4, [&] {
        ReadKernel<<<blocks * cuda::NumMultiprocessors(), threads, 0, stream.get()>>>(
            static_cast<const uint4*>(data.raw()), data.bytes() / 16, sink);
        CUDA_CHECK_LAUNCH(ReadKernel);
      });
      best = std::max(best, static_cast<double>(data.bytes()) / seconds);
    }
  }
  CUDA_CHECK(cudaFree(sink));
  return best;
}

absl::StatusOr<DeviceCeilings> MeasureCudaCeilings(int ordinal, DataType type) {
  PENSTOCK_ASSIGN_OR_RETURN(const std::unique_ptr<PoolAllocator> memory,
                            MakeCudaAllocator(ordinal));
  CUDA_CHECK(cudaSetDevice(ordinal));
  DeviceCeilings ceilings;
  cudaDeviceProp properties;
  CUDA_CHECK(cudaGetDeviceProperties(&properties, ordinal));
  ceilings.device = properties.name;
  const CudaStream stream;
  {
    PENSTOCK_ASSIGN_OR_RETURN(const Tensor data,
                              Tensor::Make(DataType::kF32, Shape({kReadBytes / 4}), *memory));
    cuda::FillRandom(stream.get(), data, 3);
    stream.Synchronize();
    ceilings.read_bytes_per_second = MeasureReadBandwidth(data);
  }
  PENSTOCK_ASSIGN_OR_RETURN(ceilings.flops_per_second, ProductRate(stream, type, *memory));
  return ceilings;
}

}  // namespace penstock
