// The sampler in float64, written for reading: the distribution that one row of logits and its
// parameters name, step by step as core/kernels/sampling.h says.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <vector>

#include "core/base/philox.h"
#include "core/base/sampling_params.h"
#include "core/kernels/sampling.h"

namespace penstock::testing {

// A sequence to sample from, with its counts.
struct SequenceState {
  std::vector<int32_t> history;
  int64_t prompt_tokens = 0;
  std::vector<TokenCount> counts;

  SequenceState() = default;
  SequenceState(std::vector<int32_t> prompt, const std::vector<int32_t>& answer)
      : history(std::move(prompt)) {
    prompt_tokens = static_cast<int64_t>(history.size());
    std::map<int32_t, int32_t> in_answer;
    for (int32_t token : history) in_answer[token] = 0;
    for (int32_t token : answer) ++in_answer[token];
    for (const auto& [token, count] : in_answer) counts.push_back({token, count});
    history.insert(history.end(), answer.begin(), answer.end());
  }
  int64_t position() const { return static_cast<int64_t>(history.size()); }
  SamplingRow Row(const SamplingParams& params) const {
    SamplingRow row;
    row.params = &params;
    row.position = position();
    row.prompt_tokens = prompt_tokens;
    row.history = history;
    row.counts = counts;
    return row;
  }
};

class SamplingReference {
 public:
  SamplingReference(const std::vector<float>& logits, const SamplingParams& params,
                    const SequenceState& state)
      : params_(params), state_(state), logits_(logits.begin(), logits.end()) {
    Change();
    Keep();
  }

  // By id; 0 for what is cut or masked. Of a greedy row the one token has it all.
  const std::vector<double>& probabilities() const { return probabilities_; }
  // The token that the counter-based generator picks; kNoToken if all are masked.
  int32_t Token() const {
    int32_t best = kNoToken;
    double best_total = 0;
    for (size_t id = 0; id < probabilities_.size(); ++id) {
      if (probabilities_[id] == 0) continue;
      const auto position = static_cast<uint64_t>(state_.position());
      const PhiloxWords words =
          Philox({static_cast<uint32_t>(id), static_cast<uint32_t>(position),
                  static_cast<uint32_t>(position >> 32), static_cast<uint32_t>(params_.choice)},
                 params_.seed);
      const double total = std::log(probabilities_[id]) + Gumbel(words[0]);
      if (best == kNoToken || total > best_total) {
        best = static_cast<int32_t>(id);
        best_total = total;
      }
    }
    return best;
  }

 private:
  void Change() {
    for (const LogitBias& bias : params_.logit_bias) logits_[bias.token] += bias.bias;
    for (size_t id = 0; id < logits_.size(); ++id) {
      const auto token = static_cast<int32_t>(id);
      const auto prompt_end = state_.history.begin() + state_.prompt_tokens;
      const auto in_answer = std::count(prompt_end, state_.history.end(), token);
      const auto in_all = std::count(state_.history.begin(), state_.history.end(), token);
      const double repetition = params_.repetition_penalty;
      if (in_all > 0) logits_[id] *= logits_[id] < 0 ? repetition : 1 / repetition;
      logits_[id] -= static_cast<double>(in_answer) * params_.frequency_penalty;
      if (in_answer > 0) logits_[id] -= params_.presence_penalty;
    }
    if (state_.position() - state_.prompt_tokens < params_.min_tokens) {
      for (int32_t id : params_.stop_ids) logits_[id] = -INFINITY;
    }
    for (const std::vector<int32_t>& word : params_.bad_words) {
      std::vector<int32_t> end = state_.history;
      end.push_back(word.back());
      const size_t skip = end.size() - std::min(end.size(), word.size());
      if (std::vector<int32_t>(end.begin() + static_cast<int64_t>(skip), end.end()) == word) {
        logits_[word.back()] = -INFINITY;
      }
    }
  }

  void Keep() {
    probabilities_.assign(logits_.size(), 0.0);
    std::vector<size_t> order;
    for (size_t id = 0; id < logits_.size(); ++id) {
      if (logits_[id] != -INFINITY) order.push_back(id);
    }
    if (order.empty()) return;
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return logits_[a] > logits_[b]; });
    if (params_.temperature == 0) {
      probabilities_[order[0]] = 1;
      return;
    }
    if (params_.top_k > 0) {
      order.resize(std::min(order.size(), static_cast<size_t>(params_.top_k)));
    }
    std::vector<double> weights;  // by place in the order
    double mass = 0;
    for (size_t id : order) {
      weights.push_back(std::exp((logits_[id] - logits_[order[0]]) / params_.temperature));
      mass += weights.back();
    }
    double before = 0;
    double kept = 0;
    for (size_t i = 0; i < order.size(); ++i) {
      const bool in_nucleus = params_.top_p >= 1 || before < params_.top_p * mass;
      before += weights[i];
      if (!in_nucleus || weights[i] < params_.min_p) continue;
      probabilities_[order[i]] = weights[i];
      kept += weights[i];
    }
    for (double& probability : probabilities_) probability /= kept;
  }

  const SamplingParams& params_;
  const SequenceState& state_;
  std::vector<double> logits_;
  std::vector<double> probabilities_;
};

}  // namespace penstock::testing
