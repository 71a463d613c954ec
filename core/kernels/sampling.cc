#include "core/kernels/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "core/base/check.h"
#include "core/kernels/sampling_draw.h"
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

int32_t Choose(std::span<const float> logits, float top, const SamplingRow& how) {
  if (how.params->temperature > 0.0f) return DrawToken(logits, top, how);
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
