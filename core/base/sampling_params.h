// How one request's tokens are chosen. Plain values; made and checked by the request validator.
#pragma once

#include <cstdint>
#include <vector>

namespace penstock {

struct LogitBias {
  int32_t token = 0;
  float bias = 0;
};

// The most that logprobs and prompt_logprobs may ask for.
inline constexpr int32_t kMaxLogprobs = 100;

// In place of a token: there are no numbers to choose one by.
inline constexpr int32_t kNoToken = -1;
// In place of a token: it was sampled for nothing, its sequence had ended before.
inline constexpr int32_t kVoidToken = -2;

struct SamplingParams {
  float temperature = 1.0f;  // 0: greedy, the most likely token, the lowest id among equals
  int32_t top_k = 0;         // keep the k most likely tokens; 0: all
  float top_p = 1.0f;        // keep the most likely tokens that together reach p; 1: all
  float min_p = 0.0f;        // keep tokens at least min_p times as likely as the likeliest; 0: all
  // Of tokens in the prompt or the answer: a positive logit is divided by it, a negative one
  // multiplied; 1: none.
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;      // taken off the logit of each token of the answer
  float frequency_penalty = 0.0f;     // the same for each time the token is there
  std::vector<LogitBias> logit_bias;  // added to logits; sorted by token, each once
  std::vector<int32_t> stop_ids;  // a sampled one is the sequence's last token; sorted, each once
  int64_t min_tokens = 0;         // no stop id is sampled before that many tokens
  // Token sequences that are never completed in the answer, wherever they begin; none empty.
  std::vector<std::vector<int32_t>> bad_words;
  int32_t logprobs = 0;  // how many of the likeliest tokens are told beside each sampled one
  int32_t prompt_logprobs = -1;  // the same for each token of the prompt; -1: nothing is told
  uint64_t seed = 0;   // of the counter-based generator; set at admission if the user set none
  int32_t choice = 0;  // which of the request's n answers this is

  // Whether sampling depends on the tokens that were before, not on the logits alone.
  bool needs_history() const {
    return repetition_penalty != 1.0f || presence_penalty != 0.0f || frequency_penalty != 0.0f ||
           !bad_words.empty();
  }
};

// A token of the vocabulary and its log-probability: natural log, of the model's own
// distribution, before temperature, penalties and truncation.
struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;

  friend bool operator==(const TokenLogprob& a, const TokenLogprob& b) {
    return a.token == b.token && a.logprob == b.logprob;
  }
};

}  // namespace penstock
