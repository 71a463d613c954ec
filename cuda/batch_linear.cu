#include <atomic>

#include "cuda/batch_linear.h"
#include "cuda/cluster.cuh"
#include "cuda/launch.h"
#include "cuda/tensor_map.h"
#include "cuda/token_product.cuh"

namespace penstock::cuda {
namespace {

using Bf16 = __nv_bfloat16;
using Slab = SwizzledTile<64>;  // of 64 k's: rows of 128 bytes

constexpr int kSlabK = Slab::kColumns;
constexpr int kMaxSlots = 24;
constexpr int kMaxCluster = 4;
constexpr int kMaxBurst = 4;
constexpr int kSharedBytes = 227 << 10;
constexpr int kBarrierBytes = 512;
constexpr int kRoomBytes = kSharedBytes - 1024 - kBarrierBytes;  // for the ring, then the parts
static_assert((2 * kMaxSlots + 1) * 8 <= kBarrierBytes);

struct BatchProblem {
  Bf16* out;
  int64_t out_stride;
  int num_tokens;
  int out_features;
  int slabs;   // of k
  int x_rows;  // of a slab of x in the ring
  int slots;   // of the ring
  int split;
  int sharers;
  int burst;
};

// Sums go by columns of eight rows of the weight: those of each part's block.
__host__ __device__ constexpr int FirstColumn(int columns, int part, int split) {
  return columns * part / split;
}

// What this block does: its place in the cluster, its slabs of k, its tiles.
struct BatchShare {
  int part;    // of k
  int sharer;  // among those with the same k's
  int first_slab;
  int end_slab;
  int first_tile;  // in rounds of all clusters, `step` apart, below `end_tile`
  int end_tile;
  int step;

  __device__ BatchShare(const BatchProblem& problem, int rows) {
    const int size = problem.split * problem.sharers;
    const int cluster = static_cast<int>(blockIdx.x) / size;
    const int rank = static_cast<int>(blockIdx.x) % size;
    part = rank / problem.sharers;
    sharer = rank % problem.sharers;
    first_slab = problem.slabs * part / problem.split;
    end_slab = problem.slabs * (part + 1) / problem.split;
    const int tiles = (problem.out_features + rows - 1) / rows;
    // Sharers go on together: a tile beyond the last is one of zeros that nobody stores.
    const int groups = (tiles + problem.sharers - 1) / problem.sharers;
    first_tile = cluster * problem.sharers + sharer;
    end_tile = groups * problem.sharers;
    step = static_cast<int>(gridDim.x) / size * problem.sharers;
  }
  // Slabs that pass through the ring.
  __device__ __forceinline__ int Slabs() const {
    const int tiles = first_tile < end_tile ? (end_tile - first_tile + step - 1) / step : 0;
    return tiles * (end_slab - first_slab);
  }
};

struct SlotPlace {
  int slot = 0;
  unsigned parity = 0;

  __device__ __forceinline__ void Next(int slots) {
    if (++slot == slots) {
      slot = 0;
      parity ^= 1;
    }
  }
};

struct BatchRing {
  uint8_t* x;
  uint8_t* weights;
  uint64_t* full;
  uint64_t* empty;
};

// Slabs in the order in which they pass through the ring.
struct SlabPlace {
  int tile;
  int slab;

  __device__ __forceinline__ void Next(const BatchShare& share) {
    if (++slab == share.end_slab) {
      slab = share.first_slab;
      tile += share.step;
    }
  }
};

// One warp.
template <int kRows>
__device__ void FillBatchRing(const BatchProblem& problem, const BatchShare& share,
                              const BatchRing& ring, const CUtensorMap& weights,
                              const CUtensorMap& activations) {
  const int total = share.Slabs();
  const int x_bytes = problem.x_rows * Slab::kRowBytes;
  const int x_rows = problem.x_rows / problem.sharers;  // that this block brings
  const unsigned peers = ((1U << problem.sharers) - 1) << (share.part * problem.sharers);
  const uint64_t policy = EvictFirst();
  const auto load_weights = [&](int slot, const SlabPlace& at) {
    if (ElectOne()) {
      ArriveExpecting(&ring.full[slot], kRows * Slab::kRowBytes + x_bytes);
      TensorLoad(ring.weights + slot * kRows * Slab::kRowBytes, &weights, at.slab * kSlabK,
                 at.tile * kRows, &ring.full[slot], policy);
    }
    __syncwarp();
  };
  const auto load_x = [&](int slot, const SlabPlace& at) {
    if (ElectOne()) {
      const int row = share.sharer * x_rows;
      uint8_t* to = ring.x + slot * x_bytes + row * Slab::kRowBytes;
      if (problem.sharers > 1) {
        TensorLoadToAll(to, &activations, at.slab * kSlabK, row, &ring.full[slot], peers);
      } else {
        TensorLoad(to, &activations, at.slab * kSlabK, row, &ring.full[slot]);
      }
    }
    __syncwarp();
  };
  const SlabPlace first = {share.first_tile, share.first_slab};
  const int ahead = min(total, problem.slots);
  SlabPlace next = first;
  for (int slot = 0; slot < ahead; ++slot) {
    load_weights(slot, next);
    next.Next(share);
  }
  WaitForInputs();
  if (problem.split * problem.sharers > 1) WaitForCluster();  // all barriers are made
  SlabPlace at = first;
  for (int slot = 0; slot < ahead; ++slot) {
    load_x(slot, at);
    at.Next(share);
  }
  SlotPlace place;  // of what is to be emptied
  for (int i = ahead; i < total; i += problem.burst) {
    const int count = min(problem.burst, total - i);
    SlotPlace slots = place;
    for (int j = 0; j < count; ++j) {
      Wait(&ring.empty[slots.slot], slots.parity);
      slots.Next(problem.slots);
    }
    slots = place;
    for (int j = 0; j < count; ++j) {
      load_weights(slots.slot, next);
      next.Next(share);
      slots.Next(problem.slots);
    }
    for (int j = 0; j < count; ++j) {
      load_x(place.slot, at);
      at.Next(share);
      place.Next(problem.slots);
    }
  }
}

// One warpgroup's 64 tokens.
template <int kRows, int kGroups>
struct BatchSums {
  static constexpr int kThreads = kGroups * 128;
  static constexpr int kColumns = kRows / 8;

  float c[kRows / 2];

  // Sums up the slabs of one tile of rows. `left`: slabs that this block has still to release.
  __device__ __forceinline__ void Run(const BatchProblem& problem, const BatchShare& share,
                                      const BatchRing& ring, SlotPlace& place, int& left) {
    const int lane = threadIdx.x % 32;
    const uint32_t x = SharedAddress(ring.x) + threadIdx.x / 128 * 64 * Slab::kRowBytes;
    const uint32_t weights = SharedAddress(ring.weights);
    const int x_bytes = problem.x_rows * Slab::kRowBytes;
    // Only a slot that will be filled again: whoever is told waits for it, and has not ended.
    const auto release = [&](int slot) {
      if (left-- <= problem.slots) return;
      if (problem.sharers == 1) {
        if (lane == 0) Arrive(&ring.empty[slot]);
      } else if (lane < problem.sharers) {
        ArriveAt(AddressIn(SharedAddress(&ring.empty[slot]), share.part * problem.sharers + lane));
      }
    };
#pragma unroll
    for (int i = 0; i < kRows / 2; ++i) c[i] = 0;
    int before = -1;
    for (int slab = share.first_slab; slab < share.end_slab; ++slab) {
      Wait(&ring.full[place.slot], place.parity);
      const uint32_t a = x + place.slot * x_bytes;
      const uint32_t b = weights + place.slot * kRows * Slab::kRowBytes;
      HoldRegisters(c);
      FenceProducts();
#pragma unroll
      for (int k = 0; k < kSlabK; k += 16) {
        MultiplyTokens<kRows>(c, Slab::AlongRows(a + k * 2), Slab::AlongRows(b + k * 2));
      }
      CommitProducts();
      WaitForProducts<1>();
      if (before >= 0) release(before);
      before = place.slot;
      place.Next(problem.slots);
    }
    WaitForProducts<0>();
    HoldRegisters(c);
    if (before >= 0) release(before);
  }

  // Of eight rows of the weight, this thread's: two tokens, 8 apart, of two rows each.
  __device__ __forceinline__ void Store(const BatchProblem& problem, int first_row, int column,
                                        const float (&sum)[4]) const {
    const int token = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
    const int row = first_row + column * 8 + threadIdx.x % 4 * 2;
    if (row >= problem.out_features) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (token + half * 8 < problem.num_tokens) {
        *reinterpret_cast<__nv_bfloat162*>(problem.out + (token + half * 8) * problem.out_stride +
                                           row) =
            __floats2bfloat162_rn(sum[half * 2], sum[half * 2 + 1]);
      }
    }
  }
  __device__ __forceinline__ void Store(const BatchProblem& problem, int first_row) const {
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      Store(problem, first_row, column,
            {c[column * 4], c[column * 4 + 1], c[column * 4 + 2], c[column * 4 + 3]});
    }
  }

  // The sums of other parts' columns go to their blocks, thread to thread: [sender][column -
  // first][thread], senders without the receiver.
  __device__ __forceinline__ void Send(const BatchProblem& problem, const BatchShare& share,
                                       const float4* parts, uint64_t* come) const {
    for (int away = 1; away < problem.split; ++away) {
      const int to = (share.part + away) % problem.split;
      const int first = FirstColumn(kColumns, to, problem.split);
      const int end = FirstColumn(kColumns, to + 1, problem.split);
      const int sender = share.part - (share.part > to ? 1 : 0);
      const int rank = to * problem.sharers + share.sharer;
      const float4* begin = parts + sender * (end - first) * kThreads + threadIdx.x;
      const uint32_t there = AddressIn(SharedAddress(begin), rank);
      const uint32_t barrier = AddressIn(SharedAddress(come), rank);
#pragma unroll
      for (int column = 0; column < kColumns; ++column) {
        if (column < first || column >= end) continue;
        StoreAt(there + (column - first) * kThreads * 16, c[column * 4], c[column * 4 + 1],
                c[column * 4 + 2], c[column * 4 + 3], barrier);
      }
    }
  }

  // Adds up this part's columns, in the order of the parts, and stores them.
  __device__ __forceinline__ void AddUp(const BatchProblem& problem, const BatchShare& share,
                                        const float4* parts, int first_row) const {
    const int first = FirstColumn(kColumns, share.part, problem.split);
    const int end = FirstColumn(kColumns, share.part + 1, problem.split);
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      if (column < first || column >= end) continue;
      float sum[4] = {};
      for (int part = 0; part < problem.split; ++part) {
        float4 add = {c[column * 4], c[column * 4 + 1], c[column * 4 + 2], c[column * 4 + 3]};
        if (part != share.part) {
          const int sender = part - (part > share.part ? 1 : 0);
          add = parts[(sender * (end - first) + column - first) * kThreads + threadIdx.x];
        }
        sum[0] += add.x;
        sum[1] += add.y;
        sum[2] += add.z;
        sum[3] += add.w;
      }
      Store(problem, first_row, column, sum);
    }
  }
};

template <int kRows, int kGroups>
__global__ void __launch_bounds__(kGroups * 128 + 32, 1)
    BatchLinearKernel(const __grid_constant__ BatchProblem problem,
                      const __grid_constant__ CUtensorMap weights,
                      const __grid_constant__ CUtensorMap activations) {
  extern __shared__ uint8_t bytes[];
  using Sums = BatchSums<kRows, kGroups>;
  uint8_t* room = bytes + (-SharedAddress(bytes) & 1023);  // swizzling goes by the address
  BatchRing ring;
  ring.x = room;
  ring.weights = room + problem.slots * problem.x_rows * Slab::kRowBytes;
  const auto* parts =
      reinterpret_cast<const float4*>(ring.weights + problem.slots * kRows * Slab::kRowBytes);
  ring.full = reinterpret_cast<uint64_t*>(room + kRoomBytes);
  ring.empty = ring.full + kMaxSlots;
  uint64_t* come = ring.empty + kMaxSlots;  // the other parts
  const BatchShare share(problem, kRows);
  const bool is_cluster = problem.split * problem.sharers > 1;
  LetNextBegin();
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < problem.slots; ++slot) {
      MakeBarrier(&ring.full[slot], 1);
      MakeBarrier(&ring.empty[slot], kGroups * 4 * problem.sharers);
    }
    MakeBarrier(come, 1);
    FenceBarriers();
    if (problem.split > 1) {
      const int columns = FirstColumn(Sums::kColumns, share.part + 1, problem.split) -
                          FirstColumn(Sums::kColumns, share.part, problem.split);
      ArriveExpecting(come, (problem.split - 1) * columns * Sums::kThreads * 16);
    }
  }
  __syncthreads();
  if (is_cluster) ArriveAtCluster();
  if (threadIdx.x >= Sums::kThreads) {
    if (ElectOne()) PrefetchMap(&activations);
    __syncwarp();
    FillBatchRing<kRows>(problem, share, ring, weights, activations);
  } else {
    Sums sums;
    SlotPlace place;
    int left = share.Slabs();
    WaitForInputs();
    if (is_cluster) WaitForCluster();
    if (problem.split > 1) {  // one tile
      sums.Run(problem, share, ring, place, left);
      sums.Send(problem, share, parts, come);
      WaitForStores(come, 0);
      sums.AddUp(problem, share, parts, share.first_tile * kRows);
    } else {
      for (int tile = share.first_tile; tile < share.end_tile; tile += share.step) {
        sums.Run(problem, share, ring, place, left);
        sums.Store(problem, tile * kRows);
      }
    }
  }
}

cudaLaunchConfig_t ClusterConfig(cudaStream_t stream, int blocks, int threads, int cluster,
                                 cudaLaunchAttribute (&attributes)[2]) {
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = kSharedBytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return config;
}

// Clusters of so many blocks, each a multiprocessor's, that run at a time. The first GPU's answer
// stands for all: it only says how work is spread.
int ClustersAtATime(int size) {
  static std::atomic<int> known[kMaxCluster + 1];
  int count = known[size].load(std::memory_order_relaxed);
  if (count == 0) {
    const auto kernel = BatchLinearKernel<64, 1>;
    AllowShared(kernel, kSharedBytes);
    cudaLaunchAttribute attributes[2] = {};
    const cudaLaunchConfig_t config = ClusterConfig(nullptr, size, 160, size, attributes);
    CUDA_CHECK(cudaOccupancyMaxActiveClusters(&count, kernel, &config));
    PENSTOCK_CHECK_GT(count, 0);
    known[size].store(count, std::memory_order_relaxed);
  }
  return count;
}

int64_t Tiles(int64_t out_features, int rows) { return (out_features + rows - 1) / rows; }

// Rows of x in a slot: whole patterns of the swizzle, the same number for each sharer.
int SlotTokens(int64_t tokens, int sharers) {
  const int64_t unit = 8 * sharers;
  return static_cast<int>((tokens + unit - 1) / unit * unit);
}

// What fits beside the other parts' sums of one's columns, 16 bytes for each thread and column.
int Slots(const BatchPlan& plan, int64_t tokens) {
  const int columns = (plan.rows / 8 + plan.split - 1) / plan.split;
  const int parts = (plan.split - 1) * columns * (tokens <= 64 ? 128 : 256) * 16;
  const int slot = (plan.rows + SlotTokens(tokens, plan.sharers)) * Slab::kRowBytes;
  return std::min((kRoomBytes - parts) / slot, kMaxSlots);
}

template <int kRows, int kGroups>
void LaunchForm(cudaStream_t stream, const BatchProblem& problem, const CUtensorMap& weights,
                const CUtensorMap& activations) {
  const auto kernel = BatchLinearKernel<kRows, kGroups>;
  AllowShared(kernel, kSharedBytes);
  const int size = problem.split * problem.sharers;
  const int64_t groups =
      (Tiles(problem.out_features, kRows) + problem.sharers - 1) / problem.sharers;
  const auto clusters = static_cast<int>(
      problem.split > 1 ? groups : std::min<int64_t>(groups, ClustersAtATime(size)));
  cudaLaunchAttribute attributes[2] = {};
  const cudaLaunchConfig_t config =
      ClusterConfig(stream, clusters * size, kGroups * 128 + 32, size, attributes);
  CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, problem, weights, activations));
}

template <int kRows>
void LaunchRows(cudaStream_t stream, const BatchProblem& problem, const CUtensorMap& weights,
                const CUtensorMap& activations) {
  if (problem.num_tokens <= 64) {
    return LaunchForm<kRows, 1>(stream, problem, weights, activations);
  }
  LaunchForm<kRows, 2>(stream, problem, weights, activations);
}

}  // namespace

bool IsBatchPlan(const BatchPlan& plan, int64_t num_tokens, int64_t out_features) {
  const int size = plan.split * plan.sharers;
  if (size != 1 && size != 2 && size != 4) return false;
  if (plan.burst < 1 || plan.burst > kMaxBurst) return false;
  if (Slots(plan, num_tokens) < 2 * plan.burst) return false;
  const int64_t groups = (Tiles(out_features, plan.rows) + plan.sharers - 1) / plan.sharers;
  return plan.split == 1 || groups <= ClustersAtATime(size);
}

BatchPlan ChooseBatchPlan(int64_t num_tokens, int64_t out_features, int64_t in_features) {
  BatchPlan best;
  double least = 0;
  for (const int rows : kBatchRows) {
    for (const int split : {1, 2, 4}) {
      const BatchPlan plan = {rows, split};
      if (!IsBatchPlan(plan, num_tokens, out_features)) continue;
      const int64_t clusters = ClustersAtATime(split);
      const int64_t rounds = (Tiles(out_features, rows) + clusters - 1) / clusters;
      // What a multiprocessor reads, x from level 2; then the sums that it exchanges.
      double cost = static_cast<double>(rounds) * static_cast<double>(in_features) / split *
                    (rows + 0.3 * static_cast<double>(num_tokens));
      if (split > 1) cost += static_cast<double>(num_tokens) * rows + 60000;
      if (best.rows == 0 || cost < least) {
        best = plan;
        least = cost;
      }
    }
  }
  return best;
}

bool IsBatch(const Tensor& x, const Tensor& weight, const Tensor& out) {
  const int64_t features = weight.dim(1);
  return x.type() == DataType::kBF16 && weight.type() == DataType::kBF16 &&
         out.type() == DataType::kBF16 && x.dim(0) <= kBatchTokens && features % 8 == 0 &&
         features <= INT32_MAX / 2 && weight.dim(0) % 8 == 0 && weight.dim(0) <= INT32_MAX / 2 &&
         weight.is_contiguous() && IsWide(x, features) && IsWide(weight, features) &&
         IsWide(out, weight.dim(0));
}

void LaunchBatchLinear(cudaStream_t stream, const Tensor& x, const Tensor& weight,
                       const Tensor& out, const BatchPlan& plan) {
  PENSTOCK_CHECK(IsBatch(x, weight, out));
  PENSTOCK_CHECK_EQ(x.dim(1), weight.dim(1));
  PENSTOCK_CHECK_EQ(out.dim(0), x.dim(0));
  PENSTOCK_CHECK_EQ(out.dim(1), weight.dim(0));
  PENSTOCK_CHECK(IsBatchPlan(plan, x.dim(0), weight.dim(0)));
  const int x_rows = SlotTokens(x.dim(0), plan.sharers);
  const BatchProblem problem = {Elements<Bf16>(out),
                                out.stride(0),
                                static_cast<int>(x.dim(0)),
                                static_cast<int>(weight.dim(0)),
                                static_cast<int>((x.dim(1) + kSlabK - 1) / kSlabK),
                                x_rows,
                                Slots(plan, x.dim(0)),
                                plan.split,
                                plan.sharers,
                                plan.burst};
  const CUtensorMap weights = MakeTensorMap(Elements<const Bf16>(weight), DataType::kBF16,
                                            weight.dim(0), weight.dim(1), plan.rows, kSlabK);
  const CUtensorMap activations =
      MakeTensorMap(Elements<const Bf16>(x), DataType::kBF16, x.dim(0), x.dim(1), x.stride(0),
                    x_rows / plan.sharers, kSlabK);
  switch (plan.rows) {
    case 64:
      return LaunchRows<64>(stream, problem, weights, activations);
    case 96:
      return LaunchRows<96>(stream, problem, weights, activations);
    case 128:
      return LaunchRows<128>(stream, problem, weights, activations);
    case 168:
      return LaunchRows<168>(stream, problem, weights, activations);
    case 192:
      return LaunchRows<192>(stream, problem, weights, activations);
    case 224:
      return LaunchRows<224>(stream, problem, weights, activations);
    case 256:
      return LaunchRows<256>(stream, problem, weights, activations);
    default:
      PENSTOCK_CHECK(false);
  }
}

void LaunchBatchLinear(cudaStream_t stream, const Tensor& x, const Tensor& weight,
                       const Tensor& out) {
  LaunchBatchLinear(stream, x, weight, out,
                    ChooseBatchPlan(x.dim(0), weight.dim(0), weight.dim(1)));
}

}  // namespace penstock::cuda
