// The best tokens of a row of logits, by a team of blocks and without sorting the row: what top_k,
// top_p and the likeliest tokens need (core/kernels/sampling.h, steps 5 to 7). The order is the
// keys' of ranked_row.cuh. What cannot be had from a sorted list of kListTokens is found as a bar
// in the order, digit by digit of the keys. Weights are whole numbers and sums of them exact, so
// neither the order of threads nor that of atomics shows.
#pragma once

#include <cfloat>
#include <cstdint>

#include "cuda/row_team.cuh"

namespace penstock::cuda {

constexpr int kSamplingThreads = kTeamThreads;
constexpr int kListTokens = 2048;
constexpr int kBins = 512;
constexpr float kBinsPerNat = 16;

// A row as the distribution sees it.
struct Scores {
  const float* logits;
  int64_t vocab;
  float top;  // the largest
  float temperature;

  // Of a better logit never a higher one.
  __device__ int BinOf(float logit) const {
    const float below = (top - logit) / temperature * kBinsPerNat;
    return below < static_cast<float>(kBins - 1) ? static_cast<int>(below) : kBins - 1;
  }
  __device__ double Score(float logit) const {
    return (static_cast<double>(logit) - static_cast<double>(top)) /
           static_cast<double>(temperature);
  }
  // exp(score), up to float32's rounding.
  __device__ float Weight(float logit) const { return expf((logit - top) / temperature); }
};

// Below it is only what is masked.
__device__ __forceinline__ uint64_t LowestKey() { return uint64_t{Ordered(-FLT_MAX)} << 32; }

// A sum of weights in three words, each a 32-bit atomic, which shared memory adds faster than one
// of 64 bits. A weight's word has so few bits that the vocabulary's sum fits.
constexpr int kWords = 3;

struct BestTokensShared {
  uint64_t keys[kListTokens];
  unsigned sums[kWords + 1][kBins];  // the last: counts
  unsigned found;
  int chosen;
  uint64_t before;

  __device__ unsigned& count(int bin) { return sums[kWords][bin]; }
};

__device__ __forceinline__ int WordBits(int64_t vocab) {
  int bits = 14;
  while (vocab >> (32 - bits) > 0) --bits;
  return bits;
}

__device__ __forceinline__ void AddWeight(BestTokensShared& shared, int place, uint64_t weight,
                                          int word_bits) {
  const uint64_t mask = (uint64_t{1} << word_bits) - 1;
#pragma unroll
  for (int word = 0; word < kWords; ++word) {
    const auto part = static_cast<unsigned>(weight >> (word * word_bits) & mask);
    if (part != 0) atomicAdd(&shared.sums[word][place], part);
  }
}

__device__ __forceinline__ uint64_t SumAt(const BestTokensShared& shared, int place,
                                          int word_bits) {
  uint64_t sum = 0;
#pragma unroll
  for (int word = 0; word < kWords; ++word) {
    sum += static_cast<uint64_t>(shared.sums[word][place]) << (word * word_bits);
  }
  return sum;
}

// Where the running sum of value(0), value(1), ... first reaches `target`: its place, and the sum
// before it. REQUIRES: the sum of all does; size a multiple of 32; all threads take part.
template <typename Value>
__device__ void PickPlace(const Value& value, int size, uint64_t target, BestTokensShared& shared) {
  __syncthreads();
  if (threadIdx.x < 32) {
    const int each = size / 32;
    const int first = static_cast<int>(threadIdx.x) * each;
    uint64_t sum = 0;
    for (int i = 0; i < each; ++i) sum += value(first + i);
    uint64_t through = sum;
    for (int offset = 1; offset < 32; offset *= 2) {
      const uint64_t other = __shfl_up_sync(0xffffffff, through, offset);
      if (static_cast<int>(threadIdx.x) >= offset) through += other;
    }
    const unsigned reached = __ballot_sync(0xffffffff, through >= target);
    if (static_cast<int>(threadIdx.x) == __ffs(static_cast<int>(reached)) - 1) {
      uint64_t before = through - sum;
      int place = first;
      while (before + value(place) < target) before += value(place++);
      shared.chosen = place;
      shared.before = before;
    }
  }
  __syncthreads();
}

// How many unmasked tokens each bin has; their number is returned.
template <typename Team>
__device__ uint64_t CountBins(Team& team, const Scores& scores, BestTokensShared& shared) {
  __syncthreads();
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kSamplingThreads) {
    shared.count(bin) = 0;
  }
  __syncthreads();
  team.ForEach(scores.logits, scores.vocab, [&](int64_t, float logit, int) {
    if (logit >= -FLT_MAX) atomicAdd(&shared.count(scores.BinOf(logit)), 1u);
  });
  team.template AddCounts<kBins>(&shared.count(0));
  const uint64_t count = threadIdx.x < kBins ? shared.count(static_cast<int>(threadIdx.x)) : 0;
  return BlockCombine<uint64_t>(count, 0, [](uint64_t a, uint64_t b) { return a + b; });
}

// The tokens that `keeps(logit, key)` into the list, best first; how many these are.
// REQUIRES: no more than kListTokens.
template <typename Team, typename Keeps>
__device__ int Collect(Team& team, const Scores& scores, BestTokensShared& shared,
                       const Keeps& keeps) {
  __syncthreads();
  if (threadIdx.x == 0) shared.found = 0;
  __syncthreads();
  team.ForEach(scores.logits, scores.vocab, [&](int64_t i, float logit, int) {
    const uint64_t key = Key(Ordered(logit), static_cast<int32_t>(i));
    if (logit >= -FLT_MAX && keeps(logit, key)) shared.keys[atomicAdd(&shared.found, 1u)] = key;
  });
  const int found = team.template Gather<kListTokens>(shared.keys, &shared.found);
  SortLargestFirst(SharedKeys{shared.keys}, found);
  return found;
}

// How many of the list's first weights together reach wanted(sum of all); 0 if they do not.
// weight(logit) is of type T. REQUIRES: count <= kListTokens.
template <typename T, typename Weight, typename Wanted>
__device__ int ListPrefix(int count, const Weight& weight, const Wanted& wanted_of,
                          BestTokensShared& shared) {
  __shared__ T of_warp[32];
  __shared__ int size;
  constexpr int kEach = kListTokens / kSamplingThreads;
  const int first = static_cast<int>(threadIdx.x) * kEach;
  T weights[kEach];
  T sum = 0;
  for (int i = 0; i < kEach; ++i) {
    weights[i] = 0;
    if (first + i < count) {
      weights[i] = weight(Unordered(static_cast<uint32_t>(shared.keys[first + i] >> 32)));
    }
    sum += weights[i];
  }
  // Sums of all before, over the warp and then the warps.
  const unsigned lane = threadIdx.x % 32;
  const unsigned warp = threadIdx.x / 32;
  T through = sum;
  for (int offset = 1; offset < 32; offset *= 2) {
    const T other = __shfl_up_sync(0xffffffff, through, offset);
    if (static_cast<int>(lane) >= offset) through += other;
  }
  __syncthreads();
  if (lane == 31) of_warp[warp] = through;
  if (threadIdx.x == 0) size = INT32_MAX;
  __syncthreads();
  T before = 0;
  T total = 0;
  for (unsigned w = 0; w < kSamplingThreads / 32; ++w) {
    if (w < warp) before += of_warp[w];
    total += of_warp[w];
  }
  const T wanted = wanted_of(total);
  T running = before + (through - sum);
  for (int i = 0; i < kEach && first + i < count; ++i) {
    running += weights[i];
    if (running >= wanted) {
      atomicMin(&size, first + i + 1);
      break;
    }
  }
  __syncthreads();
  return size <= count ? size : 0;
}

// The key of the last token that is kept, where tokens are kept best first, from `bar` on, until
// their weights reach wanted(sum of all); `bar` if they never do. weight(logit) is a whole number
// of at most kWords words. The bin first, in which few tokens are as a rule, so that a sorted list
// has them; else the eight digits of the key, each by a reading of the row.
template <typename Team, typename Weight, typename Wanted>
__device__ uint64_t FindBar(Team& team, const Scores& scores, uint64_t bar, const Weight& weight,
                            const Wanted& wanted_of, BestTokensShared& shared) {
  const int word_bits = WordBits(scores.vocab);
  const auto clear = [&](int size) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < size; i += kSamplingThreads) {
      for (int word = 0; word <= kWords; ++word) shared.sums[word][i] = 0;
    }
    __syncthreads();
  };
  const auto sum_at = [&](int place) { return SumAt(shared, place, word_bits); };

  clear(kBins);
  team.ForEach(scores.logits, scores.vocab, [&](int64_t i, float logit, int) {
    if (Key(Ordered(logit), static_cast<int32_t>(i)) < bar) return;
    const int bin = scores.BinOf(logit);
    AddWeight(shared, bin, weight(logit), word_bits);
    atomicAdd(&shared.count(bin), 1u);
  });
  team.template AddCounts<(kWords + 1) * kBins>(&shared.sums[0][0]);
  uint64_t sum = threadIdx.x < kBins ? sum_at(static_cast<int>(threadIdx.x)) : 0;
  sum = BlockCombine<uint64_t>(sum, 0, [](uint64_t a, uint64_t b) { return a + b; });
  uint64_t target = wanted_of(sum);
  if (target > sum) return bar;
  PickPlace(sum_at, kBins, target, shared);
  target -= shared.before;
  const int in_bin = shared.chosen;
  if (shared.count(in_bin) <= kListTokens) {
    const int count = Collect(team, scores, shared, [&](float logit, uint64_t key) {
      return key >= bar && scores.BinOf(logit) == in_bin;
    });
    const int kept = ListPrefix<uint64_t>(
        count, weight, [&](uint64_t) { return target; }, shared);
    return shared.keys[kept - 1];
  }
  uint64_t prefix = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    clear(256);
    team.ForEach(scores.logits, scores.vocab, [&](int64_t i, float logit, int) {
      const uint64_t key = Key(Ordered(logit), static_cast<int32_t>(i));
      if (key < bar || scores.BinOf(logit) != in_bin) return;
      if (shift < 56 && key >> (shift + 8) != prefix) return;
      const int digit = 255 - static_cast<int>(key >> shift & 0xff);  // the best first
      AddWeight(shared, digit, weight(logit), word_bits);
    });
    team.template AddCounts<kWords * kBins>(&shared.sums[0][0]);
    PickPlace(sum_at, 256, target, shared);
    target -= shared.before;
    prefix = prefix << 8 | static_cast<uint64_t>(255 - shared.chosen);
  }
  return prefix;
}

// The bar of exactly the `count` best; LowestKey() if there are no more than these.
template <typename Team>
__device__ uint64_t BarOfCount(Team& team, const Scores& scores, uint64_t count,
                               BestTokensShared& shared) {
  return FindBar(
      team, scores, LowestKey(), [](float) { return uint64_t{1}; }, [&](uint64_t) { return count; },
      shared);
}

// The bar of top_p of the mass from `bar` on.
template <typename Team>
__device__ uint64_t BarOfMass(Team& team, const Scores& scores, uint64_t bar, float top_p,
                              BestTokensShared& shared) {
  const float unit = exp2f(static_cast<float>(kWords * WordBits(scores.vocab) - 1));
  return FindBar(
      team, scores, bar, [&](float logit) { return __float2ull_rn(scores.Weight(logit) * unit); },
      [&](uint64_t sum) {
        const auto wanted =
            static_cast<uint64_t>(ceil(static_cast<double>(top_p) * static_cast<double>(sum)));
        return wanted < 1 ? uint64_t{1} : wanted;
      },
      shared);
}

// The list of the `count` best; how many it has, fewer only if there are no more.
// REQUIRES: 0 < count <= kListTokens.
template <typename Team>
__device__ int ListOfCount(Team& team, const Scores& scores, int count, BestTokensShared& shared) {
  const uint64_t all = CountBins(team, scores, shared);
  const uint64_t wanted = min(static_cast<uint64_t>(count), all);
  if (wanted == 0) return 0;
  const auto counts = [&](int bin) { return uint64_t{shared.count(bin)}; };
  PickPlace(counts, kBins, wanted, shared);
  const int last = shared.chosen;
  if (shared.before + shared.count(last) <= kListTokens) {
    const int found = Collect(team, scores, shared,
                              [&](float logit, uint64_t) { return scores.BinOf(logit) <= last; });
    return min(found, count);
  }
  const uint64_t bar = BarOfCount(team, scores, wanted, shared);
  return Collect(team, scores, shared, [&](float, uint64_t key) { return key >= bar; });
}

// As many of the best as whole bins fit into the list; how many. 0: not even the first bin.
template <typename Team>
__device__ int ListOfMost(Team& team, const Scores& scores, BestTokensShared& shared) {
  const uint64_t all = CountBins(team, scores, shared);
  const auto counts = [&](int bin) { return uint64_t{shared.count(bin)}; };
  int end = kBins;  // bins in the list
  if (all > kListTokens) {
    PickPlace(counts, kBins, kListTokens + 1, shared);
    end = shared.chosen;
  }
  return Collect(team, scores, shared,
                 [&](float logit, uint64_t) { return scores.BinOf(logit) < end; });
}

// sum_i exp((logit - top) / temperature): float32 a thread and part, then float64.
template <typename Team>
__device__ double SumExpOfRow(Team& team, const Scores& scores) {
  float sums[Team::kOwnParts] = {};
  team.ForEach(scores.logits, scores.vocab, [&](int64_t, float logit, int part) {
#pragma unroll
    for (int own = 0; own < Team::kOwnParts; ++own) {
      if (own == part) sums[own] += scores.Weight(logit);  // `part` is a constant of the loop
    }
  });
  return team.AddParts(sums);
}

// How many of the list reach top_p of `mass` (negative: of the list's own, all if rounding keeps
// the sum below); 0 if they do not reach it. REQUIRES: count <= kListTokens.
__device__ inline int NucleusSize(const Scores& scores, int count, double mass, float top_p,
                                  BestTokensShared& shared) {
  const int size = ListPrefix<double>(
      count, [&](float logit) { return exp(scores.Score(logit)); },
      [&](double total) { return static_cast<double>(top_p) * (mass < 0 ? total : mass); }, shared);
  return size == 0 && mass < 0 ? count : size;
}

}  // namespace penstock::cuda
