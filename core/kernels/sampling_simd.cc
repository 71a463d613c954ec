// The vector parts of sampling, compiled once for each instruction set by Highway.
#include <algorithm>
#include <array>
#include <cmath>

#include "core/base/philox.h"
#include "core/kernels/sampling.h"
#include "core/kernels/sampling_draw.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/kernels/sampling_simd.cc"
#include "hwy/foreach_target.h"
// After foreach_target:
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace penstock::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

RowScan Scan(const float* row, int64_t count) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto largest = hn::Set(d, row[0]);
  auto broken = hn::Zero(d);  // x - x is 0 but for NaN and infinities, and NaN spreads
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto x = hn::LoadU(d, row + i);
    largest = hn::Max(largest, x);
    broken = hn::Add(broken, hn::Sub(x, x));
  }
  RowScan scan{hn::GetLane(hn::MaxOfLanes(d, largest)),
               !std::isnan(hn::GetLane(hn::SumOfLanes(d, broken)))};
  for (; i < count; ++i) {
    scan.largest = std::max(scan.largest, row[i]);
    scan.finite = scan.finite && std::isfinite(row[i]);
  }
  return scan;
}

// Partial sums of 4096 elements in float32, added up in float64: rows of a large vocabulary keep
// the precision of their terms.
double SumExpOf(const float* row, int64_t count, float top, float temperature) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto largest = hn::Set(d, top);
  const auto divisor = hn::Set(d, temperature);
  double total = 0;
  int64_t i = 0;
  while (i + lanes <= count) {
    auto sum = hn::Zero(d);
    for (const int64_t stop = i + 4096; i + lanes <= count && i < stop; i += lanes) {
      const auto score = hn::Div(hn::Sub(hn::LoadU(d, row + i), largest), divisor);
      sum = hn::Add(sum, hn::Exp(d, score));
    }
    total += hn::GetLane(hn::SumOfLanes(d, sum));
  }
  for (; i < count; ++i) {
    total += std::exp((static_cast<double>(row[i]) - top) / static_cast<double>(temperature));
  }
  return total;
}

void Weights(const SamplingRace& race, int64_t first, int64_t count, float* weights) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const float* logits = race.logits.data() + first;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto distance = hn::Sub(hn::LoadU(d, logits + i), hn::Set(d, race.top));
    hn::StoreU(hn::Exp(d, hn::Div(distance, hn::Set(d, race.temperature))), d, weights + i);
  }
  for (; i < count; ++i) {
    weights[i] = static_cast<float>(std::exp(race.Score(static_cast<int32_t>(first + i))));
  }
}

#if HWY_TARGET != HWY_SCALAR
// Word 0 of Philox (philox.h) for a vector of counters {id, c1, c2, c3}.
template <class D, class V>
V PhiloxWord(D d, V id, uint32_t c1, uint32_t c2, uint32_t c3, uint64_t key) {
  const hn::Repartition<uint64_t, D> d64;
  // The high and the low halves of the products of all lanes with `factor`.
  const auto multiply = [&](V x, V factor, V* high, V* low) {
    const auto even = hn::MulEven(x, factor);
    const auto odd = hn::MulEven(hn::BitCast(d, hn::ShiftRight<32>(hn::BitCast(d64, x))), factor);
    *high = hn::OddEven(hn::BitCast(d, odd), hn::BitCast(d, hn::ShiftRight<32>(even)));
    *low = hn::OddEven(hn::BitCast(d, hn::ShiftLeft<32>(odd)), hn::BitCast(d, even));
  };
  V x0 = id;
  V x1 = hn::Set(d, c1);
  V x2 = hn::Set(d, c2);
  V x3 = hn::Set(d, c3);
  auto key_low = static_cast<uint32_t>(key);
  auto key_high = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    V a_high;
    V a_low;
    V b_high;
    V b_low;
    multiply(x0, hn::Set(d, 0xD2511F53u), &a_high, &a_low);
    multiply(x2, hn::Set(d, 0xCD9E8D57u), &b_high, &b_low);
    x0 = hn::Xor(hn::Xor(b_high, x1), hn::Set(d, key_low));
    x2 = hn::Xor(hn::Xor(a_high, x3), hn::Set(d, key_high));
    x1 = b_low;
    x3 = a_low;
    key_low += 0x9E3779B9;
    key_high += 0xBB67AE85;
  }
  return x0;
}

#endif  // HWY_TARGET != HWY_SCALAR

// The totals of the race in float32, relative to the best logit; -infinity for what the bar does
// not keep. They part from the exact ones by less than 1e-4.
void RaceTotals(const SamplingRace& race, int64_t first, int64_t count, float* totals) {
  const auto position = static_cast<uint64_t>(race.position);
  int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::ScalableTag<float> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const hn::RebindToSigned<decltype(d)> di;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto bar = hn::Set(d, race.bar.value);
  const auto bar_id = hn::Set(di, race.bar.id);
  const auto none = hn::Set(d, -INFINITY);
  for (; i + lanes <= count; i += lanes) {
    const auto logit = hn::LoadU(d, race.logits.data() + first + i);
    const auto id = hn::Iota(di, static_cast<int32_t>(first + i));
    const auto equals = hn::AndNot(hn::RebindMask(d, hn::Gt(id, bar_id)), hn::Eq(logit, bar));
    const auto keeps = hn::Or(hn::Gt(logit, bar), equals);
    const auto word = PhiloxWord(du, hn::BitCast(du, id), static_cast<uint32_t>(position),
                                 static_cast<uint32_t>(position >> 32),
                                 static_cast<uint32_t>(race.choice), race.seed);
    const auto part = hn::ConvertTo(d, hn::BitCast(di, hn::ShiftRight<9>(word)));
    const auto u = hn::Mul(hn::Add(part, hn::Set(d, 0.5f)), hn::Set(d, 0x1p-23f));
    const auto gumbel = hn::Neg(hn::Log(d, hn::Neg(hn::Log(d, u))));
    const auto score = hn::Div(hn::Sub(logit, hn::Set(d, race.top)), hn::Set(d, race.temperature));
    hn::StoreU(hn::IfThenElse(keeps, hn::Add(score, gumbel), none), d, totals + i);
  }
#endif
  for (; i < count; ++i) {
    const auto id = static_cast<int32_t>(first + i);
    totals[i] = -INFINITY;
    if (!race.bar.Keeps(race.logits[static_cast<size_t>(id)], id)) continue;
    const PhiloxWords words =
        Philox({static_cast<uint32_t>(id), static_cast<uint32_t>(position),
                static_cast<uint32_t>(position >> 32), static_cast<uint32_t>(race.choice)},
               race.seed);
    totals[i] = static_cast<float>(race.Score(id) + Gumbel(words[0]));
  }
}

}  // namespace penstock::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace penstock::cpu {

HWY_EXPORT(Scan);
HWY_EXPORT(SumExpOf);
HWY_EXPORT(RaceTotals);
HWY_EXPORT(Weights);

RowScan ScanRow(std::span<const float> row) {
  return HWY_DYNAMIC_DISPATCH(Scan)(row.data(), static_cast<int64_t>(row.size()));
}

double SumExp(std::span<const float> row, float top, float temperature) {
  return HWY_DYNAMIC_DISPATCH(SumExpOf)(row.data(), static_cast<int64_t>(row.size()), top,
                                        temperature);
}

void RaceWeights(const SamplingRace& race, int64_t first, int64_t count, std::span<float> weights) {
  HWY_DYNAMIC_DISPATCH(Weights)(race, first, count, weights.data());
}

int64_t RaceCandidates(const SamplingRace& race, int64_t first, int64_t count, double best,
                       std::span<int32_t> candidates) {
  constexpr float kMargin = 1e-2f;
  std::array<float, kRaceBlock> totals;
  HWY_DYNAMIC_DISPATCH(RaceTotals)(race, first, count, totals.data());
  const auto end = totals.begin() + count;
  const float bar =
      std::max(static_cast<float>(best), *std::max_element(totals.begin(), end)) - kMargin;
  int64_t found = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (totals[static_cast<size_t>(i)] < bar) continue;
    candidates[static_cast<size_t>(found++)] = static_cast<int32_t>(first + i);
  }
  return found;
}

}  // namespace penstock::cpu
#endif  // HWY_ONCE
