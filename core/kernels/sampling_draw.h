// The draw of sampling.h, steps 5 to 9, on one row whose logits have passed the steps before.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "core/kernels/sampling.h"

namespace penstock::cpu {

// What top_k, top_p and min_p keep is always all at or above one place in the order, best first,
// the lower id first among equals.
struct SamplingBar {
  float value = std::numeric_limits<float>::lowest();  // all but what is masked
  int32_t id = std::numeric_limits<int32_t>::max();    // the last one kept among equals

  bool Keeps(float logit, int32_t token) const {
    return logit > value || (logit == value && token <= id);
  }
};

// One row's race: score + g(id) over what the bar keeps.
struct SamplingRace {
  std::span<const float> logits;
  float top = 0;  // the largest
  float temperature = 1;
  SamplingBar bar;
  uint64_t seed = 0;
  int64_t position = 0;
  int32_t choice = 0;

  // In float64, as the contract says.
  double Score(int32_t id) const {
    return (static_cast<double>(logits[static_cast<size_t>(id)]) - top) / temperature;
  }
};

// REQUIRES: temperature > 0; `top` is the largest logit, and finite.
int32_t DrawToken(std::span<const float> logits, float top, const SamplingRow& row);

inline constexpr int64_t kRaceBlock = 2048;

// exp(score) of the tokens [first, first + count), in float32; 0 for masked ones.
void RaceWeights(const SamplingRace& race, int64_t first, int64_t count, std::span<float> weights);

// The ids in [first, first + count) that can win the race or beat `best`: float32 totals find them,
// with a margin far above their error. Returns how many; count <= kRaceBlock.
int64_t RaceCandidates(const SamplingRace& race, int64_t first, int64_t count, double best,
                       std::span<int32_t> candidates);

}  // namespace penstock::cpu
