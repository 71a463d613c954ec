#include "frontend/sampling_validator.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "frontend/prompt_validator.h"

namespace penstock {
namespace {

absl::Status Bad(const std::string& message) { return absl::InvalidArgumentError(message); }

absl::Status CheckRange(std::string_view field, float value, float min, float max) {
  // Negated, so that NaN fails too.
  if (!(value >= min && value <= max)) {
    return Bad(absl::StrCat(Abs(field), " is ", value, ": it must be ", min, " to ", max));
  }
  return absl::OkStatus();
}

absl::Status CheckCount(std::string_view field, size_t count, int64_t max, std::string_view flag) {
  if (static_cast<int64_t>(count) <= max) return absl::OkStatus();
  return Bad(absl::StrCat(Abs(field), " has ", count, " entries: this server takes at most ", max,
                          " (", Abs(flag), ")"));
}

// A stop text or bad word.
absl::Status CheckText(const std::string& field, const std::string& text,
                       const RequestLimits& limits) {
  if (text.empty()) return Bad(absl::StrCat(field, " is empty: leave it out"));
  if (static_cast<int64_t>(text.size()) > limits.max_stop_bytes) {
    return Bad(absl::StrCat(field, " has ", text.size(), " bytes: this server takes at most ",
                            limits.max_stop_bytes, " (--max-stop-bytes)"));
  }
  return CheckUtf8(field, text);
}

// How many alternatives are told; -1: absent.
absl::StatusOr<int32_t> Alternatives(std::string_view field, std::optional<int32_t> asked,
                                     const RequestLimits& limits) {
  if (!asked.has_value()) return -1;
  const int64_t max = std::min<int64_t>({limits.max_logprobs, kMaxLogprobs, limits.vocab_size});
  if (*asked < 0 || *asked > max) {
    return Bad(absl::StrCat(Abs(field), " is ", *asked, ": it must be 0 (the token itself) to ",
                            max, " (--max-logprobs) or absent"));
  }
  return *asked;
}

absl::Status SetNumbers(const ClientSampling& sampling, SamplingParams* params) {
  params->temperature = sampling.temperature.value_or(1.0f);
  if (!(params->temperature >= 0.0f && params->temperature <= kMaxTemperature)) {
    return Bad(absl::StrCat("temperature is ", params->temperature, ": it must be 0 (greedy) to ",
                            kMaxTemperature));
  }
  if (params->temperature < kGreedyTemperature) params->temperature = 0.0f;
  params->top_k = sampling.top_k.value_or(0);
  if (params->top_k < 0) {
    return Bad(absl::StrCat("top_k is ", params->top_k, ": it must be 0 (all tokens) or more"));
  }
  params->top_p = sampling.top_p.value_or(1.0f);
  if (!(params->top_p > 0.0f && params->top_p <= 1.0f)) {
    return Bad(absl::StrCat("top_p is ", params->top_p, ": it must be above 0 and at most 1"));
  }
  params->min_p = sampling.min_p.value_or(0.0f);
  PENSTOCK_RETURN_IF_ERROR(CheckRange("min_p", params->min_p, 0.0f, 1.0f));
  params->repetition_penalty = sampling.repetition_penalty.value_or(1.0f);
  PENSTOCK_RETURN_IF_ERROR(CheckRange("repetition_penalty", params->repetition_penalty,
                                      kMinRepetitionPenalty, kMaxRepetitionPenalty));
  params->presence_penalty = sampling.presence_penalty.value_or(0.0f);
  PENSTOCK_RETURN_IF_ERROR(
      CheckRange("presence_penalty", params->presence_penalty, -kMaxPenalty, kMaxPenalty));
  params->frequency_penalty = sampling.frequency_penalty.value_or(0.0f);
  PENSTOCK_RETURN_IF_ERROR(
      CheckRange("frequency_penalty", params->frequency_penalty, -kMaxPenalty, kMaxPenalty));
  params->min_p += 0.0f;  // -0 becomes 0
  return absl::OkStatus();
}

absl::Status SetLogitBias(const ClientSampling& sampling, const RequestLimits& limits,
                          SamplingParams* params) {
  PENSTOCK_RETURN_IF_ERROR(CheckCount("logit_bias", sampling.logit_bias.size(),
                                      limits.max_logit_bias, "--max-logit-bias"));
  for (const LogitBias& one : sampling.logit_bias) {
    if (one.token < 0 || one.token >= limits.vocab_size) {
      return Bad(absl::StrCat("logit_bias is of token id ", one.token, ": ids are 0 to ",
                              limits.vocab_size - 1));
    }
    PENSTOCK_RETURN_IF_ERROR(CheckRange(absl::StrCat("logit_bias of token id ", one.token),
                                        one.bias, -kMaxLogitBias, kMaxLogitBias));
  }
  params->logit_bias = sampling.logit_bias;
  std::sort(params->logit_bias.begin(), params->logit_bias.end(),
            [](const LogitBias& a, const LogitBias& b) { return a.token < b.token; });
  for (size_t i = 1; i < params->logit_bias.size(); ++i) {
    if (params->logit_bias[i].token == params->logit_bias[i - 1].token) {
      return Bad(absl::StrCat("logit_bias has token id ", params->logit_bias[i].token, " twice"));
    }
  }
  return absl::OkStatus();
}

absl::Status SetStopIds(const ClientSampling& sampling, const RequestLimits& limits,
                        const Tokenizer& tokenizer, SamplingParams* params) {
  PENSTOCK_RETURN_IF_ERROR(
      CheckCount("stop_ids", sampling.stop_ids.size(), limits.max_stop_ids, "--max-stop-ids"));
  PENSTOCK_RETURN_IF_ERROR(CheckTokenIds("stop_ids", sampling.stop_ids, limits));
  std::vector<int32_t>& ids = params->stop_ids;
  ids = sampling.stop_ids;
  if (!sampling.ignore_eos) {
    ids.insert(ids.end(), tokenizer.end_ids().begin(), tokenizer.end_ids().end());
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return absl::OkStatus();
}

bool EndsWith(const std::vector<int32_t>& ids, const std::vector<int32_t>& tail) {
  return ids.size() >= tail.size() && std::equal(tail.rbegin(), tail.rend(), ids.rbegin());
}

absl::Status SetBadWords(const ClientSampling& sampling, const RequestLimits& limits,
                         const Tokenizer& tokenizer, SamplingParams* params) {
  PENSTOCK_RETURN_IF_ERROR(
      CheckCount("bad_words", sampling.bad_words.size(), limits.max_bad_words, "--max-bad-words"));
  for (size_t i = 0; i < sampling.bad_words.size(); ++i) {
    const std::string field = absl::StrCat("bad_words[", i, "]");
    PENSTOCK_RETURN_IF_ERROR(CheckText(field, sampling.bad_words[i], limits));
    const std::string& text = sampling.bad_words[i];
    const std::string word = text.substr(std::min(text.find_first_not_of(' '), text.size()));
    const std::string spaced = " " + word;
    const TextPart alone{word, false};
    const TextPart within{spaced, false};
    PENSTOCK_ASSIGN_OR_RETURN(std::vector<int32_t> ids, tokenizer.EncodeParts({&alone, 1}, false));
    if (word.empty() || ids.empty()) {
      return Bad(absl::StrCat(field, " has no tokens in the model's vocabulary: leave it out"));
    }
    PENSTOCK_ASSIGN_OR_RETURN(std::vector<int32_t> more,
                              tokenizer.EncodeParts({&within, 1}, false));
    const bool covered = more.empty() || EndsWith(more, ids);
    params->bad_words.push_back(std::move(ids));
    if (!covered) params->bad_words.push_back(std::move(more));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SamplingParams> ValidateSampling(const ClientSampling& sampling,
                                                const RequestLimits& limits,
                                                const Tokenizer& tokenizer, uint64_t fresh_seed) {
  SamplingParams params;
  PENSTOCK_RETURN_IF_ERROR(SetNumbers(sampling, &params));
  PENSTOCK_ASSIGN_OR_RETURN(const int32_t logprobs,
                            Alternatives("logprobs", sampling.logprobs, limits));
  params.logprobs = std::max(logprobs, 0);
  PENSTOCK_ASSIGN_OR_RETURN(params.prompt_logprobs,
                            Alternatives("prompt_logprobs", sampling.prompt_logprobs, limits));
  params.min_tokens = sampling.min_tokens.value_or(0);
  if (params.min_tokens < 0) {
    return Bad(absl::StrCat("min_tokens is ", params.min_tokens, ": it must be 0 or more"));
  }
  PENSTOCK_RETURN_IF_ERROR(SetLogitBias(sampling, limits, &params));
  PENSTOCK_RETURN_IF_ERROR(SetStopIds(sampling, limits, tokenizer, &params));
  PENSTOCK_RETURN_IF_ERROR(SetBadWords(sampling, limits, tokenizer, &params));
  params.seed = sampling.seed.value_or(fresh_seed);
  return params;
}

absl::Status CheckStopTexts(const ClientSampling& sampling, const RequestLimits& limits) {
  PENSTOCK_RETURN_IF_ERROR(
      CheckCount("stop", sampling.stop.size(), limits.max_stop_texts, "--max-stop-texts"));
  for (size_t i = 0; i < sampling.stop.size(); ++i) {
    PENSTOCK_RETURN_IF_ERROR(CheckText(absl::StrCat("stop[", i, "]"), sampling.stop[i], limits));
  }
  return absl::OkStatus();
}

}  // namespace penstock
