// The one check of a client's request, whatever service it came by: what passes is a request that
// the engine may trust. Pure functions, thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "core/base/status.h"
#include "core/tokenizer/tokenizer.h"
#include "frontend/client_request.h"
#include "frontend/engine_types.h"
#include "frontend/prompt_validator.h"
#include "frontend/sampling_validator.h"

namespace penstock {

// What the engine is told, and what the call's handler makes of the answer.
struct CheckedRequest {
  GenerationRequest generation;   // of choice 0
  int32_t n = 1;                  // choices
  std::vector<std::string> stop;  // none empty
  bool include_stop = false;
  bool tell_logprobs = false;
};

// The request with its prompt as ids and every default filled in. max_tokens is cut to what the
// context leaves, and min_tokens to max_tokens. `fresh_seed` is used if the client gave none. The
// deadline is left to the caller.
// Errors: INVALID_ARGUMENT (a bad field, an empty prompt, broken UTF-8), OUT_OF_RANGE (the prompt
// does not fit into the context), NOT_FOUND (another model), FAILED_PRECONDITION (a chat, and
// `chat_template` says why there is none).
absl::StatusOr<CheckedRequest> ValidateRequest(const ClientRequest& request,
                                               const RequestLimits& limits,
                                               const Tokenizer& tokenizer,
                                               const absl::StatusOr<ChatTemplate>& chat_template,
                                               uint64_t fresh_seed);

// Until when a request may take that came in at `now`; InfiniteFuture for a client's deadline: it
// has set none.
absl::Time RequestDeadline(absl::Time clients, absl::Time now, const RequestLimits& limits);

}  // namespace penstock
