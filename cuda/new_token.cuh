// What decode's kernels make of the product's rows before anything else: queries and the new
// token's key are turned by their position where bias_rope has not done that, and the new key and
// value go into the cache. The bits are bias_rope's
// (DecoderAttention.TurnsQueriesAndKeysAsBiasRopeDoes).
#pragma once

#include "cuda/paged_attention.cuh"
#include "cuda/tensor_core.cuh"
#include "cuda/turn.cuh"

namespace penstock::cuda {

// The two elements that one register holds (PackTwo).
template <typename T>
__device__ __forceinline__ float2 UnpackTwo(uint32_t two) {
  const auto pack = *reinterpret_cast<const Pack<T, 2>*>(&two);
  return {ToFloat(pack.at[0]), ToFloat(pack.at[1])};
}

// Queries as the tensor cores take them: a lane has elements of both halves of a head, which turn
// together. kRows query heads a register of the head dim's eight. angles: [D], cosines then sines.
template <typename T, int D, int kRows>
__device__ __forceinline__ void TurnQueries(uint32_t (&queries)[D / 16][2 * kRows],
                                            const float* angles) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int k = 0; k < D / 32; ++k) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = k * 16 + lane % 4 * 2 + half * 8;
      const float2 cosine = *reinterpret_cast<const float2*>(angles + at);
      const float2 sine = *reinterpret_cast<const float2*>(angles + D / 2 + at);
#pragma unroll
      for (int i = half * kRows; i < (half + 1) * kRows; ++i) {
        auto& first = queries[k][i];
        auto& second = queries[k + D / 32][i];
        float2 a = UnpackTwo<T>(first);
        float2 b = UnpackTwo<T>(second);
        Turn(a.x, b.x, cosine.x, sine.x);
        Turn(a.y, b.y, cosine.y, sine.y);
        first = PackTwo<T>(a.x, a.y);
        second = PackTwo<T>(b.x, b.y);
      }
    }
  }
}

// 16-byte packs of a head.
template <int D>
inline constexpr int kHeadPacks = D * 2 / 16;

// Stores a row's new key and value at that position of the cache, and returns this lane's pack: of
// the key, of the lanes behind these the value's. With angles the key is turned.
// REQUIRES: lanes of one warp; those from 2 * kHeadPacks on do nothing.
template <typename T, int D>
__device__ __forceinline__ uint4 StoreNewToken(const PagedAttention<T>& paged, int row, int kv_head,
                                               int position, const float* angles, int lane) {
  constexpr int kPacks = kHeadPacks<D>;
  static_assert(2 * kPacks <= 32);
  if (lane >= 2 * kPacks) return {};
  const bool is_key = lane < kPacks;
  const int head = is_key ? kv_head : paged.num_kv_heads + kv_head;
  const int at = lane % kPacks;
  const auto* from = reinterpret_cast<const uint4*>(paged.NewKey(row, head));
  uint4 pack = from[at];
  if (is_key && angles != nullptr) {
    constexpr int kHalf = kPacks / 2;
    const bool is_low = at < kHalf;
    const uint4 other = from[is_low ? at + kHalf : at - kHalf];
    const float* own = angles + at % kHalf * 8;
    const uint32_t mine[4] = {pack.x, pack.y, pack.z, pack.w};
    const uint32_t others[4] = {other.x, other.y, other.z, other.w};
    uint32_t turned[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 cosine = *reinterpret_cast<const float2*>(own + i * 2);
      const float2 sine = *reinterpret_cast<const float2*>(own + D / 2 + i * 2);
      float2 low = UnpackTwo<T>(is_low ? mine[i] : others[i]);
      float2 high = UnpackTwo<T>(is_low ? others[i] : mine[i]);
      Turn(low.x, high.x, cosine.x, sine.x);
      Turn(low.y, high.y, cosine.y, sine.y);
      turned[i] = is_low ? PackTwo<T>(low.x, low.y) : PackTwo<T>(high.x, high.y);
    }
    pack = {turned[0], turned[1], turned[2], turned[3]};
  }
  T* to = paged.Keys(paged.Block(row, position / kPage), head) + position % kPage * D;
  reinterpret_cast<uint4*>(to)[at] = pack;
  return pack;
}

}  // namespace penstock::cuda
