// The JSON that the command line reads and writes. Pure functions, thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/sampling_params.h"
#include "core/base/status.h"

namespace penstock {

// One answer, as `generate` collects it.
struct Choice {
  std::vector<int32_t> ids;  // the end token included
  std::string text;          // without it
  std::string finish_reason;
  std::vector<float> logprobs;                          // one an id; natural log
  std::vector<std::vector<TokenLogprob>> top_logprobs;  // one an id, or none
  std::optional<std::string> stop_text;                 // what ended it, if it was one of these
  std::optional<int32_t> stop_id;
  std::string error;  // why it did not come to its end
};

// Of a token of the prompt.
struct PromptToken {
  TokenLogprob token;
  std::vector<TokenLogprob> top;
};

struct Generation {
  std::vector<int32_t> prompt_ids;
  std::vector<PromptToken> prompt_logprobs;  // from the second token on, if asked for
  std::vector<Choice> choices;               // at least one
};

// One line, without a line break. The fields of a single answer stand beside prompt_ids, several
// are under "choices". Fields that were not asked for are left out.
std::string GenerationToJson(const Generation& generation);
std::string IdsToJson(const std::vector<int32_t>& ids);

// Errors: INVALID_ARGUMENT for what is not exactly one JSON string.
absl::StatusOr<std::string> ParseJsonString(std::string_view line);

}  // namespace penstock
