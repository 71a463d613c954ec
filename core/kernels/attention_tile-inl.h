// The one inner loop of both attention kernels, compiled once for each instruction set: a query
// head meets a tile of at most 64 keys and values. See attention_args.h for the order of sums.
#if defined(PENSTOCK_ATTENTION_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PENSTOCK_ATTENTION_TILE_INL_H_
#undef PENSTOCK_ATTENTION_TILE_INL_H_
#else
#define PENSTOCK_ATTENTION_TILE_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <limits>

#include "core/kernels/attention_args.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace penstock::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr int64_t kTileTokens = kAttentionTile;

// What one query head has seen so far: out = sum_j exp(score_j - top) V_j, total = sum_j exp(...).
struct OnlineSoftmax {
  float top = -std::numeric_limits<float>::infinity();
  float total = 0;
};

// The positions of a tile that a query sees: `count` from place `first` on; none if count <= 0.
struct TileRange {
  int64_t first;
  int64_t count;
};

HWY_INLINE TileRange SeenOf(const AttentionArgs& args, int64_t position, int64_t tile) {
  const int64_t begin = tile * kTileTokens;
  const int64_t first = std::max<int64_t>(args.FirstSeen(position) - begin, 0);
  return {first, std::min(position + 1 - begin, kTileTokens) - first};
}

HWY_INLINE float Dot(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b, int64_t count) {
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto sum = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    sum = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum);
  }
  float result = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < count; ++i) result += a[i] * b[i];
  return result;
}

// out = out * scale, then out += sum_j weights[j] * values[j], for head_dim elements. The elements
// of a vector stay in its register through the whole tile.
HWY_INLINE void WeightedSum(const float* HWY_RESTRICT weights, const float* HWY_RESTRICT values,
                            int64_t count, int64_t head_dim, float scale, float* HWY_RESTRICT out) {
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= head_dim; i += lanes) {
    auto sum = hn::Mul(hn::LoadU(d, out + i), hn::Set(d, scale));
    for (int64_t j = 0; j < count; ++j) {
      sum = hn::MulAdd(hn::Set(d, weights[j]), hn::LoadU(d, values + j * head_dim + i), sum);
    }
    hn::StoreU(sum, d, out + i);
  }
  for (; i < head_dim; ++i) {
    float sum = out[i] * scale;
    for (int64_t j = 0; j < count; ++j) sum += weights[j] * values[j * head_dim + i];
    out[i] = sum;
  }
}

// q [head_dim], already scaled; keys, values [count, head_dim], the seen part of a tile.
HWY_INLINE void AttendTile(const float* q, const float* keys, const float* values, int64_t count,
                           int64_t head_dim, OnlineSoftmax& state, float* out) {
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  HWY_ALIGN float weights[kTileTokens];
  for (int64_t j = 0; j < count; ++j) weights[j] = Dot(q, keys + j * head_dim, head_dim);
  const float tile_top = *std::max_element(weights, weights + count);
  const float top = std::max(state.top, tile_top);
  std::fill(weights + count, weights + kTileTokens, 0.0f);
  auto sum = hn::Zero(d);
  auto poison = hn::Zero(d);  // NaN if a score is not finite: Exp would hide it
  for (int64_t j = 0; j < kTileTokens; j += lanes) {
    const auto score = hn::Load(d, weights + j);
    const auto valid = hn::FirstN(d, static_cast<size_t>(std::max<int64_t>(count - j, 0)));
    const auto weight = hn::IfThenElseZero(valid, hn::Exp(d, hn::Sub(score, hn::Set(d, top))));
    hn::Store(weight, d, weights + j);
    sum = hn::Add(sum, weight);
    poison = hn::MulAdd(score, hn::Zero(d), poison);
  }
  const hn::CappedTag<float, 1> one;
  const float rescale = hn::GetLane(hn::Exp(one, hn::Set(one, state.top - top)));
  sum = hn::Add(sum, poison);
  state.total = state.total * rescale + hn::GetLane(hn::SumOfLanes(d, sum));
  state.top = top;
  WeightedSum(weights, values, count, head_dim, rescale, out);
}

}  // namespace penstock::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
