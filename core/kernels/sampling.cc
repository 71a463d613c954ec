#include "core/kernels/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/check.h"
#include "core/kernels/philox.h"
#include "core/kernels/top_k.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {
namespace {

double GumbelOf(const SamplingRow& row, int32_t id) {
  const auto position = static_cast<uint64_t>(row.position);
  return Gumbel(
      Philox({static_cast<uint32_t>(id), static_cast<uint32_t>(position),
              static_cast<uint32_t>(position >> 32), static_cast<uint32_t>(row.params.choice)},
             row.params.seed)[0]);
}

// The race of the Gumbel-max trick; ids may come in any order.
class GumbelRace {
 public:
  GumbelRace(std::span<const float> logits, float top, const SamplingRow& row)
      : logits_(logits), top_(top), row_(row) {}

  void Enter(int32_t id) {
    const double score = Score(id);
    // Not even the largest variate could win: no need to draw it.
    if (score + kGumbelMax < best_) return;
    const double total = score + GumbelOf(row_, id);
    if (total > best_ || (total == best_ && id < winner_)) {
      best_ = total;
      winner_ = id;
    }
  }
  // Of an id, relative to the best one's.
  double Score(int32_t id) const {
    return (static_cast<double>(logits_[static_cast<size_t>(id)]) - top_) / row_.params.temperature;
  }
  int32_t winner() const { return winner_; }

 private:
  std::span<const float> logits_;
  double top_;
  const SamplingRow& row_;
  double best_ = -std::numeric_limits<double>::infinity();
  int32_t winner_ = std::numeric_limits<int32_t>::max();
};

// How many of `order` (largest first) reach top_p of `mass`; none if they do not reach it.
int64_t NucleusSize(const GumbelRace& race, std::span<const int32_t> order, double mass,
                    double top_p) {
  double sum = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    sum += std::exp(race.Score(order[i]));
    if (sum >= top_p * mass) return static_cast<int64_t>(i) + 1;
  }
  return 0;
}

int32_t Draw(std::span<const float> logits, float top, const SamplingRow& row) {
  const auto vocab = static_cast<int64_t>(logits.size());
  const int64_t limit = row.params.top_k > 0 ? std::min<int64_t>(row.params.top_k, vocab) : vocab;
  GumbelRace race(logits, top, row);
  if (row.params.top_p >= 1.0f) {
    if (limit == vocab) {
      for (int32_t id = 0; id < vocab; ++id) race.Enter(id);
    } else {
      for (int32_t id : TopKRow(logits, limit)) race.Enter(id);
    }
    return race.winner();
  }
  // The nucleus is small as a rule: look for it in the best few before sorting more of the row.
  double mass = 0;
  if (limit == vocab) {
    for (int32_t id = 0; id < vocab; ++id) mass += std::exp(race.Score(id));
  } else {
    for (int32_t id : TopKRow(logits, limit)) mass += std::exp(race.Score(id));
  }
  for (int64_t k = std::min<int64_t>(64, limit);; k = std::min(k * 8, limit)) {
    const std::span<const int32_t> order = TopKRow(logits, k);
    int64_t nucleus = NucleusSize(race, order, mass, row.params.top_p);
    if (nucleus == 0 && k < limit) continue;
    if (nucleus == 0) nucleus = k;  // rounding kept the sum below top_p: everything stays
    for (int64_t i = 0; i < nucleus; ++i) race.Enter(order[static_cast<size_t>(i)]);
    return race.winner();
  }
}

}  // namespace

double LogSumExpReference(std::span<const float> row, float top) {
  double sum = 0;
  for (float logit : row) sum += std::exp(static_cast<double>(logit) - top);
  return top + std::log(sum);
}

void Sampling(ThreadPool& pool, const Tensor& logits, std::span<const SamplingRow> rows,
              const Tensor& tokens, const Tensor& logprobs) {
  const TensorWrapper<const float> in(logits);
  const TensorWrapper<int32_t> token(tokens);
  const TensorWrapper<float> logprob(logprobs);
  PENSTOCK_CHECK_EQ(logits.dim(0), static_cast<int64_t>(rows.size()));
  pool.ParallelFor(logits.dim(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const std::span<const float> row(in.row(r), static_cast<size_t>(logits.dim(1)));
      const SamplingRow& how = rows[static_cast<size_t>(r)];
      const auto best = std::max_element(row.begin(), row.end());
      const int32_t id = how.params.temperature == 0.0f ? static_cast<int32_t>(best - row.begin())
                                                        : Draw(row, *best, how);
      token[r] = id;
      logprob[r] = static_cast<float>(row[static_cast<size_t>(id)] - LogSumExp(row, *best));
    }
  });
}

}  // namespace penstock::cpu
