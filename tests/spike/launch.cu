// What graphs, programmatic dependent launch, a spin beside GEMMs and a token's way to the host
// cost on one GPU.
//
// usage: launch             prints one line a measurement
#include <cublas_v2.h>

#include <cstring>

#include "spike.h"

namespace spike {
namespace {

constexpr int kRuns = 200;

// ---- A graph of many small kernels --------------------------------------------------------------

__global__ void Small(float* data, bool programmatic) {
  if (programmatic) {
    cudaTriggerProgrammaticLaunchCompletion();
    cudaGridDependencySynchronize();
  }
  data[blockIdx.x * blockDim.x + threadIdx.x] += 1.0f;
}

template <typename... Parameters, typename... Arguments>
void Launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
            cudaStream_t stream, bool programmatic, Arguments... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = programmatic ? 1 : 0;
  CUDA_OK(cudaLaunchKernelEx(&config, kernel, arguments...));
}

cudaGraphExec_t Capture(cudaStream_t stream, const auto& enqueue) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CUDA_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  enqueue();
  CUDA_OK(cudaStreamEndCapture(stream, &graph));
  const double start = NowUs();
  CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
  const double instantiated = NowUs();
  CUDA_OK(cudaGraphUpload(exec, stream));
  CUDA_OK(cudaStreamSynchronize(stream));
  size_t nodes = 0;
  CUDA_OK(cudaGraphGetNodes(graph, nullptr, &nodes));
  std::printf("  (%zu nodes: instantiate %.0f us, upload %.0f us)\n", nodes, instantiated - start,
              NowUs() - instantiated);
  return exec;
}

double DeviceUs(cudaGraphExec_t exec, cudaStream_t stream, int runs = kRuns) {
  cudaEvent_t begin, end;
  CUDA_OK(cudaEventCreate(&begin));
  CUDA_OK(cudaEventCreate(&end));
  std::vector<double> times;
  for (int i = 0; i < runs + 5; ++i) {
    CUDA_OK(cudaEventRecord(begin, stream));
    CUDA_OK(cudaGraphLaunch(exec, stream));
    CUDA_OK(cudaEventRecord(end, stream));
    CUDA_OK(cudaEventSynchronize(end));
    float ms = 0;
    CUDA_OK(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 5) times.push_back(ms * 1e3);
  }
  return Median(times);
}

void GraphCost(cudaStream_t stream) {
  float* data;
  CUDA_OK(cudaMalloc(&data, 132 * 128 * sizeof(float)));
  CUDA_OK(cudaMemset(data, 0, 132 * 128 * sizeof(float)));
  for (const bool programmatic : {false, true}) {
    for (const int nodes : {1, 200, 400}) {
      const cudaGraphExec_t exec = Capture(stream, [&] {
        for (int i = 0; i < nodes; ++i)
          Launch(Small, 132, 128, 0, stream, programmatic && i > 0, data, programmatic && i > 0);
      });
      std::vector<double> host;
      for (int i = 0; i < kRuns; ++i) {
        const double start = NowUs();
        CUDA_OK(cudaGraphLaunch(exec, stream));
        host.push_back(NowUs() - start);
        CUDA_OK(cudaStreamSynchronize(stream));
      }
      const double device = DeviceUs(exec, stream);
      std::printf(
          "graph of %3d small kernels, %-13s launch call %6.1f us, device %7.1f us (%.2f us a "
          "node)\n",
          nodes, programmatic ? "programmatic:" : "plain edges:", Median(host), device,
          device / nodes);
    }
  }
}

// ---- A token's way to the host ------------------------------------------------------------------

struct alignas(64) Word {
  uint64_t value;
};

__global__ void Echo(volatile const Word* ping, Word* pong, uint64_t rounds) {
  for (uint64_t i = 1; i <= rounds; ++i) {
    while (ping->value < i) {
    }
    __threadfence_system();
    *reinterpret_cast<volatile uint64_t*>(&pong->value) = i;
  }
}

__global__ void Token(Word* word, uint64_t value) {
  *reinterpret_cast<volatile uint64_t*>(&word->value) = value;
}

uint64_t Read(const Word& word) { return __atomic_load_n(&word.value, __ATOMIC_ACQUIRE); }

void TokenToHost(cudaStream_t stream) {
  Word* words;
  CUDA_OK(cudaHostAlloc(&words, 2 * sizeof(Word), cudaHostAllocMapped));
  std::memset(words, 0, 2 * sizeof(Word));
  constexpr uint64_t kRounds = 2000;
  Echo<<<1, 1, 0, stream>>>(&words[0], &words[1], kRounds);
  std::vector<double> times;
  for (uint64_t i = 1; i <= kRounds; ++i) {
    const double start = NowUs();
    __atomic_store_n(&words[0].value, i, __ATOMIC_RELEASE);
    while (Read(words[1]) < i) {
    }
    times.push_back(NowUs() - start);
  }
  CUDA_OK(cudaStreamSynchronize(stream));
  std::printf(
      "8 bytes host -> device -> host through pinned memory: median %.2f us there and back\n",
      Median(times));

  // Launch to host seeing the token: by a store into pinned memory, by a copy and a synchronise.
  Word* device;
  CUDA_OK(cudaMalloc(&device, sizeof(Word)));
  std::vector<double> stored, copied;
  words[0].value = 0;
  for (uint64_t i = 1; i <= kRuns; ++i) {
    double start = NowUs();
    Token<<<1, 1, 0, stream>>>(&words[0], i);
    while (Read(words[0]) < i) {
    }
    stored.push_back(NowUs() - start);
    CUDA_OK(cudaStreamSynchronize(stream));
    start = NowUs();
    Token<<<1, 1, 0, stream>>>(device, i);
    CUDA_OK(cudaMemcpyAsync(&words[1], device, sizeof(uint64_t), cudaMemcpyDeviceToHost, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
    copied.push_back(NowUs() - start);
  }
  std::printf(
      "launch call to token on the host: %.2f us by a store into pinned memory, %.2f us by copy "
      "and synchronise\n",
      Median(stored), Median(copied));
}

// ---- The wait at the head of a step, and what follows it ----------------------------------------

struct Stamps {
  uint64_t seen;   // the wait saw the flag
  uint64_t first;  // the first block after it went on
  uint64_t last;   // the last block ended
};

__global__ void WaitKernel(const uint32_t* flag, const uint32_t* want, Stamps* stamps) {
  cudaTriggerProgrammaticLaunchCompletion();
  SpinUntil(flag, *want, 2'000'000'000);
  stamps->seen = GlobalNs();
  stamps->first = ~0ull;
  stamps->last = 0;
}

// Reads `bytes` of weights, 16 bytes a thread; with prefetch a part of them into L2 before the
// wait.
__global__ void __launch_bounds__(256)
    ReadKernel(const uint4* weights, size_t count, uint32_t* sink, Stamps* stamps,
               bool programmatic, bool prefetch) {
  const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
  const size_t begin = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (prefetch) {
    for (size_t i = begin; i < count; i += stride) {
      if ((threadIdx.x & 7) == 0) asm volatile("prefetch.global.L2 [%0];" ::"l"(weights + i));
    }
  }
  if (programmatic) cudaGridDependencySynchronize();
  if (threadIdx.x == 0)
    atomicMin(reinterpret_cast<unsigned long long*>(&stamps->first), GlobalNs());
  uint32_t sum = 0;
  for (size_t i = begin; i < count; i += stride) {
    const uint4 value = weights[i];
    sum += value.x ^ value.y ^ value.z ^ value.w;
  }
  if (sum == 0x12345678) *sink = sum;
  __syncthreads();
  if (threadIdx.x == 0) atomicMax(reinterpret_cast<unsigned long long*>(&stamps->last), GlobalNs());
}

// Spoils L2 between two runs.
__global__ void Sweep(uint4* data, size_t count) {
  for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count;
       i += static_cast<size_t>(gridDim.x) * blockDim.x) {
    data[i].x += 1;
  }
}

void WaitAndRead(cudaStream_t stream) {
  constexpr size_t kBytes = size_t{4096} * 4096 * 2;  // a 7B layer's output projection in bf16
  constexpr size_t kSweep = size_t{256} << 20;
  uint4 *weights, *sweep;
  uint32_t *flag, *want, *sink;
  Stamps* stamps;
  CUDA_OK(cudaMalloc(&weights, kBytes));
  CUDA_OK(cudaMemset(weights, 1, kBytes));
  CUDA_OK(cudaMalloc(&sweep, kSweep));
  CUDA_OK(cudaMalloc(&sink, 4));
  CUDA_OK(cudaHostAlloc(&flag, 4, cudaHostAllocMapped));
  CUDA_OK(cudaHostAlloc(&want, 4, cudaHostAllocMapped));
  CUDA_OK(cudaHostAlloc(&stamps, sizeof(Stamps), cudaHostAllocMapped));
  Stamps* on_device;
  CUDA_OK(cudaMalloc(&on_device, sizeof(Stamps)));
  *flag = *want = 0;
  struct Way {
    const char* name;
    bool programmatic, prefetch;
  };
  for (const Way& way : {Way{"plain edge", false, false}, Way{"programmatic", true, false},
                         Way{"programmatic, weights to L2 before the wait", true, true}}) {
    const cudaGraphExec_t exec = Capture(stream, [&] {
      Launch(WaitKernel, 1, 1, 0, stream, false, flag, want, on_device);
      Launch(ReadKernel, 132 * 4, 256, 0, stream, way.programmatic, weights, kBytes / 16, sink,
             on_device, way.programmatic, way.prefetch);
    });
    std::vector<double> gap, all;
    for (int i = 0; i < 100; ++i) {
      Sweep<<<1024, 256, 0, stream>>>(sweep, kSweep / 16);
      CUDA_OK(cudaStreamSynchronize(stream));
      *want += 1;
      CUDA_OK(cudaGraphLaunch(exec, stream));
      for (const double until = NowUs() + 200; NowUs() < until;) {
      }
      __atomic_store_n(flag, *want, __ATOMIC_RELEASE);
      CUDA_OK(cudaStreamSynchronize(stream));
      CUDA_OK(cudaMemcpy(stamps, on_device, sizeof(Stamps), cudaMemcpyDeviceToHost));
      gap.push_back((static_cast<double>(stamps->first) - static_cast<double>(stamps->seen)) / 1e3);
      all.push_back((static_cast<double>(stamps->last) - static_cast<double>(stamps->seen)) / 1e3);
    }
    std::printf(
        "wait, then read 33.6 MB of weights, %-44s first block %5.2f us after the flag, last %6.2f "
        "us\n",
        way.name, Median(gap), Median(all));
  }
}

// ---- What a spin beside them costs the GEMMs of a 7B layer --------------------------------------

__global__ void Beside(const uint32_t* flag, uint32_t sleep_ns) {
  const uint64_t end = GlobalNs() + 5'000'000'000;
  while (LoadAcquireSystem(flag) == 0 && GlobalNs() < end) {
    if (sleep_ns > 0) __nanosleep(sleep_ns);
  }
}

void SpinBesideGemms(cudaStream_t stream) {
  cublasHandle_t blas;
  if (cublasCreate(&blas) != CUBLAS_STATUS_SUCCESS) std::exit(1);
  void* workspace;
  CUDA_OK(cudaMalloc(&workspace, 64 << 20));
  cublasSetWorkspace(blas, workspace, 64 << 20);
  cublasSetStream(blas, stream);
  struct Gemm {
    int out, in;
  };
  const Gemm gemms[] = {{12288, 4096}, {4096, 4096}, {22016, 4096}, {4096, 11008}};
  constexpr int kLayers = 4;  // more than L2 holds
  std::vector<void*> weights;
  for (int layer = 0; layer < kLayers; ++layer) {
    for (const Gemm& gemm : gemms) {
      void* weight;
      const size_t bytes = size_t{2} * gemm.out * gemm.in;
      CUDA_OK(cudaMalloc(&weight, bytes));
      std::vector<uint16_t> values(bytes / 2);
      uint32_t state = 1;
      for (uint16_t& value : values) {
        state = state * 1664525 + 1013904223;
        value = static_cast<uint16_t>(0x3c00 | (state >> 16 & 0x80ff));  // small bf16, either sign
      }
      CUDA_OK(cudaMemcpy(weight, values.data(), bytes, cudaMemcpyHostToDevice));
      weights.push_back(weight);
    }
  }
  void *x, *y;
  CUDA_OK(cudaMalloc(&x, size_t{2} * 512 * 22016));
  CUDA_OK(cudaMalloc(&y, size_t{2} * 512 * 22016));
  CUDA_OK(cudaMemset(x, 0x3c, size_t{2} * 512 * 22016));
  cudaStream_t side;
  CUDA_OK(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking));
  uint32_t *pinned, *device;
  CUDA_OK(cudaHostAlloc(&pinned, 4, cudaHostAllocMapped));
  CUDA_OK(cudaMalloc(&device, 4));
  const float one = 1, zero = 0;
  for (const int rows : {1, 64, 512}) {
    const cudaGraphExec_t exec = Capture(stream, [&] {
      for (size_t i = 0; i < weights.size(); ++i) {
        const Gemm& gemm = gemms[i % 4];
        if (cublasGemmEx(blas, CUBLAS_OP_T, CUBLAS_OP_N, gemm.out, rows, gemm.in, &one, weights[i],
                         CUDA_R_16BF, gemm.in, x, CUDA_R_16BF, gemm.in, &zero, y, CUDA_R_16BF,
                         gemm.out, CUBLAS_COMPUTE_32F,
                         CUBLAS_GEMM_DEFAULT) != CUBLAS_STATUS_SUCCESS) {
          std::exit(1);
        }
      }
    });
    const double alone = DeviceUs(exec, stream, 60);
    struct Way {
      const char* name;
      uint32_t* flag;
      int threads;
      uint32_t sleep_ns;
    };
    for (const Way& way : {Way{"1 thread on device memory", device, 1, 0},
                           Way{"1 thread on pinned memory", pinned, 1, 0},
                           Way{"1 warp on device memory", device, 32, 0},
                           Way{"1 thread, device, 100 ns sleeps", device, 1, 100},
                           Way{"1 thread, pinned, 100 ns sleeps", pinned, 1, 100}}) {
      *pinned = 0;
      CUDA_OK(cudaMemset(device, 0, 4));
      CUDA_OK(cudaDeviceSynchronize());
      Beside<<<1, way.threads, 0, side>>>(way.flag, way.sleep_ns);
      const double beside = DeviceUs(exec, stream, 60);
      const uint32_t go = 1;
      *pinned = 1;
      CUDA_OK(cudaMemcpyAsync(device, &go, 4, cudaMemcpyHostToDevice, stream));
      CUDA_OK(cudaDeviceSynchronize());
      const double again = DeviceUs(exec, stream, 60);
      std::printf(
          "4 layers' GEMMs at M=%3d: alone %7.1f and %7.1f us; beside a spin of %-32s %7.1f us "
          "(%+.1f %%)\n",
          rows, alone, again, way.name, beside, 100 * (beside / std::min(alone, again) - 1));
    }
  }
}

int Run() {
  cudaDeviceProp info;
  CUDA_OK(cudaGetDeviceProperties(&info, 0));
  std::printf("%s\n", info.name);
  cudaStream_t stream;
  CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  GraphCost(stream);
  TokenToHost(stream);
  WaitAndRead(stream);
  SpinBesideGemms(stream);
  CUDA_OK(cudaDeviceSynchronize());
  return 0;
}

}  // namespace
}  // namespace spike

int main() { return spike::Run(); }
