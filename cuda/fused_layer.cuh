// fused_layer's kernel (fused_layer.h has how it works).
#pragma once

#include "cuda/bulk_copy.cuh"
#include "cuda/device.cuh"
#include "cuda/gated_tile.cuh"
#include "cuda/grid_meeting.cuh"
#include "cuda/swiglu.cuh"
#include "cuda/token_product.cuh"

namespace penstock::cuda {

inline constexpr int kFusedSlots = 8;
inline constexpr int kFusedHead = 1024;  // bytes before the ring: barriers, a reduction's sums
inline constexpr int kFusedRoom = (227 << 10) - 1024 - kFusedHead;  // for the ring
inline constexpr int kFusedHidden = 4096;                           // at most
inline constexpr int kFusedSplits = 4;
#ifndef FETCH
#define FETCH 1
#endif
inline constexpr int kAheadSteps = 4;  // that one fetch towards level 2 brings

// The four products, in order, and how many columns of a warpgroup's products their tiles have.
enum FusedStage { kOutput, kGateUp, kDown, kNext, kFusedStages };
inline constexpr int kSumColumns = 64;   // of output and down: tiles of 128 rows
inline constexpr int kNextColumns = 96;  // of 192 rows

// Where the grid meets: before each product but the first.
enum FusedMeeting { kNormDone, kGatedDone, kNextNormDone, kFusedMeetings };

// A part of a sum and what says that it is this launch's: read and written as one, so that nothing
// else orders them. (A fence would wait for all weights under way.)
struct TaggedSum {
  float value;
  unsigned tag;
};

struct FusedProduct {
  CUtensorMap weight;
  CUtensorMap x;
  CUtensorMap ahead;  // of the weight, kAheadSteps slabs
  int rows;    // of the weight
  int tiles;   // that they are
  int splits;  // of k
  int steps;   // through k, of a slab; 0: there is no such product
};

struct FusedProblem {
  FusedProduct products[kFusedStages];
  TaggedSum* parts;  // [splits, num_tokens, rows]
  unsigned long long* counters;
#ifdef FUSED_TRACE
  unsigned long long* trace;
#endif
  float* residual;
  int64_t residual_stride;
  const __nv_bfloat16* gains[2];
  float eps;
  __nv_bfloat16* gated;
  __nv_bfloat16* normed;
  __nv_bfloat16* out;
  int64_t out_stride;
  int num_tokens;
  int hidden;
  int width;   // of gated
  int x_rows;  // of a slab in the ring
  int slots;   // of the ring
};

template <int kTokenGroups, int kGatedColumns>
struct FusedBlock {
  static constexpr int kRowGroups = 2;
  static constexpr int kWorkers = kTokenGroups * kRowGroups * 128;
  static constexpr int kThreads = kWorkers + 64;
  static constexpr int kPacks = kFusedHidden / 4 / kWorkers;  // of a row, a thread
  static constexpr int kPacksAtOnce = 2 / kTokenGroups;
  static constexpr int kSlotRows =
      2 * (kGatedColumns > kNextColumns ? kGatedColumns : kNextColumns);
  static constexpr int kWeightBytes = kSlotRows * GatedSlab::kRowBytes;

  const FusedProblem& problem;
  uint64_t* full;    // of weights
  uint64_t* x_full;
  uint64_t* empty;
  float* warp_sums;
  uint8_t* x;  // [slot][x_rows], then
  uint8_t* weights;
  int x_bytes;

  __device__ __forceinline__ FusedBlock(const FusedProblem& of, uint8_t* bytes) : problem(of) {
    full = reinterpret_cast<uint64_t*>(bytes);
    x_full = full + kFusedSlots;
    empty = x_full + kFusedSlots;
    warp_sums = reinterpret_cast<float*>(empty + kFusedSlots);
    x = bytes + kFusedHead;
    x += -SharedAddress(x) & 1023;  // swizzling goes by the address
    x_bytes = problem.x_rows * GatedSlab::kRowBytes;
    weights = x + problem.slots * x_bytes;
  }

  // By thread 0. A slot is full when both its weights and its slab of x have come.
  __device__ __forceinline__ void MakeBarriers() const {
#pragma unroll 1
    for (int slot = 0; slot < problem.slots; ++slot) {
      MakeBarrier(&full[slot], 1);
      MakeBarrier(&x_full[slot], 1);
      MakeBarrier(&empty[slot], kWorkers / 32);
    }
    FenceBarriers();
  }

  __device__ static __forceinline__ int TileRows(int stage) {
    return stage == kGateUp ? 2 * kGatedColumns
           : stage == kNext ? 2 * kNextColumns
                            : 2 * kSumColumns;
  }

  struct Unit {
    int tile, split, begin, end;  // steps
  };
  // Calls body(Unit) with each of this block's shares of a product.
  template <typename Body>
  __device__ __forceinline__ void ForEachUnit(const FusedProduct& product, const Body& body) const {
    if (product.steps == 0) return;
#pragma unroll 1
    for (int i = static_cast<int>(blockIdx.x); i < product.tiles * product.splits;
         i += static_cast<int>(gridDim.x)) {
      const int split = i % product.splits;
      body(Unit{i / product.splits, split, split * product.steps / product.splits,
                (split + 1) * product.steps / product.splits});
    }
  }

  struct Place {
    int slot = 0;
    unsigned parity = 0;
    __device__ __forceinline__ void Next(int slots) {
      if (++slot == slots) {
        slot = 0;
        parity ^= 1;
      }
    }
  };

  // Asks level 2 for the slabs of a unit that the ring has no room for yet.
  __device__ __forceinline__ void FetchAhead(int stage, int tile, int step) const {
    const FusedProduct& product = problem.products[stage];
    const int column = step * GatedSlab::kColumns;
    const int rows = TileRows(stage);
    if (stage == kGateUp) {
      TensorPrefetch(&product.ahead, column, tile * rows / 2);
      TensorPrefetch(&product.ahead, column, problem.width + tile * rows / 2);
    } else {
      TensorPrefetch(&product.ahead, column, tile * rows);
    }
  }

  // The warp that streams weights. It waits for room only.
  __device__ __forceinline__ void StreamWeights() const {
    const uint64_t policy = EvictFirst();
    Place place;
    place.parity = 1;
#pragma unroll 1
    for (int stage = 0; stage < kFusedStages; ++stage) {
      const FusedProduct& product = problem.products[stage];
      const int tile_rows = TileRows(stage);
      int until_full = problem.slots;
      ForEachUnit(product, [&](const Unit& unit) {
#pragma unroll 1
        for (int step = unit.begin; step < unit.end; ++step) {
          if (until_full-- == 0 && ElectOne()) {
#pragma unroll 1
            for (int i = 0; i < FETCH * kAheadSteps && step + i < unit.end; i += kAheadSteps) {
              FetchAhead(stage, unit.tile, step + i);
            }
          }
          Wait(&empty[place.slot], place.parity);
          if (ElectOne()) {
            ArriveExpecting(&full[place.slot], tile_rows * GatedSlab::kRowBytes);
            uint8_t* to = weights + place.slot * kWeightBytes;
            if (stage == kGateUp) {
              LoadGated(to, &product.weight, step, unit.tile * (tile_rows / 16), &full[place.slot],
                        policy);
            } else {
              TensorLoad(to, &product.weight, step * GatedSlab::kColumns, unit.tile * tile_rows,
                         &full[place.slot], policy);
            }
          }
          __syncwarp();
          place.Next(problem.slots);
        }
      });
    }
  }

  // The warp that brings x beside them, once the grid has made it.
  __device__ __forceinline__ void StreamInputs() const {
    WaitForInputs();
    const GridMeeting meeting(problem.counters, kNextNormDone);
    Place place;
    place.parity = 1;
#pragma unroll 1
    for (int stage = 0; stage < kFusedStages; ++stage) {
      const FusedProduct& product = problem.products[stage];
      bool is_there = stage == kOutput;
      ForEachUnit(product, [&](const Unit& unit) {
        if (!is_there) {
          meeting.Await(stage == kGateUp ? kNormDone : stage == kDown ? kGatedDone : kNextNormDone);
          FenceGlobalWritesBeforeBulkReads();
          is_there = true;
        }
#pragma unroll 1
        for (int step = unit.begin; step < unit.end; ++step) {
          Wait(&empty[place.slot], place.parity);
          if (ElectOne()) {
            ArriveExpecting(&x_full[place.slot], x_bytes);
            TensorLoad(x + place.slot * x_bytes, &product.x, step * GatedSlab::kColumns, 0,
                       &x_full[place.slot]);
          }
          __syncwarp();
          place.Next(problem.slots);
        }
      });
    }
  }

#ifdef FUSED_TRACE
  __device__ __forceinline__ void Stamp(int i) const {
    if (threadIdx.x == 0) {
      unsigned long long t;
      asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t));
      problem.trace[blockIdx.x * 16 + i] = t;
    }
  }
#else
  __device__ __forceinline__ void Stamp(int) const {}
#endif
  // Only threads that compute.
  __device__ static __forceinline__ void SyncWorkers() {
    asm volatile("bar.sync 1, %0;" ::"n"(kWorkers) : "memory");
  }
  // What all of them wrote is there for bulk copies of the blocks that await it.
  __device__ __forceinline__ void Meet(const GridMeeting& meeting, int which) const {
    FenceGlobalWritesBeforeBulkReads();
    SyncWorkers();
    if (threadIdx.x == 0) meeting.Arrive(which);
  }
  // Says that a part is of this launch and product.
  __device__ static __forceinline__ unsigned Tag(const GridMeeting& meeting, int stage) {
    return static_cast<unsigned>(meeting.launch()) * kFusedStages + stage + 1;
  }

  // Adds up a unit's products: c [64 tokens, N rows] of this warpgroup.
  template <int N>
  __device__ __forceinline__ void Multiply(int steps, Place& place, float (&c)[N / 2]) const {
    const int group = static_cast<int>(threadIdx.x) / 128;
    const bool arrives = threadIdx.x % 32 == 0;
    const uint32_t my_x = SharedAddress(x) + group % kTokenGroups * (64 * GatedSlab::kRowBytes);
    const uint32_t my_weights =
        SharedAddress(weights) + group / kTokenGroups * (N * GatedSlab::kRowBytes);
#pragma unroll
    for (int i = 0; i < N / 2; ++i) c[i] = 0;
    int before = -1;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      Wait(&full[place.slot], place.parity);
      Wait(&x_full[place.slot], place.parity);
      const uint32_t a = my_x + place.slot * x_bytes;
      const uint32_t b = my_weights + place.slot * kWeightBytes;
      HoldRegisters(c);
      FenceProducts();
#pragma unroll
      for (int k = 0; k < GatedSlab::kColumns; k += 16) {
        MultiplyTokens<N>(c, GatedSlab::AlongRows(a + k * 2), GatedSlab::AlongRows(b + k * 2));
      }
      CommitProducts();
      WaitForProducts<1>();
      if (before >= 0 && arrives) Arrive(&empty[before]);
      before = place.slot;
      place.Next(problem.slots);
    }
    WaitForProducts<0>();
    HoldRegisters(c);
    if (before >= 0 && arrives) Arrive(&empty[before]);
  }

  // The first token and column of a thread's c: it has two columns of each eight, of this token and
  // of the one 8 on.
  __device__ static __forceinline__ int Token() {
    const int thread = static_cast<int>(threadIdx.x);
    return thread / 128 % kTokenGroups * 64 + thread % 128 / 32 * 16 + thread % 32 / 4;
  }
  __device__ static __forceinline__ int Column(int columns) {
    const int thread = static_cast<int>(threadIdx.x);
    return thread / 128 / kTokenGroups * columns + thread % 4 * 2;
  }

  // A product whose sums others add up.
  template <int N>
  __device__ __forceinline__ void SumParts(const FusedProduct& product, unsigned tag,
                                           Place& place) const {
    ForEachUnit(product, [&](const Unit& unit) {
      float c[N / 2];
      Multiply<N>(unit.end - unit.begin, place, c);
      const int column = unit.tile * (2 * N) + Column(N);
      TaggedSum* to = problem.parts +
                      (int64_t{unit.split} * problem.num_tokens + Token()) * product.rows + column;
#pragma unroll
      for (int i = 0; i < N / 2; i += 4) {
        if (column + 2 * i >= product.rows) break;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if (Token() + half * 8 >= problem.num_tokens) continue;
          StoreTagged(to + half * 8 * int64_t{product.rows} + 2 * i, c[i + 2 * half],
                      c[i + 2 * half + 1], tag);
        }
      }
    });
  }
  // Two parts that lie behind each other.
  __device__ static __forceinline__ void StoreTagged(TaggedSum* to, float a, float b,
                                                     unsigned tag) {
    asm volatile("st.relaxed.gpu.global.v2.b64 [%0], {%1, %2};" ::"l"(to),
                 "l"(uint64_t{tag} << 32 | __float_as_uint(a)),
                 "l"(uint64_t{tag} << 32 | __float_as_uint(b))
                 : "memory");
  }

  // gate and up, and swiglu of both. Nothing is computed of rows without a token: what stands
  // there may make quotients slow.
  __device__ __forceinline__ void Gate(const FusedProduct& product, Place& place) const {
    constexpr int N = kGatedColumns;
    ForEachUnit(product, [&](const Unit& unit) {
      float c[N / 2];
      Multiply<N>(unit.end - unit.begin, place, c);
      const int column = unit.tile * N + Column(N / 2);
      __nv_bfloat16* to = problem.gated + int64_t{Token()} * problem.width + column;
#pragma unroll
      for (int i = 0; i < N / 2; i += 8) {
        if (column + i >= problem.width) break;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if (Token() + half * 8 >= problem.num_tokens) continue;
          const int at = i + half * 2;
          const float2 gate = __bfloat1622float2(__floats2bfloat162_rn(c[at], c[at + 1]));
          const float2 up = __bfloat1622float2(__floats2bfloat162_rn(c[at + 4], c[at + 5]));
          *reinterpret_cast<__nv_bfloat162*>(to + half * 8 * int64_t{problem.width} + i) =
              __floats2bfloat162_rn(Swiglu(gate.x, up.x), Swiglu(gate.y, up.y));
        }
      }
    });
  }

  // Of each of the block's tokens: adds a product's sums to the residual, and norms it if there is a
  // gain.
  __device__ __forceinline__ void AddAndNorm(const FusedProduct& product, unsigned tag,
                                             const __nv_bfloat16* gain) const {
    const int packs = problem.hidden / 4;
    const int thread = static_cast<int>(threadIdx.x);
#pragma unroll 1
    for (int token = static_cast<int>(blockIdx.x); token < problem.num_tokens;
         token += static_cast<int>(gridDim.x)) {
      auto* residual =
          reinterpret_cast<float4*>(problem.residual + token * problem.residual_stride);
      const auto* gains = reinterpret_cast<const Pack<__nv_bfloat16, 4>*>(gain);
      float4 values[kPacks];
      Pack<__nv_bfloat16, 4> by[kPacks];
#pragma unroll
      for (int j = 0; j < kPacks; ++j) {
        const int i = thread + j * kWorkers;
        if (i >= packs) break;
        values[j] = __ldcg(residual + i);
        if (gain != nullptr) by[j] = gains[i];
      }
      float squares = 0;
#pragma unroll
      for (int first = 0; first < kPacks; first += kPacksAtOnce) {
        AddSums(product, tag, token, first, values);
      }
#pragma unroll
      for (int j = 0; j < kPacks; ++j) {
        const int i = thread + j * kWorkers;
        if (i >= packs) break;
        residual[i] = values[j];
        squares += values[j].x * values[j].x + values[j].y * values[j].y +
                   values[j].z * values[j].z + values[j].w * values[j].w;
      }
      if (gain == nullptr) continue;
      const float mean = SumOfWorkers(squares) / static_cast<float>(problem.hidden);
      const float scale = 1.0f / sqrtf(mean + problem.eps);
      auto* normed = reinterpret_cast<Pack<__nv_bfloat16, 4>*>(problem.normed +
                                                               int64_t{token} * problem.hidden);
#pragma unroll
      for (int j = 0; j < kPacks; ++j) {
        const int i = thread + j * kWorkers;
        if (i >= packs) break;
        Pack<__nv_bfloat16, 4> result;
        result.at[0] = FromFloat<__nv_bfloat16>(values[j].x * scale * ToFloat(by[j].at[0]));
        result.at[1] = FromFloat<__nv_bfloat16>(values[j].y * scale * ToFloat(by[j].at[1]));
        result.at[2] = FromFloat<__nv_bfloat16>(values[j].z * scale * ToFloat(by[j].at[2]));
        result.at[3] = FromFloat<__nv_bfloat16>(values[j].w * scale * ToFloat(by[j].at[3]));
        normed[i] = result;
      }
    }
  }

  // Adds a token's sums to the thread's packs of four columns from `first` on. All loads are under
  // way at once, again and again until every part is there.
  __device__ __forceinline__ void AddSums(const FusedProduct& product, unsigned tag, int token,
                                          int first, float4 (&values)[kPacks]) const {
    TaggedPack parts[kPacksAtOnce][kFusedSplits];
    bool is_there;
    do {
      is_there = true;
#pragma unroll
      for (int j = 0; j < kPacksAtOnce; ++j) {
        const int i = static_cast<int>(threadIdx.x) + (first + j) * kWorkers;
#pragma unroll
        for (int split = 0; split < kFusedSplits; ++split) {
          if (i < product.rows / 4 && split < product.splits) {
            parts[j][split].Load(PartsOf(product, split, token) + 4 * i);
          }
        }
      }
#pragma unroll
      for (int j = 0; j < kPacksAtOnce; ++j) {
        const int i = static_cast<int>(threadIdx.x) + (first + j) * kWorkers;
#pragma unroll
        for (int split = 0; split < kFusedSplits; ++split) {
          if (i < product.rows / 4 && split < product.splits) {
            is_there = is_there && parts[j][split].Has(tag);
          }
        }
      }
    } while (!is_there);
#pragma unroll
    for (int j = 0; j < kPacksAtOnce; ++j) {
      const float4 sum = Sum(parts[j], product.splits);
      float4& value = values[first + j];
      value = make_float4(value.x + sum.x, value.y + sum.y, value.z + sum.z, value.w + sum.w);
    }
  }

  // Parts of four columns.
  struct TaggedPack {
    uint64_t at[4];
    __device__ __forceinline__ void Load(const TaggedSum* from) {
      asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];"
                   : "=l"(at[0]), "=l"(at[1])
                   : "l"(from));
      asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];"
                   : "=l"(at[2]), "=l"(at[3])
                   : "l"(from + 2));
    }
    __device__ __forceinline__ bool Has(unsigned tag) const {
      return at[0] >> 32 == tag && at[1] >> 32 == tag && at[2] >> 32 == tag && at[3] >> 32 == tag;
    }
    __device__ __forceinline__ float Value(int i) const {
      return __uint_as_float(static_cast<unsigned>(at[i]));
    }
  };
  __device__ __forceinline__ const TaggedSum* PartsOf(const FusedProduct& product, int split,
                                                      int token) const {
    return problem.parts + (int64_t{split} * problem.num_tokens + token) * product.rows;
  }
  __device__ static __forceinline__ float4 Sum(const TaggedPack (&parts)[kFusedSplits],
                                               int splits) {
    float sum[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] = parts[0].Value(i);
#pragma unroll
    for (int split = 1; split < kFusedSplits; ++split) {
      if (split >= splits) break;
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[i] += parts[split].Value(i);
    }
    return make_float4(sum[0], sum[1], sum[2], sum[3]);
  }

  __device__ __forceinline__ float SumOfWorkers(float value) const {
    value = WarpReduce(value, cuda::Sum());
    SyncWorkers();  // whoever still reads the last token's
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = value;
    SyncWorkers();
    const int lane = static_cast<int>(threadIdx.x) % 32;
    return WarpReduce(lane < kWorkers / 32 ? warp_sums[lane] : 0.0f, cuda::Sum());
  }

  // The last product's sums, rounded.
  __device__ __forceinline__ void RoundSums(const FusedProduct& product, unsigned tag) const {
    const int packs = product.rows / 4;
    const int all = problem.num_tokens * packs;
#pragma unroll 1
    for (int i = static_cast<int>(blockIdx.x * kWorkers + threadIdx.x); i < all;
         i += static_cast<int>(gridDim.x) * kWorkers) {
      const int token = i / packs;
      TaggedPack parts[kFusedSplits];
      bool is_there;
      do {
        is_there = true;
#pragma unroll
        for (int split = 0; split < kFusedSplits; ++split) {
          if (split < product.splits) {
            parts[split].Load(PartsOf(product, split, token) + i % packs * 4);
          }
        }
#pragma unroll
        for (int split = 0; split < kFusedSplits; ++split) {
          if (split < product.splits) is_there = is_there && parts[split].Has(tag);
        }
      } while (!is_there);
      const float4 sum = Sum(parts, product.splits);
      Pack<__nv_bfloat16, 4> result;
      result.at[0] = FromFloat<__nv_bfloat16>(sum.x);
      result.at[1] = FromFloat<__nv_bfloat16>(sum.y);
      result.at[2] = FromFloat<__nv_bfloat16>(sum.z);
      result.at[3] = FromFloat<__nv_bfloat16>(sum.w);
      reinterpret_cast<Pack<__nv_bfloat16, 4>*>(problem.out +
                                                token * problem.out_stride)[i % packs] = result;
    }
  }

  // The warpgroups that compute. Each loop over a product stands once in the code: a step's
  // kernels find little of themselves in the instruction caches.
  __device__ __forceinline__ void Compute() const {
    Stamp(0);
    WaitForInputs();
    Stamp(1);
    const GridMeeting meeting(problem.counters, kNextNormDone);
    Place place;
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      const int stage = half == 0 ? kOutput : kDown;
      const FusedProduct& product = problem.products[stage];
      SumParts<kSumColumns>(product, Tag(meeting, stage), place);
      Stamp(2 + half * 5);
      AddAndNorm(product, Tag(meeting, stage), problem.gains[half]);
      Stamp(3 + half * 5);
      Meet(meeting, half == 0 ? kNormDone : kNextNormDone);
      Stamp(4 + half * 5);
      if (half == 1) break;
      Gate(problem.products[kGateUp], place);
      Stamp(5);
      Meet(meeting, kGatedDone);
      Stamp(6);
    }
    const FusedProduct& next = problem.products[kNext];
    if (next.steps == 0) return;
    SumParts<kNextColumns>(next, Tag(meeting, kNext), place);
    Stamp(10);
    RoundSums(next, Tag(meeting, kNext));
    Stamp(11);
  }
};

template <int kTokenGroups, int kGatedColumns>
__global__ void __launch_bounds__(FusedBlock<kTokenGroups, kGatedColumns>::kThreads, 1)
    FusedLayerKernel(const __grid_constant__ FusedProblem problem) {
  extern __shared__ __align__(16) uint8_t bytes[];
  using Block = FusedBlock<kTokenGroups, kGatedColumns>;
  const Block block(problem, bytes);
  LetNextBegin();
  if (threadIdx.x == 0) block.MakeBarriers();
  __syncthreads();
  const int warp = static_cast<int>(threadIdx.x) / 32;
  if (warp == Block::kWorkers / 32) {
    block.StreamWeights();
  } else if (warp > Block::kWorkers / 32) {
    block.StreamInputs();
  } else {
    block.Compute();
  }
}

}  // namespace penstock::cuda
