#include "frontend/request_validator.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "core/base/utf8.h"

namespace penstock {
namespace {

absl::Status Bad(const std::string& message) { return absl::InvalidArgumentError(message); }

absl::StatusOr<std::vector<int32_t>> PromptIds(const ClientRequest& request,
                                               const RequestLimits& limits,
                                               const Tokenizer& tokenizer) {
  if (request.text.has_value() == request.token_ids.has_value()) {
    return Bad(request.text.has_value()
                   ? "the request holds a text and token ids: send one of them as the prompt"
                   : "the request has no prompt: send a text or token ids");
  }
  if (request.token_ids.has_value()) {
    const std::vector<int32_t>& ids = *request.token_ids;
    if (ids.empty()) return Bad("the prompt is empty: send at least one token id");
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] < 0 || ids[i] >= limits.vocab_size) {
        return Bad(absl::StrCat("token id ", ids[i], " at position ", i,
                                " of the prompt is not in the vocabulary: ids are 0 to ",
                                limits.vocab_size - 1));
      }
    }
    return ids;
  }
  if (request.text->empty()) return Bad("the prompt is empty: send at least one character");
  PENSTOCK_RETURN_IF_ERROR(CheckUtf8("the prompt", *request.text));
  PENSTOCK_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                            tokenizer.Encode(*request.text, request.parse_special));
  if (ids.empty()) {
    return Bad("the model's vocabulary has no token for any byte of the prompt: send another text");
  }
  return ids;
}

absl::StatusOr<SamplingParams> Sampling(const ClientRequest& request, uint64_t fresh_seed) {
  SamplingParams params;
  params.temperature = request.temperature.value_or(1.0f);
  // Negated, so that NaN fails too.
  if (!(params.temperature >= 0.0f && params.temperature <= kMaxTemperature)) {
    return Bad(absl::StrCat("temperature is ", params.temperature, ": it must be 0 (greedy) to ",
                            kMaxTemperature));
  }
  if (params.temperature < kGreedyTemperature) params.temperature = 0.0f;
  params.top_k = request.top_k.value_or(0);
  if (params.top_k < 0) {
    return Bad(absl::StrCat("top_k is ", params.top_k, ": it must be 0 (all tokens) or more"));
  }
  params.top_p = request.top_p.value_or(1.0f);
  if (!(params.top_p > 0.0f && params.top_p <= 1.0f)) {
    return Bad(absl::StrCat("top_p is ", params.top_p, ": it must be above 0 and at most 1"));
  }
  params.seed = request.seed.value_or(fresh_seed);
  const int32_t logprobs = request.logprobs.value_or(0);
  if (logprobs < 0) {
    return Bad(absl::StrCat("logprobs is ", logprobs,
                            ": it must be 0 (of each generated token) or absent"));
  }
  if (logprobs > 0) {
    return absl::UnimplementedError(
        absl::StrCat("logprobs is ", logprobs,
                     ": log-probabilities of other tokens are not supported yet; 0 gives those of "
                     "the generated ones"));
  }
  return params;
}

}  // namespace

absl::Status CheckUtf8(std::string_view field, std::string_view text) {
  const std::optional<int64_t> at = FindInvalidUtf8(text);
  if (!at.has_value()) return absl::OkStatus();
  return Bad(absl::StrFormat("%s is not valid UTF-8: byte %d (0x%02x) is no part of a character",
                             Abs(field), *at,
                             static_cast<unsigned char>(text[static_cast<size_t>(*at)])));
}

absl::StatusOr<GenerationRequest> ValidateRequest(const ClientRequest& request,
                                                  const RequestLimits& limits,
                                                  const Tokenizer& tokenizer, uint64_t fresh_seed) {
  if (!request.model.empty() && request.model != limits.model) {
    return absl::NotFoundError(absl::StrCat(
        "model \"", absl::CHexEscape(request.model.substr(0, 100)),
        "\" is not served here: leave the field empty or ask for \"", limits.model, "\""));
  }
  PENSTOCK_ASSIGN_OR_RETURN(const SamplingParams sampling, Sampling(request, fresh_seed));
  const int64_t max_tokens = request.max_tokens.value_or(limits.default_max_tokens);
  if (max_tokens < 1) {
    return Bad(absl::StrCat("max_tokens is ", max_tokens, ": it must be 1 or more"));
  }
  PENSTOCK_ASSIGN_OR_RETURN(std::vector<int32_t> prompt, PromptIds(request, limits, tokenizer));
  const auto length = static_cast<int64_t>(prompt.size());
  if (length >= limits.context_length) {
    return absl::OutOfRangeError(absl::StrCat(
        "the prompt has ", length, " tokens and the context ", limits.context_length,
        ", of which at least one is for the answer: send at most ", limits.context_length - 1));
  }
  GenerationRequest result;
  result.prompt = std::move(prompt);
  result.sampling = sampling;
  result.sampling.stop_ids = tokenizer.end_ids();
  result.max_tokens = std::min(max_tokens, limits.context_length - length);
  return result;
}

}  // namespace penstock
