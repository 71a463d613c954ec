#include "core/kernels/sampling_draw.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "core/base/philox.h"
#include "core/kernels/top_k.h"

namespace penstock::cpu {
namespace {

constexpr int64_t kFewTokens = 64;  // as many as a nucleus has as a rule
constexpr int64_t kMoreTokens = 1024;

// Step 9; ids may come in any order.
class Winner {
 public:
  explicit Winner(const SamplingRace& race) : race_(race) {}

  void Enter(int32_t id) {
    if (!race_.bar.Keeps(race_.logits[static_cast<size_t>(id)], id)) return;
    const double score = race_.Score(id);
    // Not even the largest variate could win: no need to draw it.
    if (score + kGumbelMax < best_) return;
    const double total = score + GumbelOf(id);
    if (total > best_ || (total == best_ && id < token_)) {
      best_ = total;
      token_ = id;
    }
  }
  int32_t token() const { return token_; }
  double best() const { return best_; }

 private:
  double GumbelOf(int32_t id) const {
    const auto position = static_cast<uint64_t>(race_.position);
    return Gumbel(
        Philox({static_cast<uint32_t>(id), static_cast<uint32_t>(position),
                static_cast<uint32_t>(position >> 32), static_cast<uint32_t>(race_.choice)},
               race_.seed)[0]);
  }

  const SamplingRace& race_;
  double best_ = -std::numeric_limits<double>::infinity();
  int32_t token_ = std::numeric_limits<int32_t>::max();
};

int32_t RaceOf(const SamplingRace& race, std::span<const int32_t> ids) {
  Winner winner(race);
  for (int32_t id : ids) winner.Enter(id);
  return winner.token();
}

int32_t RaceOfAll(const SamplingRace& race) {
  Winner winner(race);
  std::array<int32_t, kRaceBlock> candidates{};
  const auto vocab = static_cast<int64_t>(race.logits.size());
  for (int64_t first = 0; first < vocab; first += kRaceBlock) {
    const int64_t count =
        RaceCandidates(race, first, std::min(kRaceBlock, vocab - first), winner.best(), candidates);
    for (int64_t i = 0; i < count; ++i) winner.Enter(candidates[static_cast<size_t>(i)]);
  }
  return winner.token();
}

// How many of `order` (best first) reach top_p of `mass`; none if they do not reach it.
int64_t NucleusSize(const SamplingRace& race, std::span<const int32_t> order, double mass,
                    double top_p) {
  double sum = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    sum += std::exp(race.Score(order[i]));
    if (sum >= top_p * mass) return static_cast<int64_t>(i) + 1;
  }
  return 0;
}

// The bar of the `limit` best and of the nucleus of these, where they are too many to sort: the
// scores are counted and their mass is summed up in bins, and only in the bin that a cut falls in
// the tokens are looked at one by one.
class BarSelection {
 public:
  explicit BarSelection(const SamplingRace& race) : race_(race) {
    std::array<float, kRaceBlock> weights{};
    const auto vocab = static_cast<int64_t>(race.logits.size());
    for (int64_t first = 0; first < vocab; first += kRaceBlock) {
      const int64_t count = std::min(kRaceBlock, vocab - first);
      RaceWeights(race, first, count, weights);
      for (int64_t i = 0; i < count; ++i) {
        const size_t bin = BinOf(race.logits[static_cast<size_t>(first + i)]);
        ++counts_[bin];
        masses_[bin] += weights[static_cast<size_t>(i)];
      }
    }
  }

  SamplingBar Run(int64_t limit, double top_p) {
    size_t end = kBins;  // the bins that are kept so far
    if (limit < static_cast<int64_t>(race_.logits.size())) {
      end = CutAfter(limit);
      if (top_p >= 1.0) return Worst();
    }
    double wanted = 0;
    for (size_t bin = 0; bin < end; ++bin) wanted += top_p * masses_[bin];
    double before = 0;
    size_t bin = 0;
    while (bin + 1 < end && before + masses_[bin] < wanted) before += masses_[bin++];
    if (before + masses_[bin] < wanted) {  // rounding kept the sum below: all stay
      return gathered_ == kBins ? SamplingBar() : Worst();
    }
    if (bin != gathered_) Gather(bin);
    CutAtMass(wanted - before);
    return Worst();
  }

 private:
  static constexpr size_t kBins = 512;
  static constexpr float kBinsPerNat = 16;

  // Of a better logit never a higher one.
  size_t BinOf(float logit) const {
    const float below = (race_.top - logit) / race_.temperature * kBinsPerNat;
    return below < static_cast<float>(kBins - 1) ? static_cast<size_t>(below) : kBins - 1;
  }
  bool IsBetter(int32_t a, int32_t b) const {
    const float x = race_.logits[static_cast<size_t>(a)];
    const float y = race_.logits[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  }

  void Gather(size_t bin) {
    gathered_ = bin;
    ids_.clear();
    for (size_t id = 0; id < race_.logits.size(); ++id) {
      if (BinOf(race_.logits[id]) == bin) ids_.push_back(static_cast<int32_t>(id));
    }
  }
  // Puts the `count` best of ids_ first, the worst of these last among them.
  void Select(std::vector<int32_t>::iterator begin, int64_t count,
              std::vector<int32_t>::iterator end) {
    std::nth_element(begin, begin + count - 1, end,
                     [this](int32_t a, int32_t b) { return IsBetter(a, b); });
  }
  double Mass(std::vector<int32_t>::iterator begin, std::vector<int32_t>::iterator end) const {
    double sum = 0;
    for (auto id = begin; id != end; ++id) sum += std::exp(race_.Score(*id));
    return sum;
  }

  // Leaves the `limit` best: the bin that the last of them is in is gathered and cut. Returns the
  // bin after it.
  size_t CutAfter(int64_t limit) {
    size_t bin = 0;
    while (counts_[bin] < limit) limit -= counts_[bin++];
    Gather(bin);
    Select(ids_.begin(), limit, ids_.end());
    ids_.resize(static_cast<size_t>(limit));
    counts_[bin] = limit;
    masses_[bin] = Mass(ids_.begin(), ids_.end());
    return bin + 1;
  }

  // Cuts ids_ after the one that brings their mass to `wanted`.
  void CutAtMass(double wanted) {
    auto begin = ids_.begin();  // all before are kept
    auto end = ids_.end();      // all from here on are cut
    double before = 0;
    while (end - begin > 1) {
      const int64_t half = (end - begin) / 2;
      Select(begin, half, end);
      const double upper = Mass(begin, begin + half);
      if (before + upper >= wanted) {
        end = begin + half;
      } else {
        before += upper;
        begin += half;
      }
    }
    ids_.erase(end, ids_.end());
  }

  SamplingBar Worst() const {
    const int32_t last = *std::max_element(ids_.begin(), ids_.end(),
                                           [this](int32_t a, int32_t b) { return IsBetter(a, b); });
    return {race_.logits[static_cast<size_t>(last)], last};
  }

  const SamplingRace& race_;
  std::array<int64_t, kBins> counts_{};
  std::array<double, kBins> masses_{};
  size_t gathered_ = kBins;   // the bin in ids_; kBins: none
  std::vector<int32_t> ids_;  // what is left of it
};

// The lowest logit that min_p keeps.
SamplingBar MinPBar(float top, const SamplingParams& params) {
  SamplingBar bar;
  if (params.min_p <= 0.0f) return bar;
  const double lowest =
      top + static_cast<double>(params.temperature) * std::log(static_cast<double>(params.min_p));
  if (lowest <= bar.value) return bar;
  bar.value = static_cast<float>(lowest);
  if (bar.value < lowest) bar.value = std::nextafter(bar.value, top);
  return bar;
}

}  // namespace

int32_t DrawToken(std::span<const float> logits, float top, const SamplingRow& row) {
  const SamplingParams& params = *row.params;
  const auto vocab = static_cast<int64_t>(logits.size());
  const int64_t limit = params.top_k > 0 ? std::min<int64_t>(params.top_k, vocab) : vocab;
  SamplingRace race{logits,      top,          params.temperature, MinPBar(top, params),
                    params.seed, row.position, params.choice};
  if (limit == vocab && params.top_p >= 1.0f) return RaceOfAll(race);

  // The few best are enough as a rule: they are sorted, and the rest of the row is not.
  for (int64_t few : {kFewTokens, kMoreTokens}) {
    few = std::min(few, limit);
    if (few < limit && limit < vocab) continue;  // the mass of a large top_k is not known here
    const std::span<const int32_t> order = TopKRow(logits, few);
    if (params.top_p >= 1.0f) return RaceOf(race, order);
    double mass = 0;
    if (few < limit) mass = SumExp(logits, top, params.temperature);
    for (size_t i = 0; few == limit && i < order.size(); ++i)
      mass += std::exp(race.Score(order[i]));
    int64_t kept = NucleusSize(race, order, mass, params.top_p);
    if (kept == 0 && few == limit) kept = few;  // rounding kept the sum below top_p: all stay
    if (kept > 0) return RaceOf(race, order.first(static_cast<size_t>(kept)));
  }
  const SamplingBar bar = BarSelection(race).Run(limit, params.top_p);
  if (bar.value >= race.bar.value) race.bar = bar;
  return RaceOfAll(race);
}

}  // namespace penstock::cpu
