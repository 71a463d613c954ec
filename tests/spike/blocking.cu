// Which calls of the host wait behind a graph that spins on the device, and which go through; and
// whether the work that a call enqueues is done while the spin goes on.
//
// A stage's graph would spin on a mailbox. Here one does, on a stream of its own, until the host
// lets it go or half a second has passed; meanwhile one call is made and timed. A call that returns
// only when the spin has ended would be a deadlock if the spin waited for what comes after it.
//
// usage: blocking           prints one line a call
#include <cublasLt.h>
#include <cuda.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>

#include "spike.h"

extern char** environ;

namespace spike {
namespace {

constexpr uint64_t kSpinNs = 500'000'000;

struct Signals {  // in pinned host memory
  uint32_t go;
  uint32_t started;
  uint32_t ended;
};

__global__ void SpinKernel(Signals* signals, uint32_t value) {
  StoreReleaseSystem(&signals->started, value);
  SpinUntil(&signals->go, value, kSpinNs);
  StoreReleaseSystem(&signals->ended, value);
}

// One instance a number, so that each has a first launch of its own.
template <int kNumber>
__global__ void FreshKernel(float* out) {
  out[threadIdx.x] = static_cast<float>(threadIdx.x * kNumber);
}

class Spinner {
 public:
  Spinner() {
    CUDA_OK(cudaHostAlloc(&signals_, sizeof(Signals), cudaHostAllocMapped));
    *signals_ = {};
    CUDA_OK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    Run(1);  // loads the kernel
    Release();
  }
  void Start() {
    Run(value_ + 1);
    while (Read(signals_->started) < value_) {
    }
  }
  bool ended() const { return Read(signals_->ended) >= value_; }
  void Release() {
    __atomic_store_n(&signals_->go, value_, __ATOMIC_RELEASE);
    CUDA_OK(cudaStreamSynchronize(stream_));
    CUDA_OK(cudaGraphExecDestroy(exec_));
    CUDA_OK(cudaGraphDestroy(graph_));
  }

 private:
  static uint32_t Read(const uint32_t& word) { return __atomic_load_n(&word, __ATOMIC_ACQUIRE); }
  void Run(uint32_t value) {
    value_ = value;
    CUDA_OK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    SpinKernel<<<1, 1, 0, stream_>>>(signals_, value);
    CUDA_OK(cudaStreamEndCapture(stream_, &graph_));
    CUDA_OK(cudaGraphInstantiate(&exec_, graph_, 0));
    CUDA_OK(cudaGraphLaunch(exec_, stream_));
  }

  Signals* signals_ = nullptr;
  cudaStream_t stream_ = nullptr;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t exec_ = nullptr;
  uint32_t value_ = 0;
};

// A child that keeps device memory and offers its handle, for the IPC calls.
struct Exporter {
  pid_t pid = 0;
  int in = -1;  // closing it ends the child
  cudaIpcMemHandle_t handle;

  explicit Exporter(const char* self) {
    int to[2], from[2];
    if (pipe(to) != 0 || pipe(from) != 0) std::exit(1);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, to[0], 0);
    posix_spawn_file_actions_adddup2(&actions, from[1], 1);
    posix_spawn_file_actions_addclose(&actions, to[1]);
    const char* arguments[] = {self, "--export", nullptr};
    if (posix_spawn(&pid, self, &actions, nullptr, const_cast<char**>(arguments), environ) != 0) {
      std::exit(1);
    }
    close(to[0]);
    close(from[1]);
    in = to[1];
    if (read(from[0], &handle, sizeof handle) != sizeof handle) std::exit(1);
  }
  ~Exporter() {
    close(in);
    waitpid(pid, nullptr, 0);
  }
};

int Export() {
  void* memory = nullptr;
  CUDA_OK(cudaMalloc(&memory, 4 << 20));
  cudaIpcMemHandle_t handle;
  CUDA_OK(cudaIpcGetMemHandle(&handle, memory));
  if (write(1, &handle, sizeof handle) != sizeof handle) return 1;
  char byte;
  while (read(0, &byte, 1) > 0) {
  }
  return 0;
}

struct Row {
  std::string name;
  std::function<void()> call;
  // Asked while the spin goes on: is what the call enqueued done? None: the call is all.
  std::function<bool()> done = nullptr;
  std::function<void()> prepare = nullptr;   // before the spin
  std::function<void()> clean_up = nullptr;  // after it
};

// Milliseconds until the call returned; what became of its work.
void Measure(Spinner& spinner, const Row& row) {
  if (row.prepare) row.prepare();
  CUDA_OK(cudaDeviceSynchronize());
  spinner.Start();
  const double start = NowUs();
  row.call();
  const double call_us = NowUs() - start;
  const bool call_waited = spinner.ended();
  const char* work = "-";
  double work_us = 0;
  if (row.done && !call_waited) {
    work = "waits for the spin";
    while (!spinner.ended()) {
      if (!row.done()) continue;
      if (spinner.ended()) break;
      work = "done";
      work_us = NowUs() - start;
      break;
    }
  }
  spinner.Release();
  std::printf("%-52s %-10s %10.1f   %-20s %8.1f\n", row.name.c_str(),
              call_waited ? "WAITS" : "returns", call_us, work, work_us);
  std::fflush(stdout);
  if (row.clean_up) row.clean_up();
}

int Run(const char* self) {
  const Exporter exporter(self);
  Spinner spinner;
  cudaStream_t other, blocking;
  CUDA_OK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
  CUDA_OK(cudaStreamCreate(&blocking));
  constexpr size_t kBytes = 4 << 20;
  void *device, *pinned, *fresh = nullptr;
  void* pageable = std::malloc(kBytes);
  std::fill_n(static_cast<char*>(pageable), kBytes, 1);
  CUDA_OK(cudaMalloc(&device, kBytes));
  CUDA_OK(cudaHostAlloc(&pinned, kBytes, 0));
  cudaEvent_t event;
  CUDA_OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  float* out = static_cast<float*>(device);
  const auto other_idle = [&] { return cudaStreamQuery(other) == cudaSuccess; };
  const auto blocking_idle = [&] { return cudaStreamQuery(blocking) == cudaSuccess; };
  const auto default_idle = [&] { return cudaStreamQuery(cudaStreamLegacy) == cudaSuccess; };

  cudaGraph_t graph;
  cudaGraphExec_t exec = nullptr;
  FreshKernel<1><<<1, 32, 0, other>>>(out);
  CUDA_OK(cudaStreamBeginCapture(other, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < 200; ++i) FreshKernel<1><<<1, 32, 0, other>>>(out);
  CUDA_OK(cudaStreamEndCapture(other, &graph));
  cudaGraph_t cold;
  CUDA_OK(cudaStreamBeginCapture(other, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < 20; ++i) FreshKernel<1><<<1, 32, 0, other>>>(out);
  CUDA_OK(cudaStreamEndCapture(other, &cold));

  CUmemAllocationProp property = {};
  property.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  property.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  CUmemAccessDesc access = {property.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  CUdeviceptr reserved = 0;
  CUmemGenericAllocationHandle memory = 0;
  const auto driver_ok = [](CUresult result) {
    if (result != CUDA_SUCCESS) {
      std::fprintf(stderr, "driver call failed: %d\n", static_cast<int>(result));
      std::exit(1);
    }
  };
  driver_ok(cuMemAddressReserve(&reserved, kBytes, 0, 0, 0));
  cublasLtHandle_t blas = nullptr;
  void* mapped = nullptr;
  cudaStream_t made = nullptr;
  cudaEvent_t made_event = nullptr;
  void* host = nullptr;
  void* registered = nullptr;
  if (posix_memalign(&registered, 4096, kBytes) != 0) return 1;
  std::fill_n(static_cast<char*>(registered), kBytes, 1);

  const Row rows[] = {
      {"kernel, loaded before, another stream", [&] { FreshKernel<1><<<1, 32, 0, other>>>(out); },
       other_idle},
      {"kernel, first launch ever (lazy loading)",
       [&] { FreshKernel<2><<<1, 32, 0, other>>>(out); }, other_idle},
      {"kernel, a blocking stream", [&] { FreshKernel<1><<<1, 32, 0, blocking>>>(out); },
       blocking_idle},
      {"kernel, the legacy default stream", [&] { FreshKernel<1><<<1, 32>>>(out); }, default_idle},
      {"cudaFuncGetAttributes of a kernel never loaded",
       [&] {
         cudaFuncAttributes a;
         CUDA_OK(cudaFuncGetAttributes(&a, FreshKernel<3>));
       }},
      {"cudaFuncSetAttribute, kernel loaded",
       [&] {
         CUDA_OK(cudaFuncSetAttribute(FreshKernel<1>,
                                      cudaFuncAttributePreferredSharedMemoryCarveout, 50));
       }},
      {"cudaGraphInstantiate, 200 nodes", [&] { CUDA_OK(cudaGraphInstantiate(&exec, graph, 0)); }},
      {"cudaGraphUpload", [&] { CUDA_OK(cudaGraphUpload(exec, other)); }, other_idle},
      {"cudaGraphLaunch, uploaded", [&] { CUDA_OK(cudaGraphLaunch(exec, other)); }, other_idle},
      {"cudaGraphExecDestroy",
       [&] {
         CUDA_OK(cudaGraphExecDestroy(exec));
         exec = nullptr;
       }},
      {"cudaGraphInstantiate and launch, 20 nodes",
       [&] {
         CUDA_OK(cudaGraphInstantiate(&exec, cold, 0));
         CUDA_OK(cudaGraphLaunch(exec, other));
       },
       other_idle},
      {"cudaMalloc 4 KB", [&] { CUDA_OK(cudaMalloc(&fresh, 4096)); }},
      {"cudaFree 4 KB", [&] { CUDA_OK(cudaFree(fresh)); }},
      {"cudaMalloc 1 GB", [&] { CUDA_OK(cudaMalloc(&fresh, size_t{1} << 30)); }},
      {"cudaFree 1 GB", [&] { CUDA_OK(cudaFree(fresh)); }},
      {"cudaMallocAsync 64 MB, first", [&] { CUDA_OK(cudaMallocAsync(&fresh, 64 << 20, other)); },
       other_idle},
      {"cudaFreeAsync", [&] { CUDA_OK(cudaFreeAsync(fresh, other)); }, other_idle},
      {"cudaHostAlloc 4 MB", [&] { CUDA_OK(cudaHostAlloc(&host, kBytes, 0)); }},
      {"cudaFreeHost 4 MB", [&] { CUDA_OK(cudaFreeHost(host)); }},
      {"cudaHostRegister 4 MB", [&] { CUDA_OK(cudaHostRegister(registered, kBytes, 0)); }},
      {"cudaHostUnregister 4 MB", [&] { CUDA_OK(cudaHostUnregister(registered)); }},
      {"cuMemCreate 4 MB", [&] { driver_ok(cuMemCreate(&memory, kBytes, &property, 0)); }},
      {"cuMemMap", [&] { driver_ok(cuMemMap(reserved, kBytes, 0, memory, 0)); }},
      {"cuMemSetAccess", [&] { driver_ok(cuMemSetAccess(reserved, kBytes, &access, 1)); }},
      {"cuMemUnmap", [&] { driver_ok(cuMemUnmap(reserved, kBytes)); }},
      {"cuMemRelease", [&] { driver_ok(cuMemRelease(memory)); }},
      {"cudaIpcGetMemHandle",
       [&] {
         cudaIpcMemHandle_t h;
         CUDA_OK(cudaIpcGetMemHandle(&h, device));
       }},
      {"cudaIpcOpenMemHandle",
       [&] {
         CUDA_OK(cudaIpcOpenMemHandle(&mapped, exporter.handle, cudaIpcMemLazyEnablePeerAccess));
       }},
      {"cudaIpcCloseMemHandle", [&] { CUDA_OK(cudaIpcCloseMemHandle(mapped)); }},
      {"cudaMemcpy 4 KB, pageable to device",
       [&] { CUDA_OK(cudaMemcpy(device, pageable, 4096, cudaMemcpyHostToDevice)); }},
      {"cudaMemcpy 4 MB, pageable to device",
       [&] { CUDA_OK(cudaMemcpy(device, pageable, kBytes, cudaMemcpyHostToDevice)); }},
      {"cudaMemcpy 4 KB, device to pageable",
       [&] { CUDA_OK(cudaMemcpy(pageable, device, 4096, cudaMemcpyDeviceToHost)); }},
      {"cudaMemcpyAsync 4 MB, pageable to device, other stream",
       [&] { CUDA_OK(cudaMemcpyAsync(device, pageable, kBytes, cudaMemcpyHostToDevice, other)); },
       other_idle},
      {"cudaMemcpyAsync 4 MB, device to pageable, other stream",
       [&] { CUDA_OK(cudaMemcpyAsync(pageable, device, kBytes, cudaMemcpyDeviceToHost, other)); },
       other_idle},
      {"cudaMemcpyAsync 4 MB, pinned to device, other stream",
       [&] { CUDA_OK(cudaMemcpyAsync(device, pinned, kBytes, cudaMemcpyHostToDevice, other)); },
       other_idle},
      {"cudaMemcpyAsync 4 MB, device to pinned, other stream",
       [&] { CUDA_OK(cudaMemcpyAsync(pinned, device, kBytes, cudaMemcpyDeviceToHost, other)); },
       other_idle},
      {"cudaMemcpyAsync 2 MB, device to device, other stream",
       [&] {
         CUDA_OK(
             cudaMemcpyAsync(device, out + (1 << 18), 1 << 20, cudaMemcpyDeviceToDevice, other));
       },
       other_idle},
      {"cudaMemset 4 MB, legacy default stream", [&] { CUDA_OK(cudaMemset(device, 0, kBytes)); },
       default_idle},
      {"cudaMemsetAsync 4 MB, other stream",
       [&] { CUDA_OK(cudaMemsetAsync(device, 0, kBytes, other)); }, other_idle},
      {"cudaStreamQuery of an idle stream", [&] { CUDA_OK(cudaStreamQuery(other)); }},
      {"cudaEventRecord and cudaEventQuery, other stream",
       [&] { CUDA_OK(cudaEventRecord(event, other)); },
       [&] { return cudaEventQuery(event) == cudaSuccess; }},
      {"cudaStreamSynchronize of an idle stream", [&] { CUDA_OK(cudaStreamSynchronize(other)); }},
      {"cudaStreamCreateWithFlags, non-blocking",
       [&] { CUDA_OK(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking)); }},
      {"kernel on that new stream", [&] { FreshKernel<1><<<1, 32, 0, made>>>(out); },
       [&] { return cudaStreamQuery(made) == cudaSuccess; }},
      {"cudaStreamDestroy", [&] { CUDA_OK(cudaStreamDestroy(made)); }},
      {"cudaEventCreate", [&] { CUDA_OK(cudaEventCreate(&made_event)); }},
      {"cudaEventDestroy", [&] { CUDA_OK(cudaEventDestroy(made_event)); }},
      {"cudaMemGetInfo",
       [&] {
         size_t a, b;
         CUDA_OK(cudaMemGetInfo(&a, &b));
       }},
      {"cudaLaunchHostFunc, other stream",
       [&] {
         CUDA_OK(cudaLaunchHostFunc(
             other, [](void*) {}, nullptr));
       },
       other_idle},
      {"cublasLtCreate",
       [&] {
         if (cublasLtCreate(&blas) != CUBLAS_STATUS_SUCCESS) std::exit(1);
       }},
      {"cudaDeviceSynchronize (a control: it must wait)",
       [&] { CUDA_OK(cudaDeviceSynchronize()); }},
  };
  int driver = 0;
  CUDA_OK(cudaDriverGetVersion(&driver));
  cudaDeviceProp info;
  CUDA_OK(cudaGetDeviceProperties(&info, 0));
  std::printf("%s, driver API %d, CUDA_MODULE_LOADING=%s; the spin ends by itself after %.0f ms\n",
              info.name, driver,
              std::getenv("CUDA_MODULE_LOADING") ? std::getenv("CUDA_MODULE_LOADING") : "(lazy)",
              kSpinNs / 1e6);
  std::printf("%-52s %-10s %10s   %-20s %8s\n", "call", "the call", "us", "its work", "us");
  for (const Row& row : rows) Measure(spinner, row);
  CUDA_OK(cudaDeviceSynchronize());
  return 0;
}

}  // namespace
}  // namespace spike

int main(int argc, char** argv) {
  return argc > 1 ? spike::Export() : spike::Run("/proc/self/exe");
}
