// One stage of the two: a process with a GPU, whose graph waits on its mailbox, computes, stores
// rows into its neighbour's mailbox and releases a flag there. The graph binds one address, the
// ring of plan descriptors: what plan it runs, for which epoch, where the neighbour's mailbox lies,
// how many bytes, all are read from there, so a replaced neighbour needs no new graph.
//
// Stage 0 waits for what stage 1 gave back D plans ago, stage 1 for the rows of the same plan.
#include <cublas_v2.h>

#include <cstring>

#include "channel.h"
#include "peer_memory.h"
#include "peer_stage.h"

namespace spike {
namespace {

constexpr int kRing = 64;

// In pinned host memory, written by the host before it launches the plan's graph.
struct Descriptor {
  uint32_t plan;
  uint32_t epoch;
  unsigned char* peer;  // the neighbour's mailbox, mapped here
  uint64_t send_bytes;  // multiples of 16
  uint64_t wait_tag;    // 0: nothing to wait for
  uint64_t limit_ns;    // of the wait
  uint32_t depth;       // slots of a mailbox
  uint32_t repeat;      // times the rows are stored: a long time of stores in flight
};

// In pinned host memory, written by the device.
struct Done {
  uint32_t plan;
  uint32_t voided;   // the plan whose wait timed out
  uint64_t garbage;  // words that were not what the plan should have brought
};

// When a plan's first kernel after the wait began, and its send, in nanoseconds of this GPU.
struct Stamps {
  uint64_t first;
  uint64_t send;
};
constexpr int kStamps = 1024;  // the last plans'

// In device memory of the stage.
struct State {
  uint32_t next;  // plans begun
  uint32_t is_void;
  uint64_t garbage;
  uint32_t blocks;     // of the send that are done
  Descriptor current;  // read once a plan: the ring lies behind PCIe
};

// A mailbox: one 64-byte line a slot for the flag, then the slots' rows.
constexpr size_t kFlagBytes = 64;
__host__ __device__ size_t SlotOffset(uint32_t depth, uint32_t slot, size_t slot_bytes) {
  return depth * kFlagBytes + slot * slot_bytes;
}

__host__ __device__ uint64_t Tag(uint32_t epoch, uint32_t plan) {
  return static_cast<uint64_t>(epoch) << 32 | plan;
}

__device__ uint32_t Pattern(uint64_t tag, uint64_t i) {
  const uint64_t mixed = (tag * 0x9e3779b97f4a7c15ull) ^ (i * 0xbf58476d1ce4e5b9ull);
  return static_cast<uint32_t>(mixed >> 29);
}

__device__ uint64_t LoadTag(const unsigned char* address) {
  uint64_t value;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(address) : "memory");
  return value;
}

// The next kernel's blocks may be placed while this one waits, if it is launched so.
__global__ void WaitKernel(const Descriptor* ring, State* state, const unsigned char* mailbox,
                           Done* done) {
  cudaTriggerProgrammaticLaunchCompletion();
  const Descriptor plan = ring[state->next % kRing];
  state->current = plan;
  const uint64_t start = GlobalNs();
  if (plan.wait_tag != 0 && state->is_void == 0) {
    const uint32_t slot = static_cast<uint32_t>(plan.wait_tag) % plan.depth;
    while (LoadTag(mailbox + slot * kFlagBytes) != plan.wait_tag) {
      if (GlobalNs() - start > plan.limit_ns) {
        state->is_void = 1;
        done->voided = plan.plan;
        break;
      }
    }
  }
}

// Reads what came and compares it with what should have come.
__global__ void CheckKernel(State* state, const unsigned char* mailbox, size_t slot_bytes,
                            uint64_t received_bytes) {
  const Descriptor plan = state->current;
  if (plan.wait_tag == 0 || state->is_void != 0) return;
  const uint32_t slot = static_cast<uint32_t>(plan.wait_tag) % plan.depth;
  const auto* rows =
      reinterpret_cast<const uint32_t*>(mailbox + SlotOffset(plan.depth, slot, slot_bytes));
  uint64_t wrong = 0;
  for (uint64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < received_bytes / 4;
       i += gridDim.x * blockDim.x) {
    if (__ldcv(rows + i) != Pattern(plan.wait_tag, i)) ++wrong;
  }
  if (wrong != 0) atomicAdd(reinterpret_cast<unsigned long long*>(&state->garbage), wrong);
}

__device__ void StoreRows(const Descriptor& plan, size_t slot_bytes) {
  const uint64_t tag = Tag(plan.epoch, plan.plan);
  auto* rows = reinterpret_cast<uint4*>(plan.peer +
                                        SlotOffset(plan.depth, plan.plan % plan.depth, slot_bytes));
  for (uint32_t round = 0; round < plan.repeat; ++round) {
    for (uint64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < plan.send_bytes / 16;
         i += gridDim.x * blockDim.x) {
      rows[i] = make_uint4(Pattern(tag, 4 * i), Pattern(tag, 4 * i + 1), Pattern(tag, 4 * i + 2),
                           Pattern(tag, 4 * i + 3));
    }
  }
}

// Releases the flag and says that the plan is done.
__device__ void Finish(const Descriptor& plan, State* state, Done* done) {
  if (state->is_void == 0) {
    const uint64_t tag = Tag(plan.epoch, plan.plan);
    asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(plan.peer +
                                                             plan.plan % plan.depth * kFlagBytes),
                 "l"(tag)
                 : "memory");
  }
  done->garbage = state->garbage;
  state->next += 1;
  __threadfence_system();
  done->plan = plan.plan;
}

// Stands for a stage's layers where a hop is timed: long enough for the other stage to wait again.
__global__ void LayersKernel(const State* state, Stamps* stamps, uint64_t ns) {
  cudaGridDependencySynchronize();
  const uint64_t start = GlobalNs();
  stamps[state->next % kStamps].first = start;
  while (GlobalNs() - start < ns) {
  }
}

// Stores the plan's rows into the neighbour's slot, 16 bytes a thread.
__global__ void StoreKernel(const State* state, size_t slot_bytes, Stamps* stamps) {
  if (blockIdx.x == 0 && threadIdx.x == 0) stamps[state->next % kStamps].send = GlobalNs();
  if (state->is_void != 0) return;
  StoreRows(state->current, slot_bytes);
  __threadfence_system();
}

__global__ void ReleaseKernel(State* state, Done* done) { Finish(state->current, state, done); }

// The two in one. Its blocks are placed while the kernel before it ends.
__global__ void SendKernel(State* state, size_t slot_bytes, Done* done, Stamps* stamps) {
  cudaGridDependencySynchronize();
  if (blockIdx.x == 0 && threadIdx.x == 0) stamps[state->next % kStamps].send = GlobalNs();
  const Descriptor plan = state->current;
  if (state->is_void == 0) StoreRows(plan, slot_bytes);
  __threadfence_system();
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (atomicAdd(&state->blocks, 1) + 1 < gridDim.x) return;
  state->blocks = 0;
  Finish(plan, state, done);
}

__global__ void StampKernel(const State* state, Stamps* stamps) {
  stamps[state->next % kStamps].send = GlobalNs();
}

// What the copy engine sends.
__global__ void FillKernel(const State* state, uint32_t* rows) {
  const Descriptor plan = state->current;
  for (uint64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < plan.send_bytes / 4;
       i += gridDim.x * blockDim.x) {
    rows[i] = Pattern(Tag(plan.epoch, plan.plan), i);
  }
}

class Stage {
 public:
  Stage(const StageOptions& options, const Channel& driver)
      : options_(options), driver_(driver), peer_(options.memory, MailboxBytes(), options.device) {
    CUDA_OK(cudaSetDevice(options.device));
    CUDA_OK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    size_t free_bytes = 0, total = 0;
    CUDA_OK(cudaMemGetInfo(&free_bytes, &total));
    own_ = OwnMemory::Make(options.memory, MailboxBytes(), options.device);
    CUDA_OK(cudaHostAlloc(&ring_, kRing * sizeof(Descriptor), cudaHostAllocMapped));
    CUDA_OK(cudaHostAlloc(&done_, sizeof(Done), cudaHostAllocMapped));
    std::memset(done_, 0, sizeof(Done));
    CUDA_OK(cudaMalloc(&stamps_, kStamps * sizeof(Stamps)));
    CUDA_OK(cudaMalloc(&state_, sizeof(State)));
    CUDA_OK(cudaMemset(state_, 0, sizeof(State)));
    CUDA_OK(cudaMalloc(&ballast_, options.ballast_bytes));
    MakeLayers();
    driver_.Send("up " + std::to_string(free_bytes) + " " + own_.handle, own_.descriptor);
  }

  // The driver's commands, until it is gone.
  int Run() {
    while (true) {
      int descriptor = -1;
      const std::string line = driver_.Receive(-1, &descriptor);
      if (line.empty() || line == "end") return 0;
      if (line.rfind("open ", 0) == 0) {
        const double start = NowUs();
        peer_address_ = static_cast<unsigned char*>(peer_.Open(line.substr(5), descriptor));
        driver_.Send("opened " + std::to_string(NowUs() - start));
      } else if (line.rfind("capture", 0) == 0) {
        Capture(/*check=*/line != "capture timed");
        driver_.Send("captured");
      } else if (line.rfind("go ", 0) == 0) {
        unsigned epoch = 0, first = 0, count = 0;
        std::sscanf(line.c_str(), "go %u %u %u", &epoch, &first, &count);
        RunPlans(epoch, first, count);
      } else if (line == "close") {
        const double start = NowUs();
        const int said = peer_.Close();
        driver_.Send("closed " + std::to_string(said) + " " + std::to_string(NowUs() - start));
      } else if (line == "memory") {
        size_t free_bytes = 0, total = 0;
        CUDA_OK(cudaMemGetInfo(&free_bytes, &total));
        driver_.Send("memory " + std::to_string(free_bytes));
      }
    }
  }

 private:
  size_t SlotBytes() const { return std::max<size_t>(options_.slot_bytes, 256); }
  size_t MailboxBytes() const { return options_.depth * (kFlagBytes + SlotBytes()); }

  void MakeLayers() {
    if (cublasCreate(&blas_) != CUBLAS_STATUS_SUCCESS) std::exit(1);
    CUDA_OK(cudaMalloc(&workspace_, 32 << 20));
    cublasSetWorkspace(blas_, workspace_, 32 << 20);
    cublasSetStream(blas_, stream_);
    const size_t bytes = size_t{2} * 4096 * 12288;
    for (void** buffer : {&weight_, &x_, &y_}) {
      CUDA_OK(cudaMalloc(buffer, bytes));
      CUDA_OK(cudaMemset(*buffer, 0x3c, bytes));
    }
  }
  void EnqueueLayers() {
    const float one = 1, zero = 0;
    for (int i = 0; i < options_.layers; ++i) {
      if (cublasGemmEx(blas_, CUBLAS_OP_T, CUBLAS_OP_N, 12288, 64, 4096, &one, weight_, CUDA_R_16BF,
                       4096, x_, CUDA_R_16BF, 4096, &zero, y_, CUDA_R_16BF, 12288,
                       CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) != CUBLAS_STATUS_SUCCESS) {
        std::exit(1);
      }
    }
  }
  void EnqueuePlan(bool check) {
    const auto* mailbox = static_cast<const unsigned char*>(own_.address);
    WaitKernel<<<1, 1, 0, stream_>>>(ring_, state_, mailbox, done_);
    if (check) {
      CheckKernel<<<16, 256, 0, stream_>>>(state_, mailbox, SlotBytes(), options_.receive_bytes);
    }
    if (options_.layers_ns > 0) {
      Launch(LayersKernel, 1, 1, /*programmatic=*/true, state_, stamps_, options_.layers_ns);
    }
    EnqueueLayers();
    const int blocks = options_.store_blocks;
    switch (options_.send) {
      case SendKind::kStores:
        Launch(StoreKernel, blocks, 512, false, state_, SlotBytes(), stamps_);
        Launch(ReleaseKernel, 1, 1, false, state_, done_);
        break;
      case SendKind::kFused:
        Launch(SendKernel, blocks, 512, /*programmatic=*/true, state_, SlotBytes(), done_, stamps_);
        break;
      case SendKind::kCopyEngine:  // one slot: the address is the graph's
        if (check) Launch(FillKernel, 16, 256, false, state_, static_cast<uint32_t*>(x_));
        Launch(StampKernel, 1, 1, false, state_, stamps_);
        CUDA_OK(cudaMemcpyAsync(peer_address_ + SlotOffset(options_.depth, 0, SlotBytes()), x_,
                                options_.send_bytes, cudaMemcpyDeviceToDevice, stream_));
        Launch(ReleaseKernel, 1, 1, false, state_, done_);
        break;
    }
  }
  template <typename... Parameters, typename... Values>
  void Launch(void (*kernel)(Parameters...), int blocks, int threads, bool programmatic,
              Values... values) {
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = blocks;
    config.blockDim = threads;
    config.stream = stream_;
    config.attrs = &early;
    config.numAttrs = programmatic ? 1 : 0;
    CUDA_OK(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(values)...));
  }
  void Capture(bool check) {
    EnqueueLayers();  // loads the kernels
    CUDA_OK(cudaStreamSynchronize(stream_));
    cudaGraph_t graph;
    CUDA_OK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    EnqueuePlan(check);
    if (options_.capture_pause_ms > 0) usleep(options_.capture_pause_ms * 1000);
    CUDA_OK(cudaStreamEndCapture(stream_, &graph));
    if (exec_ != nullptr) CUDA_OK(cudaGraphExecDestroy(exec_));
    CUDA_OK(cudaGraphInstantiate(&exec_, graph, 0));
    CUDA_OK(cudaGraphUpload(exec_, stream_));
    CUDA_OK(cudaStreamSynchronize(stream_));
  }

  uint32_t DonePlan() const { return __atomic_load_n(&done_->plan, __ATOMIC_ACQUIRE); }
  uint32_t Voided() const { return __atomic_load_n(&done_->voided, __ATOMIC_ACQUIRE); }

  // Plans first .. first + count - 1, `depth` of them in flight; ends early when a wait timed out.
  void RunPlans(uint32_t epoch, uint32_t first, uint32_t count) {
    State state = {};
    CUDA_OK(cudaMemcpyAsync(&state, state_, sizeof state, cudaMemcpyDeviceToHost, stream_));
    CUDA_OK(cudaStreamSynchronize(stream_));
    state.is_void = 0;
    CUDA_OK(cudaMemcpyAsync(state_, &state, sizeof state, cudaMemcpyHostToDevice, stream_));
    CUDA_OK(cudaStreamSynchronize(stream_));
    done_->voided = 0;
    __atomic_store_n(&done_->plan, first - 1, __ATOMIC_RELEASE);
    const double start = NowUs();
    uint32_t told = first - 1;
    for (uint32_t plan = first; plan < first + count && Voided() == 0; ++plan) {
      while (plan - DonePlan() > options_.ahead && Voided() == 0) Tell(&told);
      Descriptor& descriptor = ring_[(state.next + (plan - first)) % kRing];
      descriptor.plan = plan;
      descriptor.epoch = epoch;
      descriptor.peer = peer_address_;
      descriptor.send_bytes = options_.send_bytes;
      descriptor.limit_ns = options_.limit_ns;
      descriptor.depth = options_.depth;
      descriptor.repeat = options_.repeat;
      descriptor.wait_tag = 0;
      if (options_.role == 1) descriptor.wait_tag = Tag(epoch, plan);
      if (options_.role == 0 && plan >= first + options_.depth) {
        descriptor.wait_tag = Tag(epoch, plan - options_.depth);
      }
      CUDA_OK(cudaGraphLaunch(exec_, stream_));
    }
    while (DonePlan() < first + count - 1 && Voided() == 0) Tell(&told);
    const double noticed = NowUs();
    const cudaError_t context = cudaStreamSynchronize(stream_);
    char line[256];
    if (Voided() != 0) {
      std::snprintf(line, sizeof line, "void %u %s %llu %.1f", Voided(), cudaGetErrorName(context),
                    static_cast<unsigned long long>(done_->garbage), NowUs() - noticed);
    } else {
      std::snprintf(line, sizeof line, "ran %u %s %llu %.3f", DonePlan(), cudaGetErrorName(context),
                    static_cast<unsigned long long>(done_->garbage), (NowUs() - start) / count);
      const size_t length = std::strlen(line);
      if (options_.layers_ns > 0 && count >= kStamps) {
        std::snprintf(line + length, sizeof line - length, " %.3f", TurnUs());
      }
    }
    driver_.Send(line);
  }
  // What a hop is made of, of plans of depth 1: the first stage is away from a plan's send to the
  // next one's first kernel, the last one from a plan's first kernel to its send; the difference is
  // two hops, without a clock in common.
  double TurnUs() const {
    std::vector<Stamps> stamps(kStamps);
    CUDA_OK(cudaMemcpyAsync(stamps.data(), stamps_, kStamps * sizeof(Stamps),
                            cudaMemcpyDeviceToHost, stream_));
    CUDA_OK(cudaStreamSynchronize(stream_));
    std::vector<double> turns;
    for (int i = 0; i + 1 < kStamps; ++i) {
      const double us = options_.role == 0
                            ? static_cast<double>(stamps[i + 1].first - stamps[i].send) / 1e3
                            : static_cast<double>(stamps[i].send - stamps[i].first) / 1e3;
      if (us > 0 && us < 1e4) turns.push_back(us);  // not over the ring's end
    }
    return Median(turns);
  }
  // Every tenth plan, so that the driver knows that it goes on.
  void Tell(uint32_t* told) {
    const uint32_t plan = DonePlan();
    if (plan < *told + 10) return;
    *told = plan;
    driver_.Send("at " + std::to_string(plan), -1, MSG_DONTWAIT);
  }

  const StageOptions options_;
  const Channel driver_;
  PeerMemory peer_;
  OwnMemory own_;
  unsigned char* peer_address_ = nullptr;
  cudaStream_t stream_ = nullptr;
  cudaGraphExec_t exec_ = nullptr;
  Descriptor* ring_ = nullptr;
  Done* done_ = nullptr;
  State* state_ = nullptr;
  Stamps* stamps_ = nullptr;
  void* ballast_ = nullptr;  // what a stage's weights are: its return shows in the free memory
  cublasHandle_t blas_ = nullptr;
  void *workspace_ = nullptr, *weight_ = nullptr, *x_ = nullptr, *y_ = nullptr;
};

}  // namespace

int RunStage(const StageOptions& options, int fd) {
  CUDA_OK(cudaSetDevice(options.device));
  CUDA_OK(cudaFree(nullptr));
  return Stage(options, Channel(fd)).Run();
}

}  // namespace spike
