#include "core/kernels/sampling_draw.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "core/kernels/philox.h"
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

// The bar of the `limit` best and of the nucleus of these, by selection: a large nucleus, or a
// large top_k, need not be sorted.
SamplingBar SelectBar(const SamplingRace& race, int64_t limit, double top_p) {
  static thread_local std::vector<int32_t> ids;  // grows once, to the vocabulary
  ids.resize(race.logits.size());
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
  const auto better = [&race](int32_t a, int32_t b) {
    const float x = race.logits[static_cast<size_t>(a)];
    const float y = race.logits[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  };
  const auto mass = [&race](auto begin, auto end) {
    double sum = 0;
    for (auto id = begin; id != end; ++id) sum += std::exp(race.Score(*id));
    return sum;
  };
  auto begin = ids.begin();
  auto end = ids.begin() + limit;
  std::nth_element(begin, end - 1, ids.end(), better);
  const double wanted = top_p * mass(begin, end);
  double before = 0;  // mass of those before `begin`, all of them kept
  while (top_p < 1.0 && end - begin > 1) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, better);
    const double upper = mass(begin, middle);
    if (before + upper >= wanted) {
      end = middle;
    } else {
      before += upper;
      begin = middle;
    }
  }
  const int32_t last = *(end - 1);
  return {race.logits[static_cast<size_t>(last)], last};
}

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
  const SamplingBar bar = SelectBar(race, limit, params.top_p);
  if (bar.value >= race.bar.value) race.bar = bar;
  return RaceOfAll(race);
}

}  // namespace penstock::cpu
