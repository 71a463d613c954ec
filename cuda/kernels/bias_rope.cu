#include <algorithm>

#include "core/base/kv_block.h"
#include "core/kernels/bias_rope.h"
#include "cuda/kernels/fused_launchers.h"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"
#include "cuda/turn.cuh"

namespace penstock::cuda {
namespace {

constexpr int kMaxHalf = 256;                    // of a head: pairs of elements that turn
constexpr int kPairs = kMaxHalf / 32;            // a lane's at most
constexpr int64_t kMaxUnits = int64_t{1} << 30;  // heads of a launch, each of at most 32 lanes

template <typename T>
struct RopeProblem {
  T* qkv;  // [num_tokens, width]
  int64_t stride;
  int64_t num_tokens;
  const T* bias;    // [width], or nullptr
  const T* q_gain;  // [head_dim], or nullptr
  const T* k_gain;
  float eps;
  const float* table;  // [num_tokens, head_dim]
  int64_t table_stride;
  HeadLayout heads;
  int lanes;      // of a head, a power of two
  int64_t units;  // heads in all, those of padding included
  // The padded form alone.
  const int32_t* row_starts;
  T* padded;  // [num_rows, num_heads, max_q, head_dim]
  int64_t max_q;
};

template <int N, typename T>
__device__ __forceinline__ void LoadFloats(const T* from, float (&to)[N]) {
  constexpr int kAtOnce = N < kWide<T> ? N : kWide<T>;
#pragma unroll
  for (int i = 0; i < N; i += kAtOnce) {
    const auto pack = *reinterpret_cast<const Pack<T, kAtOnce>*>(from + i);
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) to[i + j] = ToFloat(pack.at[j]);
  }
}

template <int N, typename T>
__device__ __forceinline__ void StoreFloats(const float (&from)[N], T* to) {
  Pack<T, N> pack;
#pragma unroll
  for (int j = 0; j < N; ++j) pack.at[j] = FromFloat<T>(from[j]);
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

// What a lane turns its elements of a head by.
template <int N>
struct Angles {
  float cosine[kPairs / N][N];
  float sine[kPairs / N][N];

  template <typename T>
  __device__ __forceinline__ void Load(const RopeProblem<T>& problem, int64_t token, int lane) {
    const int half = static_cast<int>(problem.heads.head_dim / 2);
    const float* row = problem.table + token * problem.table_stride;
#pragma unroll
    for (int p = 0; p < kPairs / N; ++p) {
      const int at = (p * problem.lanes + lane) * N;
      if (at >= half) continue;
      LoadFloats<N>(row + at, cosine[p]);
      LoadFloats<N>(row + half + at, sine[p]);
    }
  }
};

// One head by the lanes of a group: bias, norm, rotation, each element in its lane's registers from
// the one load to the one store. Not `real`: a place of padding. All lanes of the warp take part
// where there is a gain.
template <typename T, int N>
__device__ __forceinline__ void TransformHead(const RopeProblem<T>& problem,
                                              const Angles<N>& angles, bool real, int head,
                                              const T* from, T* to, int lane) {
  constexpr int kPacks = kPairs / N;
  const HeadLayout& heads = problem.heads;
  const int half = static_cast<int>(heads.head_dim / 2);
  const bool is_query = head < heads.num_heads;
  const bool turns = head < heads.num_heads + heads.num_kv_heads;
  float low[kPacks][N] = {};
  float high[kPacks][N] = {};
  float squares = 0;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int at = (p * problem.lanes + lane) * N;
    if (!real || at >= half) continue;
    LoadFloats<N>(from + at, low[p]);
    LoadFloats<N>(from + half + at, high[p]);
    if (problem.bias != nullptr) {
      float shift[N];
      LoadFloats<N>(problem.bias + head * heads.head_dim + at, shift);
#pragma unroll
      for (int j = 0; j < N; ++j) low[p][j] += shift[j];
      LoadFloats<N>(problem.bias + head * heads.head_dim + half + at, shift);
#pragma unroll
      for (int j = 0; j < N; ++j) high[p][j] += shift[j];
    }
#pragma unroll
    for (int j = 0; j < N; ++j) {
      squares += __fmaf_rn(low[p][j], low[p][j], __fmul_rn(high[p][j], high[p][j]));
    }
  }
  if (problem.q_gain != nullptr || problem.k_gain != nullptr) {
    for (int offset = problem.lanes / 2; offset > 0; offset /= 2) {
      squares += __shfl_xor_sync(0xffffffff, squares, offset);
    }
    const T* gain = is_query ? problem.q_gain : problem.k_gain;
    if (turns && gain != nullptr) {
      const float scale = 1.0f / sqrtf(squares / static_cast<float>(2 * half) + problem.eps);
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        const int at = (p * problem.lanes + lane) * N;
        if (at >= half) continue;
        float by[N];
        LoadFloats<N>(gain + at, by);
#pragma unroll
        for (int j = 0; j < N; ++j) low[p][j] *= scale * by[j];
        LoadFloats<N>(gain + half + at, by);
#pragma unroll
        for (int j = 0; j < N; ++j) high[p][j] *= scale * by[j];
      }
    }
  }
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int at = (p * problem.lanes + lane) * N;
    if (at >= half) continue;
    if (real && turns) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
        Turn(low[p][j], high[p][j], angles.cosine[p][j], angles.sine[p][j]);
      }
    }
    StoreFloats<N>(low[p], to + at);
    StoreFloats<N>(high[p], to + half + at);
  }
}

// A group of lanes a head. In place; what has neither bias nor rotation is not touched. Of the
// padded form a place (r, i) has all heads of a token, or zeros for its queries.
template <typename T, int N, bool kPadded>
__global__ void BiasRopeKernel(const __grid_constant__ RopeProblem<T> problem) {
  LetNextBegin();
  WaitForInputs();
  const HeadLayout& heads = problem.heads;
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t unit = thread / problem.lanes;
  const int lane = static_cast<int>(thread % problem.lanes);
  const int64_t num_heads =
      heads.num_heads + heads.num_kv_heads * (problem.bias == nullptr ? 1 : 2);
  const int64_t head = unit % num_heads;
  int64_t token = unit / num_heads;
  bool in = unit < problem.units;
  T* to = nullptr;
  if constexpr (kPadded) {
    const int64_t r = in ? token / problem.max_q : 0;
    const int64_t i = token % problem.max_q;
    const int64_t length = problem.row_starts[r + 1] - problem.row_starts[r];
    DeviceCheck(length <= problem.max_q);
    token = i < length ? problem.row_starts[r] - problem.row_starts[0] + i : -1;
    DeviceCheck(token < problem.num_tokens);
    to = problem.padded + ((r * heads.num_heads + head) * problem.max_q + i) * heads.head_dim;
    if (head >= heads.num_heads) {
      to = nullptr;
      if (token < 0) in = false;
    }
  }
  if (!in) token = -1;
  const T* from = problem.qkv + max(token, int64_t{0}) * problem.stride + head * heads.head_dim;
  if (to == nullptr) to = const_cast<T*>(from);
  // Lanes without a head stay for the norm's shuffles, but own no element.
  const int own = in ? lane : kMaxHalf;
  Angles<N> angles;
  if (token >= 0 && head < heads.num_heads + heads.num_kv_heads) angles.Load(problem, token, own);
  TransformHead<T, N>(problem, angles, token >= 0, static_cast<int>(head), from, to, own);
}

// bias_rope, then concat_kv: a block a token, whose heads take turns in groups of lanes. Queries
// turn in place, keys and values go to the cache alone.
template <typename T, int N>
__global__ void RopeConcatKvKernel(const __grid_constant__ RopeProblem<T> problem,
                                   const int64_t* kv_slots, int64_t num_blocks, T* kv) {
  LetNextBegin();
  WaitForInputs();
  const HeadLayout& heads = problem.heads;
  const int64_t token = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % problem.lanes;
  const int groups = static_cast<int>(blockDim.x) / problem.lanes;
  const int num_queries = static_cast<int>(heads.num_heads);
  const int runs = static_cast<int>(2 * heads.num_kv_heads);  // of a block's positions
  const int64_t slot = kv_slots[token];
  DeviceCheck(slot >= 0 && slot < num_blocks * kBlockSize);
  Angles<N> angles;
  angles.Load(problem, token, lane);
  T* row = problem.qkv + token * problem.stride;
  T* place = kv + (slot / kBlockSize * runs * kBlockSize + slot % kBlockSize) * heads.head_dim;
  for (int base = 0; base < num_queries + runs; base += groups) {
    const int head = base + static_cast<int>(threadIdx.x) / problem.lanes;
    const bool in = head < num_queries + runs;
    T* from = row + (in ? head : 0) * heads.head_dim;
    T* to = from;
    if (head >= num_queries) to = place + (head - num_queries) * kBlockSize * heads.head_dim;
    // Lanes without a head stay for the norm's shuffles, but own no element.
    TransformHead<T, N>(problem, angles, in, head, from, to, in ? lane : kMaxHalf);
  }
}

template <typename T>
const T* Vector(const Tensor& vector, int64_t count) {
  if (vector.empty()) return nullptr;
  PENSTOCK_CHECK_EQ(vector.dim(0), count);
  return Elements<const T>(vector);
}

// Checks the arguments and calls launch(problem, width) for their type and the vectors that `more`
// and they allow.
template <typename Launch>
void WithProblem(const BiasRopeArgs& args, const Tensor& more, const Launch& launch) {
  const HeadLayout& heads = args.heads;
  const int64_t half = heads.head_dim / 2;
  PENSTOCK_CHECK_EQ(args.qkv.dim(1), heads.width());
  PENSTOCK_CHECK_EQ(args.rope_table.dim(0), args.qkv.dim(0));
  PENSTOCK_CHECK_EQ(args.rope_table.dim(1), heads.head_dim);
  PENSTOCK_CHECK_EQ(heads.head_dim % 2, 0);
  PENSTOCK_CHECK_LE(half, kMaxHalf);
  const auto is_wide = [&](const Tensor& tensor) { return tensor.empty() || IsWide(tensor, half); };
  const bool wide = is_wide(args.qkv) && is_wide(args.bias) && is_wide(args.q_gain) &&
                    is_wide(args.k_gain) && is_wide(args.rope_table) && is_wide(more);
  ForElementType(args.qkv.type(), [&](auto element) {
    using T = decltype(element);
    ForWidth<T>(wide, [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      RopeProblem<T> problem = {};
      problem.qkv = Elements<T>(args.qkv);
      problem.stride = args.qkv.stride(0);
      problem.num_tokens = args.qkv.dim(0);
      problem.bias = Vector<T>(args.bias, heads.width());
      problem.q_gain = Vector<T>(args.q_gain, heads.head_dim);
      problem.k_gain = Vector<T>(args.k_gain, heads.head_dim);
      problem.eps = args.eps;
      problem.table = Elements<const float>(args.rope_table);
      problem.table_stride = args.rope_table.stride(0);
      problem.heads = heads;
      problem.lanes = 1;
      while (problem.lanes < 32 && problem.lanes * kWidth < half) problem.lanes *= 2;
      launch(problem, width);
    });
  });
}

// `places`: tokens, those of padding included.
template <bool kPadded>
void Run(cudaStream_t stream, const BiasRopeArgs& args, int64_t places, const int32_t* row_starts,
         const Tensor& padded) {
  WithProblem(args, padded, [&]<typename T>(RopeProblem<T>& problem, auto width) {
    const HeadLayout& heads = args.heads;
    const bool has_values = problem.bias != nullptr;
    problem.units = places * (heads.num_heads + heads.num_kv_heads * (has_values ? 2 : 1));
    PENSTOCK_CHECK_LE(problem.units, kMaxUnits);
    if constexpr (kPadded) {
      problem.row_starts = row_starts;
      problem.padded = Elements<T>(padded);
      problem.max_q = padded.dim(2);
    }
    Launch(stream, {dim3(Blocks(problem.units * problem.lanes, kThreads)), dim3(kThreads)},
           BiasRopeKernel<T, decltype(width)::value, kPadded>, problem);
  });
}

struct Frequencies {
  float at[kMaxHalf];
};

__global__ void RopeTableKernel(const __grid_constant__ Frequencies frequencies, int half,
                                const int32_t* positions, int64_t count, float* table,
                                int64_t stride) {
  LetNextBegin();
  WaitForInputs();
  const int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= count) return;
  const int64_t t = at / half;
  const int64_t i = at % half;
  const float angle = static_cast<float>(positions[t]) * frequencies.at[i];
  float* row = table + t * stride;
  row[i] = cosf(angle);
  row[half + i] = sinf(angle);
}

}  // namespace

void LaunchRopeTable(cudaStream_t stream, std::span<const float> frequencies,
                     const Tensor& positions, const Tensor& table) {
  const auto half = static_cast<int64_t>(frequencies.size());
  PENSTOCK_CHECK_LE(half, kMaxHalf);
  PENSTOCK_CHECK_EQ(table.dim(0), positions.dim(0));
  PENSTOCK_CHECK_EQ(table.dim(1), 2 * half);
  Frequencies values = {};
  std::copy(frequencies.begin(), frequencies.end(), values.at);
  const int64_t count = positions.dim(0) * half;
  Launch(stream, {dim3(Blocks(count, kThreads)), dim3(kThreads)}, RopeTableKernel, values,
         static_cast<int>(half), Elements<const int32_t>(positions), count, Elements<float>(table),
         table.stride(0));
}

void LaunchBiasRope(cudaStream_t stream, const BiasRopeArgs& args) {
  Run<false>(stream, args, args.qkv.dim(0), nullptr, Tensor());
}

void LaunchRopeConcatKv(cudaStream_t stream, const BiasRopeArgs& args, const Tensor& kv_slots,
                        const Tensor& kv) {
  const HeadLayout& heads = args.heads;
  const int64_t tokens = args.qkv.dim(0);
  PENSTOCK_CHECK_EQ(kv_slots.dim(0), tokens);
  PENSTOCK_CHECK(kv.shape() ==
                 Shape({kv.dim(0), 2, heads.num_kv_heads, kBlockSize, heads.head_dim}));
  PENSTOCK_CHECK(kv.is_contiguous());
  WithProblem(args, kv, [&]<typename T>(const RopeProblem<T>& problem, auto width) {
    const int64_t threads = (heads.num_heads + 2 * heads.num_kv_heads) * problem.lanes;
    Launch(stream,
           {dim3(Blocks(tokens)),
            dim3(static_cast<unsigned>(std::min<int64_t>((threads + 31) / 32 * 32, kThreads)))},
           RopeConcatKvKernel<T, decltype(width)::value>, problem,
           Elements<const int64_t>(kv_slots), kv.dim(0), Elements<T>(kv));
  });
}

void LaunchBiasRopePadded(cudaStream_t stream, const BiasRopeArgs& args, const Tensor& row_starts,
                          const Tensor& queries) {
  const HeadLayout& heads = args.heads;
  const int64_t rows = queries.dim(0);
  const int64_t max_q = queries.dim(2);
  PENSTOCK_CHECK(queries.shape() == Shape({rows, heads.num_heads, max_q, heads.head_dim}));
  PENSTOCK_CHECK(queries.is_contiguous());
  PENSTOCK_CHECK_EQ(row_starts.dim(0), rows + 1);
  Run<true>(stream, args, rows * max_q, Elements<const int32_t>(row_starts), queries);
}

}  // namespace penstock::cuda
