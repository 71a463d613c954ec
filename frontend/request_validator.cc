#include "frontend/request_validator.h"

#include <algorithm>
#include <utility>

namespace penstock {
namespace {

absl::Status Bad(const std::string& message) { return absl::InvalidArgumentError(message); }

absl::StatusOr<int64_t> MaxTokens(const ClientSampling& sampling, const RequestLimits& limits) {
  const int64_t most = limits.max_new_tokens > 0 ? limits.max_new_tokens : INT64_MAX;
  const int64_t max_tokens =
      sampling.max_tokens.value_or(std::min(limits.default_max_tokens, most));
  if (max_tokens < 1) {
    return Bad(absl::StrCat("max_tokens is ", max_tokens, ": it must be 1 or more"));
  }
  if (max_tokens > most) {
    return Bad(absl::StrCat("max_tokens is ", max_tokens, ": this server generates at most ", most,
                            " (--max-new-tokens)"));
  }
  return max_tokens;
}

// Who asks, and how urgently.
absl::Status CheckSender(const ClientRequest& request, const RequestLimits& limits) {
  if (request.priority < -limits.max_priority || request.priority > limits.max_priority) {
    return Bad(absl::StrCat("priority is ", request.priority, ": it must be ", -limits.max_priority,
                            " to ", limits.max_priority, " (--max-priority)"));
  }
  if (static_cast<int64_t>(request.tenant.size()) > kMaxTenantBytes) {
    return Bad(absl::StrCat("tenant has ", request.tenant.size(), " bytes: send at most ",
                            kMaxTenantBytes));
  }
  return CheckUtf8("tenant", request.tenant);
}

}  // namespace

absl::StatusOr<CheckedRequest> ValidateRequest(const ClientRequest& request,
                                               const RequestLimits& limits,
                                               const Tokenizer& tokenizer,
                                               const absl::StatusOr<ChatTemplate>& chat_template,
                                               uint64_t fresh_seed) {
  const ClientSampling& sampling = request.sampling;
  PENSTOCK_RETURN_IF_ERROR(CheckModel(request.model, limits));
  PENSTOCK_RETURN_IF_ERROR(CheckSender(request, limits));
  CheckedRequest checked;
  checked.n = sampling.n.value_or(1);
  if (checked.n < 1 || checked.n > limits.max_n) {
    return Bad(absl::StrCat("n is ", checked.n, ": it must be 1 to ", limits.max_n, " (--max-n)"));
  }
  PENSTOCK_ASSIGN_OR_RETURN(const int64_t max_tokens, MaxTokens(sampling, limits));
  PENSTOCK_RETURN_IF_ERROR(CheckStopTexts(sampling, limits));
  GenerationRequest& generation = checked.generation;
  generation.priority = request.priority;
  generation.tenant = request.tenant;
  PENSTOCK_ASSIGN_OR_RETURN(generation.sampling,
                            ValidateSampling(sampling, limits, tokenizer, fresh_seed));
  if (generation.sampling.min_tokens > max_tokens) {
    return Bad(absl::StrCat("min_tokens is ", generation.sampling.min_tokens, " and max_tokens ",
                            max_tokens, ": it must not be more"));
  }
  PENSTOCK_ASSIGN_OR_RETURN(generation.prompt,
                            EncodePrompt(request.prompt, limits, tokenizer, chat_template));
  const auto length = static_cast<int64_t>(generation.prompt.size());
  if (length >= limits.context_length) {
    return absl::OutOfRangeError(absl::StrCat(
        "the prompt has ", length, " tokens and the context ", limits.context_length,
        ", of which at least one is for the answer: send at most ", limits.context_length - 1));
  }
  generation.max_tokens = std::min(max_tokens, limits.context_length - length);
  generation.sampling.min_tokens = std::min(generation.sampling.min_tokens, generation.max_tokens);
  checked.stop = sampling.stop;
  checked.include_stop = sampling.include_stop;
  checked.tell_logprobs = sampling.logprobs.has_value();
  return checked;
}

absl::Time RequestDeadline(absl::Time clients, absl::Time now, const RequestLimits& limits) {
  const absl::Time deadline =
      clients == absl::InfiniteFuture() ? now + limits.default_timeout : clients;
  return std::min(deadline, now + limits.max_timeout);
}

}  // namespace penstock
