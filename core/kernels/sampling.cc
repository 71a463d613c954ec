#include "core/kernels/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "core/base/check.h"
#include "core/kernels/philox.h"
#include "core/kernels/top_k.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

float Finite(float logit) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  return std::clamp(logit, -kLargest, kLargest);
}

// Steps 1 to 4 of the contract, on a copy of the row.
class LogitChange {
 public:
  LogitChange(const SamplingRow& how, std::vector<float>& logits) : how_(how), logits_(logits) {}

  // Whether any step changes the row.
  static bool IsNeeded(const SamplingRow& how) {
    return !how.params->logit_bias.empty() || how.params->needs_history() || MasksStops(how);
  }

  void Run() {
    for (const LogitBias& bias : how_.params->logit_bias) {
      At(bias.token) = Finite(At(bias.token) + bias.bias);
    }
    Penalize();
    if (MasksStops(how_)) {
      for (int32_t id : how_.params->stop_ids) At(id) = kMasked;
    }
    for (const std::vector<int32_t>& word : how_.params->bad_words) {
      if (IsBegun(word)) At(word.back()) = kMasked;
    }
  }

 private:
  static bool MasksStops(const SamplingRow& how) {
    return how.position - how.prompt_tokens < how.params->min_tokens &&
           !how.params->stop_ids.empty();
  }

  void Penalize() {
    const float repetition = how_.params->repetition_penalty;
    const float frequency = how_.params->frequency_penalty;
    const float presence = how_.params->presence_penalty;
    if (repetition == 1.0f && frequency == 0.0f && presence == 0.0f) return;
    for (const TokenCount& count : how_.counts) {
      float logit = At(count.token);
      if (repetition != 1.0f) {
        logit = Finite(logit < 0.0f ? logit * repetition : logit / repetition);
      }
      if (count.in_answer > 0) {
        logit = Finite(logit - Finite(frequency * static_cast<float>(count.in_answer)));
        logit = Finite(logit - presence);
      }
      At(count.token) = logit;
    }
  }

  // Whether the history ends with all of the word but its last token.
  bool IsBegun(const std::vector<int32_t>& word) const {
    const std::span<const int32_t> history = how_.history;
    const size_t prefix = word.size() - 1;
    return prefix <= history.size() &&
           std::equal(word.begin(), word.end() - 1, history.end() - static_cast<int64_t>(prefix));
  }

  float& At(int32_t token) { return logits_[static_cast<size_t>(token)]; }

  const SamplingRow& how_;
  std::vector<float>& logits_;
};

double GumbelOf(const SamplingRow& row, int32_t id) {
  const auto position = static_cast<uint64_t>(row.position);
  return Gumbel(
      Philox({static_cast<uint32_t>(id), static_cast<uint32_t>(position),
              static_cast<uint32_t>(position >> 32), static_cast<uint32_t>(row.params->choice)},
             row.params->seed)[0]);
}

// Steps 5, 8 and 9: the race of the Gumbel-max trick; ids may come in any order.
class GumbelRace {
 public:
  GumbelRace(std::span<const float> logits, float top, const SamplingRow& row)
      : logits_(logits),
        top_(top),
        temperature_(row.params->temperature),
        lowest_(row.params->min_p > 0.0f ? std::log(static_cast<double>(row.params->min_p))
                                         : std::numeric_limits<double>::lowest()),
        row_(row) {}

  void Enter(int32_t id) {
    const double score = Score(id);
    if (score < lowest_) return;  // a masked one too
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
    return (static_cast<double>(logits_[static_cast<size_t>(id)]) - top_) / temperature_;
  }
  int32_t winner() const { return winner_; }

 private:
  std::span<const float> logits_;
  double top_;
  double temperature_;
  double lowest_;
  const SamplingRow& row_;
  double best_ = -std::numeric_limits<double>::infinity();
  int32_t winner_ = std::numeric_limits<int32_t>::max();
};

// How many of `order` (best first) reach top_p of `mass`; none if they do not reach it.
int64_t NucleusSize(const GumbelRace& race, std::span<const int32_t> order, double mass,
                    double top_p) {
  double sum = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    sum += std::exp(race.Score(order[i]));
    if (sum >= top_p * mass) return static_cast<int64_t>(i) + 1;
  }
  return 0;
}

// Steps 5 to 9. `top` is the largest logit.
int32_t Draw(std::span<const float> logits, float top, const SamplingRow& row) {
  const auto vocab = static_cast<int64_t>(logits.size());
  const int64_t limit = row.params->top_k > 0 ? std::min<int64_t>(row.params->top_k, vocab) : vocab;
  GumbelRace race(logits, top, row);
  if (row.params->top_p >= 1.0f) {
    if (limit == vocab) {
      for (int32_t id = 0; id < vocab; ++id) race.Enter(id);
    } else {
      for (int32_t id : TopKRow(logits, limit)) race.Enter(id);
    }
    return race.winner();
  }
  double mass = 0;
  if (limit == vocab) {
    mass = SumExp(logits, top, row.params->temperature);
  } else {
    for (int32_t id : TopKRow(logits, limit)) mass += std::exp(race.Score(id));
  }
  // The nucleus is small as a rule: look for it in the best few before sorting more of the row.
  for (int64_t k = std::min<int64_t>(64, limit);; k = std::min(k * 8, limit)) {
    const std::span<const int32_t> order = TopKRow(logits, k);
    int64_t nucleus = NucleusSize(race, order, mass, row.params->top_p);
    if (nucleus == 0 && k < limit) continue;
    if (nucleus == 0) nucleus = k;  // rounding kept the sum below top_p: everything stays
    for (int64_t i = 0; i < nucleus; ++i) race.Enter(order[static_cast<size_t>(i)]);
    return race.winner();
  }
}

int32_t Choose(std::span<const float> logits, float top, const SamplingRow& how) {
  if (how.params->temperature > 0.0f) return Draw(logits, top, how);
  return static_cast<int32_t>(std::find(logits.begin(), logits.end(), top) - logits.begin());
}

// The token of a row whose largest logit is `top`; kNoToken if all are masked.
int32_t SampleRow(std::span<const float> row, float top, const SamplingRow& how) {
  if (how.params->needs_history()) {
    PENSTOCK_CHECK_EQ(static_cast<int64_t>(how.history.size()), how.position);
  }
  if (!LogitChange::IsNeeded(how)) return Choose(row, top, how);
  static thread_local std::vector<float> changed;  // grows once, to the vocabulary
  changed.assign(row.begin(), row.end());
  LogitChange(how, changed).Run();
  const float largest = *std::max_element(changed.begin(), changed.end());
  return largest == kMasked ? kNoToken : Choose(changed, largest, how);
}

}  // namespace

double LogSumExpReference(std::span<const float> row, float top) {
  double sum = 0;
  for (float logit : row) sum += std::exp(static_cast<double>(logit) - top);
  return top + std::log(sum);
}

double LogSumExp(std::span<const float> row, float top) {
  return top + std::log(SumExp(row, top, 1.0f));
}

void Sampling(ThreadPool& pool, const Tensor& logits, std::span<const SamplingRow> rows,
              const SamplingOutput& out) {
  const TensorWrapper<const float> in(logits);
  const TensorWrapper<int32_t> tokens(out.tokens);
  const TensorWrapper<float> logprobs(out.logprobs);
  std::optional<TensorWrapper<int32_t>> top_tokens;
  std::optional<TensorWrapper<float>> top_logprobs;
  int64_t columns = 0;
  if (!out.top_tokens.empty()) {
    top_tokens.emplace(out.top_tokens);
    top_logprobs.emplace(out.top_logprobs);
    PENSTOCK_CHECK(out.top_tokens.shape() == out.top_logprobs.shape());
    columns = out.top_tokens.dim(1);
  }
  const int64_t vocab = logits.dim(1);
  PENSTOCK_CHECK_EQ(logits.dim(0), static_cast<int64_t>(rows.size()));
  pool.ParallelFor(logits.dim(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const std::span<const float> row(in.row(r), static_cast<size_t>(vocab));
      const SamplingRow& how = rows[static_cast<size_t>(r)];
      tokens[r] = kNoToken;
      logprobs[r] = 0;
      const RowScan scan = ScanRow(row);
      if (!scan.finite) continue;
      const int32_t id = how.target != kNoToken ? how.target : SampleRow(row, scan.largest, how);
      if (id == kNoToken) continue;
      const double log_sum = LogSumExp(row, scan.largest);
      tokens[r] = id;
      logprobs[r] = static_cast<float>(row[static_cast<size_t>(id)] - log_sum);
      const int64_t count = std::min<int64_t>(how.top, vocab);
      PENSTOCK_CHECK_LE(count, columns);
      if (count <= 0) continue;
      const std::span<const int32_t> best = TopKRow(row, count);
      for (int64_t i = 0; i < count; ++i) {
        const int32_t token = best[static_cast<size_t>(i)];
        top_tokens->row(r)[i] = token;
        top_logprobs->row(r)[i] = static_cast<float>(row[static_cast<size_t>(token)] - log_sum);
      }
    }
  });
}

}  // namespace penstock::cpu
