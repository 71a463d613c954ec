// The JSON that the command line reads and writes. Pure functions, thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace penstock {

// One whole answer, as `generate` collects it.
struct Generation {
  std::vector<int32_t> prompt_ids;
  std::vector<int32_t> ids;  // the end token included
  std::string text;          // without it
  std::string finish_reason;
  std::vector<float> logprobs;  // one an id; natural log
};

// One line, without a line break.
std::string GenerationToJson(const Generation& generation);
std::string IdsToJson(const std::vector<int32_t>& ids);

// Errors: INVALID_ARGUMENT for what is not exactly one JSON string.
absl::StatusOr<std::string> ParseJsonString(std::string_view line);

}  // namespace penstock
