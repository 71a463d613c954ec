// What a client asks for, whichever service it came by, and the settings that bound it. Plain
// values: nothing here has been checked (request_validator.h does that).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "core/base/sampling_params.h"
#include "core/tokenizer/chat_template.h"

namespace penstock {

// Exactly one of the optional ones.
struct ClientPrompt {
  std::optional<std::string> text;
  std::optional<std::vector<int32_t>> token_ids;
  std::optional<std::vector<ChatMessage>> chat;  // laid out by the model's template
  bool parse_special = false;  // names of control tokens in `text` become those tokens
};

// The fields of penstock.v1.SamplingParams, which says what they mean; absent ones take their
// defaults.
struct ClientSampling {
  std::optional<int64_t> max_tokens;
  std::optional<float> temperature;
  std::optional<int32_t> top_k;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  std::optional<float> presence_penalty;
  std::optional<float> frequency_penalty;
  std::vector<LogitBias> logit_bias;  // in any order
  std::vector<std::string> stop;
  std::vector<int32_t> stop_ids;
  bool include_stop = false;
  std::optional<int64_t> min_tokens;
  bool ignore_eos = false;
  std::optional<int32_t> n;
  std::optional<uint64_t> seed;
  std::optional<int32_t> logprobs;
  std::optional<int32_t> prompt_logprobs;
  std::vector<std::string> bad_words;
};

inline constexpr int64_t kMaxTenantBytes = 256;

struct ClientRequest {
  std::string model;  // empty: the one that is served
  ClientPrompt prompt;
  ClientSampling sampling;
  int32_t priority = 0;
  std::string tenant;
};

// What is served, and the settings that bound a request: all but the first three are flags of
// `penstock serve`.
struct RequestLimits {
  std::string model;
  int64_t vocab_size = 0;
  int64_t context_length = 0;  // tokens, prompt and answer together

  int64_t default_max_tokens = 256;
  int64_t max_new_tokens = 0;          // that a request may ask for; 0: what the context holds
  int64_t max_prompt_bytes = 1 << 20;  // of a prompt's text, all messages of a chat together
  int64_t max_chat_messages = 1024;
  int32_t max_n = 16;
  int32_t max_logprobs = 20;  // alternatives beside a token; kMaxLogprobs at most
  int64_t max_stop_texts = 16;
  int64_t max_stop_bytes = 256;  // of one stop text, and of one bad word
  int64_t max_stop_ids = 256;
  int64_t max_logit_bias = 1024;
  int64_t max_bad_words = 128;
  int32_t max_priority = 100;  // and at least its negative
  // Of a request without a deadline; of any request.
  absl::Duration default_timeout = absl::InfiniteDuration();
  absl::Duration max_timeout = absl::InfiniteDuration();
  // What may wait for a client that reads slowly, and for how long more may (slow_reader.h).
  int64_t max_stream_buffer_bytes = 2 << 20;
  absl::Duration slow_reader_timeout = absl::Seconds(30);
};

}  // namespace penstock
