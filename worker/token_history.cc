#include "worker/token_history.h"

#include <utility>

#include "core/base/check.h"

namespace penstock {

TokenHistory::TokenHistory(std::vector<int32_t> tokens, int64_t prompt_tokens)
    : tokens_(std::move(tokens)) {
  PENSTOCK_CHECK(prompt_tokens >= 0 && prompt_tokens <= static_cast<int64_t>(tokens_.size()));
  const auto prompt = static_cast<size_t>(prompt_tokens);
  for (size_t i = 0; i < tokens_.size(); ++i) Count(tokens_[i], i < prompt ? 0 : 1);
}

void TokenHistory::Append(int32_t token) {
  tokens_.push_back(token);
  Count(token, 1);
}

void TokenHistory::Count(int32_t token, int32_t times) {
  const auto [found, is_new] = places_.emplace(token, counts_.size());
  if (is_new) counts_.push_back({token, 0});
  counts_[found->second].in_answer += times;
}

}  // namespace penstock
