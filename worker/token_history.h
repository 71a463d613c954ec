// TokenHistory: the tokens of one slot's sequence and how often its answer holds each, for the
// penalties of its sampler. A function of the admission and of what was sampled since, so a replay
// rebuilds it. Memory in proportion to the sequence. One thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "core/kernels/sampling.h"

namespace penstock {

class TokenHistory {
 public:
  TokenHistory() = default;
  // The first `prompt_tokens` of `tokens` are the prompt, the others the answer so far.
  // REQUIRES: 0 <= prompt_tokens <= tokens.size().
  TokenHistory(std::vector<int32_t> tokens, int64_t prompt_tokens);

  // One more token of the answer.
  void Append(int32_t token);

  std::span<const int32_t> tokens() const { return tokens_; }
  std::span<const TokenCount> counts() const { return counts_; }

 private:
  void Count(int32_t token, int32_t times);

  std::vector<int32_t> tokens_;
  std::vector<TokenCount> counts_;               // by first appearance
  absl::flat_hash_map<int32_t, size_t> places_;  // in counts_, by token
};

}  // namespace penstock
