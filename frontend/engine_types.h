// What enters and leaves the engine, whatever service asked for it. Plain values.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "core/base/sampling_params.h"
#include "core/base/status.h"
#include "core/sched/step_plan.h"

namespace penstock {

using RequestId = int64_t;

// One validated request: the engine trusts every field.
struct GenerationRequest {
  std::vector<int32_t> prompt;  // not empty, shorter than the context
  SamplingParams sampling;
  int64_t max_tokens = 0;  // > 0; prompt + max_tokens fits in the context
  absl::Time deadline = absl::InfiniteFuture();
  int32_t priority = 0;  // higher ones first
  std::string tenant;    // for whom: tokens are shared out fairly between tenants, and a prompt's
                         // cached blocks are found by their tenant only
};

struct GeneratedToken {
  int32_t id = 0;
  float logprob = 0;              // natural log, of the model's own distribution
  std::vector<TokenLogprob> top;  // the likeliest tokens at its place, best first, if asked for
};

enum class FinishReason { kStop, kLength, kAbort, kError };

// Receives one request's answer. All calls come from the engine thread, in order; none may block
// or call back into the engine loop.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  // The prompt's log-probabilities, if asked for: by position, before the first OnTokens.
  virtual void OnPrompt(std::span<const PromptLogprob> logprobs) = 0;
  virtual void OnTokens(std::span<const GeneratedToken> tokens) = 0;
  // Exactly once, last. OK with kStop or kLength; otherwise why there is no more: CANCELLED with
  // kAbort, DEADLINE_EXCEEDED, UNAVAILABLE or INTERNAL with kError.
  virtual void OnFinish(FinishReason reason, const absl::Status& status) = 0;
};

}  // namespace penstock
