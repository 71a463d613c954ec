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
constexpr int kMaxSlots = 16;
constexpr int kMaxCluster = 4;
constexpr int kRingBytes =
    (227 << 10) - 1024 - 2 * kMaxSlots * 8;  // slots begin at multiples of 1 KiB
constexpr int kSharedBytes = (227 << 10);
constexpr int kMostRowsOfPairs =
    168;                 // where a warpgroup has two times 64 tokens, for its registers
constexpr int kPad = 8;  // floats behind a token's row of partial sums, for the banks

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
};

// What this block does: its place in the cluster, its slabs of k, its tiles.
struct BatchShare {
  int rank;
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
    rank = static_cast<int>(blockIdx.x) % size;
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
  __device__ __forceinline__ int Tiles() const {
    return first_tile < end_tile ? (end_tile - first_tile + step - 1) / step : 0;
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
  const int total = share.Tiles() * (share.end_slab - share.first_slab);
  const int x_bytes = problem.x_rows * Slab::kRowBytes;
  const int x_rows = problem.x_rows / problem.sharers;  // that this block brings
  const unsigned peers = ((1U << problem.sharers) - 1) << (share.part * problem.sharers);
  const auto load_weights = [&](int slot, const SlabPlace& at) {
    if (ElectOne()) {
      ArriveExpecting(&ring.full[slot], kRows * Slab::kRowBytes + x_bytes);
      TensorLoad(ring.weights + slot * kRows * Slab::kRowBytes, &weights, at.slab * kSlabK,
                 at.tile * kRows, &ring.full[slot]);
    }
    __syncwarp();
  };
  const SlabPlace first = {share.first_tile, share.first_slab};
  const int ahead = min(total, problem.slots);
  SlabPlace at = first;
  for (int i = 0; i < ahead; ++i) {
    load_weights(i, at);
    at.Next(share);
  }
  WaitForInputs();
  if (problem.sharers > 1) WaitForCluster();  // their barriers are made
  at = first;
  SlotPlace place;
  for (int i = 0; i < total; ++i) {
    if (i >= ahead) {
      Wait(&ring.empty[place.slot], place.parity ^ 1);
      load_weights(place.slot, at);
    }
    if (ElectOne()) {
      const int row = share.sharer * x_rows;
      uint8_t* to = ring.x + place.slot * x_bytes + row * Slab::kRowBytes;
      if (problem.sharers > 1) {
        TensorLoadToAll(to, &activations, at.slab * kSlabK, row, &ring.full[place.slot], peers);
      } else {
        TensorLoad(to, &activations, at.slab * kSlabK, row, &ring.full[place.slot]);
      }
    }
    __syncwarp();
    at.Next(share);
    place.Next(problem.slots);
  }
}

// One warpgroup's tokens: 64 for each of kTiles.
template <int kRows, int kGroups, int kTiles>
struct BatchSums {
  static constexpr int kThreads = kGroups * 128;

  float c[kTiles][kRows / 2];

  __device__ __forceinline__ void Hold() {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) HoldRegisters(c[tile]);
  }

  // Sums up the slabs of one tile of rows.
  __device__ __forceinline__ void Run(const BatchProblem& problem, const BatchShare& share,
                                      const BatchRing& ring, SlotPlace& place) {
    const int group = threadIdx.x / 128;
    const int lane = threadIdx.x % 32;
    const uint32_t x = SharedAddress(ring.x) + group * kTiles * 64 * Slab::kRowBytes;
    const uint32_t weights = SharedAddress(ring.weights);
    const int x_bytes = problem.x_rows * Slab::kRowBytes;
    const auto release = [&](int slot) {
      if (problem.sharers == 1) {
        if (lane == 0) Arrive(&ring.empty[slot]);
      } else if (lane < problem.sharers) {
        ArriveAt(AddressIn(SharedAddress(&ring.empty[slot]), share.part * problem.sharers + lane));
      }
    };
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < kRows / 2; ++i) c[tile][i] = 0;
    }
    int before = -1;
    for (int slab = share.first_slab; slab < share.end_slab; ++slab) {
      Wait(&ring.full[place.slot], place.parity);
      const uint32_t a = x + place.slot * x_bytes;
      const uint32_t b = weights + place.slot * kRows * Slab::kRowBytes;
      Hold();
      FenceProducts();
#pragma unroll
      for (int k = 0; k < kSlabK; k += 16) {
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          MultiplyTokens<kRows>(c[tile], Slab::AlongRows(a + tile * 64 * Slab::kRowBytes + k * 2),
                                Slab::AlongRows(b + k * 2));
        }
      }
      CommitProducts();
      WaitForProducts<1>();
      if (before >= 0) release(before);
      before = place.slot;
      place.Next(problem.slots);
    }
    WaitForProducts<0>();
    Hold();
    if (before >= 0) release(before);
  }

  // body(token, row in the tile, c's of that row and the next), for this thread's.
  template <typename Body>
  __device__ __forceinline__ void ForEachPair(const Body& body) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int token =
          (threadIdx.x / 128 * kTiles + tile) * 64 + threadIdx.x % 128 / 32 * 16 + lane / 4;
#pragma unroll
      for (int i = 0; i < kRows / 2; i += 2) {
        body(token + i / 2 % 2 * 8, i / 4 * 8 + lane % 4 * 2, c[tile][i], c[tile][i + 1]);
      }
    }
  }

  __device__ __forceinline__ void Store(const BatchProblem& problem, int first_row) const {
    ForEachPair([&](int token, int row, float c0, float c1) {
      if (token < problem.num_tokens && first_row + row < problem.out_features) {
        *reinterpret_cast<__nv_bfloat162*>(problem.out + token * problem.out_stride + first_row +
                                           row) = __floats2bfloat162_rn(c0, c1);
      }
    });
  }

  // This block's part of the sums, [token][kRows + kPad], for the cluster to see.
  __device__ __forceinline__ void Lay(const BatchProblem& problem, float* partial) const {
    ForEachPair([&](int token, int row, float c0, float c1) {
      if (token < problem.num_tokens) {
        *reinterpret_cast<float2*>(partial + token * (kRows + kPad) + row) = make_float2(c0, c1);
      }
    });
  }

  // Of this block's share of the tokens, what the blocks of the cluster have laid down.
  __device__ __forceinline__ void AddUp(const BatchProblem& problem, const BatchShare& share,
                                        const float* partial, int first_row) const {
    const int first = problem.num_tokens * share.part / problem.split;
    const int count = problem.num_tokens * (share.part + 1) / problem.split - first;
    constexpr int kPacks = kRows / 4;
    const uint32_t mine = SharedAddress(partial);
    for (int i = threadIdx.x; i < count * kPacks; i += kThreads) {
      const int token = first + i / kPacks;
      const int row = i % kPacks * 4;
      if (first_row + row >= problem.out_features) continue;
      const uint32_t at = mine + (token * (kRows + kPad) + row) * 4;
      float4 parts[kMaxCluster];
#pragma unroll
      for (int part = 0; part < kMaxCluster; ++part) {
        if (part < problem.split) {
          parts[part] = LoadFrom(AddressIn(at, part * problem.sharers + share.sharer));
        }
      }
      float4 sum = parts[0];
#pragma unroll
      for (int part = 1; part < kMaxCluster; ++part) {
        if (part < problem.split) {
          sum.x += parts[part].x;
          sum.y += parts[part].y;
          sum.z += parts[part].z;
          sum.w += parts[part].w;
        }
      }
      const Pack<Bf16, 4> result = {__float2bfloat16_rn(sum.x), __float2bfloat16_rn(sum.y),
                                    __float2bfloat16_rn(sum.z), __float2bfloat16_rn(sum.w)};
      *reinterpret_cast<Pack<Bf16, 4>*>(problem.out + token * problem.out_stride + first_row +
                                        row) = result;
    }
  }
};

template <int kRows, int kGroups, int kTiles>
__global__ void __launch_bounds__(kGroups * 128 + 32, 1)
    BatchLinearKernel(const __grid_constant__ BatchProblem problem,
                      const __grid_constant__ CUtensorMap weights,
                      const __grid_constant__ CUtensorMap activations) {
  extern __shared__ uint8_t bytes[];
  using Sums = BatchSums<kRows, kGroups, kTiles>;
  uint8_t* slots = bytes + (-SharedAddress(bytes) & 1023);  // swizzling goes by the address
  BatchRing ring;
  ring.x = slots;
  ring.weights = slots + problem.slots * problem.x_rows * Slab::kRowBytes;
  ring.full = reinterpret_cast<uint64_t*>(slots + kRingBytes);
  ring.empty = ring.full + kMaxSlots;
  const BatchShare share(problem, kRows);
  LetNextBegin();
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < problem.slots; ++slot) {
      MakeBarrier(&ring.full[slot], 1);
      MakeBarrier(&ring.empty[slot], kGroups * 4 * problem.sharers);
    }
    FenceBarriers();
  }
  __syncthreads();
  if (problem.sharers > 1) ArriveAtCluster();
  if (threadIdx.x >= Sums::kThreads) {
    FillBatchRing<kRows>(problem, share, ring, weights, activations);
    if (problem.split > 1) {
      ArriveAtCluster();
      WaitForCluster();
    }
  } else {
    Sums sums;
    SlotPlace place;
    WaitForInputs();
    if (problem.sharers > 1) WaitForCluster();
    if (problem.split > 1) {  // one tile
      float* partial = reinterpret_cast<float*>(slots);
      sums.Run(problem, share, ring, place);
      asm volatile("bar.sync 1, %0;" ::"n"(Sums::kThreads) : "memory");  // nobody reads the ring
      sums.Lay(problem, partial);
      ArriveAtCluster();
      WaitForCluster();
      sums.AddUp(problem, share, partial, share.first_tile * kRows);
    } else {
      for (int tile = share.first_tile; tile < share.end_tile; tile += share.step) {
        sums.Run(problem, share, ring, place);
        sums.Store(problem, tile * kRows);
      }
    }
  }
  if (problem.split * problem.sharers > 1) {  // nobody ends while others reach into its memory
    ArriveAtCluster();
    WaitForCluster();
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
    const auto kernel = BatchLinearKernel<64, 1, 1>;
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

template <int kRows, int kGroups, int kTiles>
void LaunchForm(cudaStream_t stream, const BatchProblem& problem, const CUtensorMap& weights,
                const CUtensorMap& activations) {
  const auto kernel = BatchLinearKernel<kRows, kGroups, kTiles>;
  AllowShared(kernel, kSharedBytes);
  const int size = problem.split * problem.sharers;
  const int64_t groups =
      (Tiles(problem.out_features, kRows) + problem.sharers - 1) / problem.sharers;
  const int clusters = static_cast<int>(
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
    return LaunchForm<kRows, 1, 1>(stream, problem, weights, activations);
  }
  if constexpr (kRows <= kMostRowsOfPairs) {
    if (problem.num_tokens > 128) {
      return LaunchForm<kRows, 2, 2>(stream, problem, weights, activations);
    }
  }
  LaunchForm<kRows, 2, 1>(stream, problem, weights, activations);
}

}  // namespace

bool IsBatchPlan(const BatchPlan& plan, int64_t num_tokens, int64_t out_features) {
  const int size = plan.split * plan.sharers;
  if (size != 1 && size != 2 && size != 4) return false;
  if (num_tokens > 128 && plan.rows > kMostRowsOfPairs) return false;
  const int64_t groups = (Tiles(out_features, plan.rows) + plan.sharers - 1) / plan.sharers;
  const int slot = (plan.rows + SlotTokens(num_tokens, plan.sharers)) * Slab::kRowBytes;
  const int slots = std::min(kRingBytes / slot, kMaxSlots);
  const int64_t partial = num_tokens * (plan.rows + kPad) * 4;
  return plan.split == 1 || (groups <= ClustersAtATime(size) && partial <= slots * slot);
}

BatchPlan ChooseBatchPlan(int64_t num_tokens, int64_t out_features, int64_t in_features) {
  BatchPlan best;
  double least = 0;
  for (const int rows : kBatchRows) {
    for (const int split : {1, 2, 4}) {
      for (const int sharers : {1, 2, 4}) {
        const BatchPlan plan = {rows, split, sharers};
        if (split * sharers > 4 || !IsBatchPlan(plan, num_tokens, out_features)) continue;
        const int64_t groups = (Tiles(out_features, rows) + sharers - 1) / sharers;
        const int64_t clusters = ClustersAtATime(split * sharers);
        const auto rounds = static_cast<double>((groups + clusters - 1) / clusters);
        const double k = static_cast<double>(in_features) / split;
        // What a multiprocessor reads, x from level 2; then the partial sums.
        double cost = rounds * k * (rows + 0.3 * static_cast<double>(num_tokens) / sharers);
        if (split > 1) cost += static_cast<double>(num_tokens) * rows + 30000;
        if (best.rows == 0 || cost < least) {
          best = plan;
          least = cost;
        }
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
  const int slot_bytes = (plan.rows + x_rows) * Slab::kRowBytes;
  const BatchProblem problem = {Elements<Bf16>(out),
                                out.stride(0),
                                static_cast<int>(x.dim(0)),
                                static_cast<int>(weight.dim(0)),
                                static_cast<int>((x.dim(1) + kSlabK - 1) / kSlabK),
                                x_rows,
                                std::min(kRingBytes / slot_bytes, kMaxSlots),
                                plan.split,
                                plan.sharers};
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
